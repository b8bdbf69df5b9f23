"""Loading contracts: what is declared, and what inherits from what."""

from __future__ import annotations

import pytest
from loading import RUN, gate, gates_of, loaded, refused

from pytest_gates.checks.base import Verdict
from pytest_gates.contract.load import CHECK_KINDS
from pytest_gates.errors import Place
from pytest_gates.model.config import ForwardRun, PretrainRun, ProbeRun, RecordedRun

# --- what is declared ------------------------------------------------------------------------


def test_everything_a_contract_can_declare_is_in_the_model() -> None:
    contract = loaded(
        """
        contract_id: C-ALL
        gpus:
          NVIDIA X1: {bf16_tflops: 500, source: its datasheet}
        gates:
          - id: GATE-A
            rule: >
              Folded
              text.
            run: base
            requires: {seq_len: 64}
            checks:
              - {kind: budget, metric: wall_ms, steps: [20, 99], below: {NVIDIA X1: 60}}
              - {kind: equal_runs, of: {run: base, repeat: 3}}
            ship_blocking: true
            waiver: {reason: known, owner: ada, until: 2027-01-01}
            if_fails: too slow
            discharge_status: PENDING
            verdict: fail
        falsification_tests:
          - id: FALSIFY-A
            rule: a slow step
            binds_to: GATE-A
            inject: {fault: slow_step, ms: 600}
            expect: {verdict: fail, check: budget}
            if_fails: it is blind
        """
    )
    one = contract.gates[0]
    assert contract.id == "C-ALL"
    assert (one.id, one.place, one.rule) == ("GATE-A", Place("c.yaml", 14, 5), "Folded text.")
    assert [type(check) for check in one.checks] == [
        CHECK_KINDS["budget"],
        CHECK_KINDS["equal_runs"],
    ]
    assert (one.run, dict(one.repeats), one.requires) == ("base", {"base": 3}, {"seq_len": 64})
    assert one.gpus == {"NVIDIA X1": 500.0}
    assert one.ship_blocking
    assert one.waiver is not None
    assert (one.waiver.owner, one.waiver.until) == ("ada", "2027-01-01")
    assert (one.if_fails, one.discharge_status, one.prior) == ("too slow", "PENDING", Verdict.FAIL)
    falsifier = contract.falsifiers[0]
    assert falsifier.gate is not None
    assert falsifier.expect is not None
    assert (falsifier.binds_to, falsifier.expect.check) == ("GATE-A", "budget")
    assert falsifier.gate.runs == one.runs


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ("{driver: probe, properties: [{name: device_grammar}]}", ProbeRun),
        ("{driver: forward, device: auto, model: llama-1m, prompt: x}", ForwardRun),
        ("{driver: recorded, files: [{path: a.jsonl, format: jsonl}]}", RecordedRun),
        (
            (
                "{driver: pretrain, device: cpu, model: llama-1m, data: {shards: [a.bin]}, "
                "seq_len: 8, batch_size: 1, steps: 20, stimulus: {kind: kill, step: 3}, "
                "host: {cuda: hidden}}"
            ),
            PretrainRun,
        ),
        (
            (
                "{driver: pretrain, device: cpu, data: {corpus: python-stdlib}, seq_len: 8, "
                "batch_size: 1, steps: 20, model: {hidden: 16, layers: 1, heads: 2, kv_heads: 1, "
                "intermediate: 24, vocab: 256}}"
            ),
            PretrainRun,
        ),
    ],
)
def test_every_driver_has_its_own_settings(settings: str, model: type) -> None:
    run = loaded("", f"runs:\n  one: {settings}\n").runs["one"]
    assert type(run) is model


def test_gates_and_falsifiers_come_in_the_order_of_the_file() -> None:
    text = """
        falsification_tests:
          - {id: F-1}
          - {id: F-2}
        gates:
          - {id: G-1}
          - {id: G-2}
        """
    assert [item.id for item in loaded(text).items] == ["F-1", "F-2", "G-1", "G-2"]


def test_a_gate_over_several_runs_names_each_once_with_its_repetitions() -> None:
    runs = RUN + "  other: {from: base, seed: 1}\n"
    text = """
        gates:
          - id: G
            checks:
              - {kind: equal_runs, of: {run: base, repeat: 3}}
              - {kind: equal_runs, of: [base, other], expect: differ}
        """
    one = gates_of(text, runs)["G"]
    assert one.run is None
    assert dict(one.repeats) == {"base": 3, "other": 1}
    assert set(one.runs) == {"base", "other"}


def test_what_decides_a_verdict_is_in_the_gates_hash_and_nothing_else() -> None:
    check = "{kind: finite, metrics: [train_loss]}"
    plain = gates_of(gate(check))["G"].hash
    for keys in ({"rule": "x"}, {"verdict": "pass"}, {"if_fails": "y"}, {"ship_blocking": "true"}):
        assert gates_of(gate(check, **keys))["G"].hash == plain
    assert gates_of(gate(check, requires="{seq_len: 64}"))["G"].hash != plain
    assert gates_of(gate(check), RUN.replace("steps: 100", "steps: 99"))["G"].hash != plain
    assert gates_of(gate(check.replace("train_loss", "grad_norm")))["G"].hash != plain
    # A default spelt out is the same declaration.
    assert gates_of(gate(check), RUN + "    seed: 0\n")["G"].hash == plain


FINITE_CHECK = "{kind: finite, metrics: [train_loss]}"
OWN_WORDS = ["active", "PASS", "Pass", "passed", "failed", "proven", "open", "", "~"]


@pytest.mark.parametrize("word", OWN_WORDS)
def test_a_word_that_is_no_verdict_is_kept_and_read_as_pending(word: str) -> None:
    for text in (f"gates:\n  - id: G\n    verdict: {word}\n", gate(FINITE_CHECK, verdict=word)):
        one = gates_of(text)["G"]
        assert one.prior is Verdict.PENDING
        assert one.claimed == word


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("passs", "pass"), ("pas", "pass"), ("psas", "pass"), ("oass", "pass"), ("xpass", "pass"),
        ("Fial", "fail"), ("fails", "fail"), ("pendng", "pending"), ("'blockd'", "blocked"),
        ("inconclusiv", "inconclusive"),
    ],
)  # fmt: skip
def test_a_slip_in_the_verdict_of_an_executable_gate_is_an_error(word: str, meant: str) -> None:
    told = f"13:14: `{word.strip(chr(39))}` is no verdict; did you mean `{meant}`?"
    assert refused(gate(FINITE_CHECK, verdict=word)) == [told]
    prose = gates_of(f"gates:\n  - id: G\n    verdict: {word}\n")["G"]
    assert prose.prior is Verdict.PENDING


def test_prose_needs_no_ids_and_no_particular_keys() -> None:
    contract = loaded("gates:\n  - rule: x\n  - rule: y\nfalsification_tests:\n  - {title: z}\n")
    assert [item.id for item in contract.items] == [
        "gates[0]",
        "gates[1]",
        "falsification_tests[0]",
    ]
    assert all(item.prose for item in contract.items)


def test_a_verdict_basis_in_prose_stays_readable_and_is_none_of_ours() -> None:
    text = """
        gates:
          - {id: A, verdict_basis: seen by Ada}
          - {id: B, verdict_basis: [seen by Ada]}
          - {id: C, verdict_basis: [{record: abc, verdict: pass}]}
        """
    assert [len(one.basis) for one in gates_of(text).values()] == [0, 0, 1]


def test_the_contracts_id_is_what_it_says_else_its_metadatas_else_the_files_name() -> None:
    assert loaded("contract_id: C-1\nmetadata: {id: C-2}\n").id == "C-1"
    assert loaded("metadata: {id: C-2}\n").id == "C-2"
    assert loaded("").id == "c"


# --- inheritance -------------------------------------------------------------------------------


def test_blocks_are_merged_key_by_key_and_everything_else_is_replaced() -> None:
    runs = RUN + (
        "    optimizer: {lr: 0.5, warmup_steps: 3}\n"
        "  child: {from: base, steps: 50, optimizer: {lr: 0.25}}\n"
        "  grandchild: {from: child, device: cpu, optimizer: {eps: 0.125}}\n"
    )
    typed = loaded("", runs).runs
    base, child, grandchild = typed["base"], typed["child"], typed["grandchild"]
    assert isinstance(base, PretrainRun)
    assert isinstance(child, PretrainRun)
    assert isinstance(grandchild, PretrainRun)
    assert (base.steps, child.steps, grandchild.steps) == (100, 50, 50)
    assert (child.device, grandchild.device) == ("cuda:0", "cpu")
    optimizer = grandchild.optimizer
    assert (optimizer.lr, optimizer.eps, optimizer.warmup_steps) == (0.25, 0.125, 3)


def test_a_block_of_another_kind_is_replaced_and_null_takes_one_away() -> None:
    runs = RUN + (
        "    stimulus: {kind: kill, step: 5}\n"
        "  later: {from: base, stimulus: {step: 9}}\n"
        "  poisoned: {from: base, stimulus: {kind: nan, step: 7}}\n"
        "  calm: {from: base, stimulus: null}\n"
    )
    found = {
        name: run.stimulus.model_dump(exclude_defaults=True) if run.stimulus else None
        for name, run in loaded("", runs).runs.items()
        if isinstance(run, PretrainRun)
    }
    assert found == {
        "base": {"kind": "kill", "step": 5},
        "later": {"kind": "kill", "step": 9},
        "poisoned": {"kind": "nan", "step": 7},
        "calm": None,
    }


def test_a_run_may_inherit_from_one_that_stands_below_it() -> None:
    runs = RUN.replace("runs:\n", "runs:\n  early: {from: base, seed: 7}\n")
    early = loaded("", runs).runs["early"]
    assert isinstance(early, PretrainRun)
    assert early.seed == 7


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (
            "  c: {from: bsae}\n",
            ["10:13: run `c` inherits from `bsae`, which is not there; did you mean `base`?"],
        ),
        ("  c: {from: [base]}\n", ["10:13: `from` is the name of one run"]),
        ("  c: {from: c}\n", ["10:13: runs inherit in a circle: c -> c"]),
        (
            "  c: {from: d}\n  d: {from: c}\n  e: {from: d}\n",
            ["10:13: runs inherit in a circle: c -> d -> c"],
        ),
        (
            "  c: {from: base, driver: forward}\n",
            ["10:27: a run keeps the driver of the run it inherits from: `pretrain`"],
        ),
        ("  c: 3\n  d: {from: c}\n", ["10:6: run `c` must be a mapping"]),
    ],
)
def test_inheritance_that_cannot_be_is_refused_once(added: str, told: list[str]) -> None:
    assert refused("", RUN + added) == told


def test_an_error_is_placed_where_the_value_stands_be_it_in_the_parent() -> None:
    runs = RUN + (
        "    optimizer: {lr: -1, warmup_steps: 1}\n"
        "  c: {from: base, optimizer: {eps: 1.0}}\n"
        "  d: {from: c, seed: -1}\n"
    )
    assert refused("", runs) == [
        "10:21: `lr`: expected a number greater than 0; found `-1`",
        "12:22: `seed`: expected a number greater than or equal to 0; found `-1`",
    ]


def test_a_child_may_mend_what_its_parent_lacks_but_the_parent_stays_wrong() -> None:
    runs = RUN.replace("steps: 100", "steps: 5") + (
        "  c: {from: base, optimizer: {warmup_steps: 1}}\n"
    )
    (told,) = refused("", runs)
    assert told.startswith("9:12: warm-up of 10 steps is longer than the run of 5")
