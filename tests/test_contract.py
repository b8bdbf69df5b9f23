"""Loading contracts: what is declared, what inherits from what, and what is refused where."""

from __future__ import annotations

from pathlib import Path

import pytest
from loading import RUN, gate, gates_of, loaded, refused
from project import Project

from pytest_gates.checks.base import Verdict
from pytest_gates.contract.load import CHECK_KINDS, load_contract
from pytest_gates.contract.runs import Caps
from pytest_gates.contract.words import FIELD_VOCABULARY
from pytest_gates.errors import ContractError, Place
from pytest_gates.model.config import ForwardRun, PretrainRun, ProbeRun, RecordedRun
from pytest_gates.model.faults import FAULTS
from pytest_gates.model.telemetry import METRICS

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


# --- what is refused ---------------------------------------------------------------------------

BUDGET = "{kind: budget, metric: wall_ms, steps: [20, 99], below: 60}"


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("budget", "14:9: a check needs a `kind`; known: budget, descent, "),
        ("{metric: wall_ms}", "14:9: a check needs a `kind`; known: "),
        ("{kind: budgets}", "14:16: unknown check `budgets`; did you mean `budget`?"),
        ("{kind: budget}", "14:9: `metric`, `steps` are missing"),
        (
            BUDGET.replace("steps", "step"),
            "14:41: unknown key `step`; did you mean `steps`?",
        ),
        (
            BUDGET.replace("wall_ms", "zzz"),
            f"14:32: `metric`: unregistered metric 'zzz'; there are {len(METRICS)}, listed",
        ),
        (
            BUDGET.replace("wall_ms", "wall"),
            "14:32: `metric`: unregistered metric 'wall'; did you mean `wall_ms`?",
        ),
        (
            BUDGET.replace("99", "199"),
            "14:53: budget: window [20, 199] is longer than the run: its 100 steps are 0 to 99",
        ),
        (
            BUDGET.replace("[20, 99]", "3"),
            (
                "14:48: `steps`: expected a window [first, last] of two steps, both included; "
                "found `3`"
            ),
        ),
        (
            BUDGET.replace("[20, 99]", "[99, 20]"),
            "14:48: `steps`: the window's first step 99 lies after its last 20",
        ),
        (
            BUDGET.replace("[20, 99]", "[20, 49], statistic: p95"),
            (
                "14:48: budget: p95 at confidence 0.95 needs 101 steps (1.7 times the bare 59); "
                "the window has 30"
            ),
        ),
        (
            BUDGET.replace("60", "{NVIDIA H20: 60}"),
            (
                "14:78: budget: unknown GPU 'NVIDIA H20'; did you mean `NVIDIA H200`? "
                "(a new one gets a row in the contract's `gpus:`)"
            ),
        ),
        (BUDGET.replace("60", "60 ms"), "14:65: `below`: expected a number; found `60 ms`"),
        (BUDGET.replace("60", "'60'"), "14:65: `below`: expected a number; found the text `60`"),
        (BUDGET.replace("60", ".nan"), "14:65: `below`: NaN is no limit: "),
        (BUDGET.replace("60", "NaN"), "14:65: `below`: NaN is no limit: "),
        (BUDGET.replace("60", "{NVIDIA H200: .nan}"), "14:65: `below`: NVIDIA H200: NaN is no "),
        (BUDGET.replace("60", ".inf"), "14:65: `below`: an infinite limit limits nothing"),
        (
            BUDGET.replace("60", "1e-5"),
            "14:65: `1e-5` is a string in YAML 1.1; write 1.0e-5 for the number, or quote it",
        ),
        (
            BUDGET.replace("60", "010"),
            "14:65: `010` is octal in YAML 1.1 and means 8; write 8, or quote it",
        ),
        (BUDGET.replace(", below: 60", ""), "14:9: give either below or above"),
        (
            BUDGET.replace("below", "statistic: mean, below"),
            "14:69: `statistic`: expected 'median', 'p90', 'p95' or 'p99'; found `mean`",
        ),
        (
            "{kind: equal_runs, of: [base, bsae]}",
            "14:32: there is no run `bsae`; did you mean `base`?",
        ),
        (
            "{kind: equal_runs, of: base}",
            "14:32: `of`: expected {run: a, repeat: 2}, or two runs by name: [a, b]; found `base`",
        ),
        (
            "{kind: exit_status, expect: COMPLETE}",
            "14:37: `expect`: unknown exit status 'COMPLETE'; did you mean `COMPLETED`?",
        ),
    ],
)
def test_a_check_that_cannot_be_is_refused_at_its_place(check: str, told: str) -> None:
    (said,) = refused(gate(check))
    assert said.startswith(told)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps", "stpes", "9:5: unknown key `stpes`; did you mean `steps`?"),
        ("corpus", "corpsu", "6:12: unknown key `corpsu`; did you mean `corpus`?"),
        ("pretrain", "pretain", "3:13: unknown driver `pretain`; did you mean `pretrain`?"),
        ("driver: pretrain", "seed: 3", "3:5: `driver` is missing; known: pretrain, forward, "),
        ("driver:", "drvier:", "3:5: unknown key `drvier`; did you mean `driver`?"),
        ("pretrain", "[pretrain]", "3:13: `driver` must be a name; known: pretrain, forward, "),
        ("pretrain", "no", "3:13: `driver` must be a name; known: pretrain, forward, probe, "),
        ("cuda:0", "cuda:16", "4:13: `device`: expected cpu, cuda, cuda:0 to cuda:15, or auto; "),
        (
            "cuda:0",
            '"cuda\\n"',
            (
                "4:13: `device`: expected cpu, cuda, cuda:0 to cuda:15, or auto; "
                'found the text "cuda\\n"'
            ),
        ),
        ("{corpus: python-stdlib}", "python-stdlib", "6:11: `data`: expected a mapping; found "),
        ("{corpus: python-stdlib}", "{}", "6:11: `data`: give either corpus or shards"),
        (
            "llama-1m",
            "{hidden: 16, layers: 1}",
            "5:12: `heads`, `kv_heads`, `intermediate`, `vocab` are missing",
        ),
        (
            "llama-1m",
            "{hidden: 15, layers: 1, heads: 2, kv_heads: 1, intermediate: 24, vocab: 256}",
            "5:12: `model`: hidden 15 is not divisible by heads 2",
        ),
        ("llama-1m", "[a]", "5:12: `model`: expected text or a mapping"),
        (
            "python-stdlib",
            "python-stdlib, tokenizer: bpe-500",
            "6:46: tokenizer bpe-500 has 500 ids, the model's vocabulary only 256",
        ),
        ("100", "1.5", "9:12: `steps`: expected a whole number; found `1.5`"),
        ("100", "'100'", "9:12: `steps`: expected a whole number; found the text `100`"),
        ("100", "", "9:11: `steps`: expected a whole number; found nothing"),
        (
            "100",
            "1000000000",
            (
                "9:12: 1000000000 steps exceed the cap of 100000; "
                "raise `gates_max_steps` in pytest's configuration"
            ),
        ),
        ("seq_len: 64", "seq_len: 100000000", "8:17: 200000000 tokens a step exceed the cap of "),
        (
            "steps: 100",
            "steps: 100\n    stimulus: {kind: kil, step: 3}",
            "10:22: unknown kind `kil`; did you mean `kill`?",
        ),
        ("steps: 100", "steps: 100\n    stimulus: {step: 3}", "10:15: `kind` is missing"),
        (
            "steps: 100",
            "steps: 100\n    host: {cuda: no}",
            (
                "10:18: `cuda`: expected 'any', 'hidden' or 'visible'; found `no` "
                "(`no` is the boolean false in YAML 1.1"
            ),
        ),
        (
            "steps: 100",
            "steps: 100\n    optimizer: {lr: abc}",
            "10:21: `lr`: expected a number; found `abc`",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_at_its_place(old: str, new: str, told: str) -> None:
    (said,) = refused("", RUN.replace(old, new))
    assert said.startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gate:\n  - {id: G}\n", "10:1: unknown key `gate`; did you mean `gates`?"),
        (
            "falsification_test: []\n",
            "10:1: unknown key `falsification_test`; did you mean `falsification_tests`?",
        ),
        ("gates: {G: 1}\n", "10:8: `gates` must be a list"),
        ("gates: [G]\n", "10:9: each of `gates` must be a mapping"),
        ("gpus: [H200]\n", "10:7: `gpus` must be a mapping of names"),
        ("gpus:\n  X: {bf16_tflops: 5}\n", "11:6: `source` is missing"),
        (
            "gpus:\n  X: {bf16_tflops: .nan, source: s}\n",
            "11:20: `bf16_tflops`: expected a number greater than 0; found `.nan`",
        ),
        (
            "gates:\n  - id: G\n    chekcs: []\n",
            "12:5: unknown key `chekcs`; did you mean `checks`?",
        ),
        ("gates:\n  - id: G\n    verdcit: pass\n", "12:5: unknown key `verdcit`; did you mean "),
        (
            "gates:\n  - id: G\n    rnu: base\n    checks: [{kind: exit_status}]\n",
            "12:5: unknown key `rnu`; did you mean `run`?",
        ),
        (
            "gates:\n  - id: G\n    run: base\n    checks: [{kidn: exit_status}]\n",
            "13:15: unknown key `kidn`; did you mean `kind`?",
        ),
        (
            gate("{kind: descent}", requires="{seqlen: 64}"),
            "13:16: unknown key `seqlen`; did you mean `seq_len`?",
        ),
        (
            gate("{kind: descent}", requires="{colour: red}"),
            "13:16: unknown key `colour`; no run has such a setting",
        ),
        ("gates:\n  - id: G\n    run: base\n", "12:10: a gate with a `run` or `requires` needs "),
        ("gates:\n  - id: G\n    checks: []\n", "12:13: `checks` must be a list of at least one"),
        ("gates:\n  - id: G\n    ship_blocking: soon\n", "12:20: `ship_blocking` is true or false"),
        ("gates:\n  - id: G\n    waiver: later\n", "12:13: expected a mapping; found `later`"),
        (
            "gates:\n  - id: G\n    waiver: {reason: r, owner: o, until: soon}\n",
            "12:42: `until`: expected a date, YYYY-MM-DD; found `soon`",
        ),
        (
            "gates:\n  - id: G\n  - id: H\n  - id: G\n",
            "13:9: duplicate id `G`; it stands in line 11 ",
        ),
        ("falsification_tests:\n  - id: F\n  - id: F\n", "12:9: duplicate id `F`"),
        ("gates: [{id: G}]\nfalsification_tests: [{id: G}]\n", "11:28: duplicate id `G`"),
        (
            "gates:\n  - id: G\n    run: bsae\n    checks: [{kind: exit_status}]\n",
            "12:10: there is no run `bsae`; did you mean `base`?",
        ),
        (
            "gates:\n  - id: G\n    checks: [{kind: finite, metrics: [train_loss]}]\n",
            "12:14: finite: the gate names no `run` for it",
        ),
        (
            "gates:\n  - run: base\n    checks: [{kind: finite, metrics: [train_loss]}]\n",
            "11:5: an executable gate needs an `id`",
        ),
    ],
)
def test_what_stands_around_the_checks_is_refused_at_its_place(text: str, told: str) -> None:
    (said,) = refused(text)
    assert said.startswith(told)


FINITE = gate(FINITE_CHECK) + "  - id: P\n"
FALSIFIER = (
    "falsification_tests:\n  - id: F\n    binds_to: G\n    inject: {fault: slow_step, ms: 3}\n"
    "    expect: {check: finite}\n"
)


def test_the_falsifier_that_the_refusals_are_made_of_is_a_good_one() -> None:
    assert refused(FINITE + FALSIFIER) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("binds_to: G", "binds_to: GG", "18:15: there is no gate `GG`; known: G, P"),
        ("binds_to: G", "binds_to: P", "18:15: gate `P` has no checks to turn red"),
        ("slow_step", "slow_stp", "19:21: unknown fault `slow_stp`; did you mean `slow_step`?"),
        ("slow_step", "x", f"19:21: unknown fault `x`; there are {len(FAULTS)}, listed in docs/"),
        ("ms: 3", "mss: 3", "19:32: unknown key `mss`; did you mean `ms`?"),
        ("ms: 3", "ms: 3, from_step: 200", "19:21: the fault cannot apply: from_step 200 lies "),
        ("check: finite", "check: budget", "20:21: the gate has no check `budget`; known: finite"),
        ("check: finite", "check: finite, verdict: pass", "20:38: `verdict`: expected 'fail', "),
        ("expect: {check: finite}", "shorten: 3", "20:14: "),
        ("binds_to", "bind_to", "18:5: unknown key `bind_to`; did you mean `binds_to`?"),
    ],
)
def test_a_falsifier_that_cannot_be_is_refused_at_its_place(old: str, new: str, told: str) -> None:
    said = refused(FINITE + FALSIFIER.replace(old, new))
    assert any(line.startswith(told) for line in said), said


def test_words_of_the_field_that_nearly_spell_an_executable_key_are_prose() -> None:
    for level in ("", "gates:\n  - id: G\n", "falsification_tests:\n  - id: F\n"):
        indent = "    " if level else ""
        said = refused(level + "".join(f"{indent}{word}: x\n" for word in sorted(FIELD_VOCABULARY)))
        assert said == []


def test_all_errors_of_a_file_come_at_once_sorted_by_place_and_each_once() -> None:
    runs = RUN.replace("steps: 100", "steps: -1") + "  c: {from: base, seed: -1}\n  d: {from: e}\n"
    text = """
        gates:
          - id: G
            run: base
            checks: [{kind: finit}, {kind: budget, metric: wall, steps: 3}]
            chekcs: []
          - id: G
            ship_blocking: 7
        """
    said = refused(text, runs)
    places = [tuple(map(int, line.split(": ")[0].split(":"))) for line in said]
    assert places == [(9, 12), (10, 25), (11, 13), (15, 21), (15, 52), (15, 65), (16, 5), (17, 9),
                      (18, 20)]  # fmt: skip
    assert len(set(said)) == len(said)


def test_caps_are_what_the_configuration_says() -> None:
    assert refused("", RUN, Caps(steps=99)) == [
        "9:12: 100 steps exceed the cap of 99; raise `gates_max_steps` in pytest's configuration"
    ]
    (said,) = refused("", RUN, Caps(parameters=1000))
    assert said.startswith("5:12: ")
    assert "gates_max_parameters" in said
    (said,) = refused("", RUN, Caps(step_tokens=127))
    assert "gates_max_step_tokens" in said


def test_a_contract_is_a_mapping_in_a_file_that_is_there(tmp_path: Path) -> None:
    assert refused("- a\n", "") == ["1:1: a contract is a mapping"]
    assert refused("", "") == ["1:1: empty; expected the keys of a contract"]
    with pytest.raises(ContractError, match="no such file"):
        load_contract(tmp_path / "c.yaml", "c.yaml", Caps())


# --- through pytest ----------------------------------------------------------------------------


def test_pytest_shows_every_error_of_every_contract_and_runs_nothing(project: Project) -> None:
    project.contract("gates:\n  - {id: A, chekcs: []}\n  - {id: A}\n", "a.yaml")
    project.contract("gates:\n  - {id: B, runn: x}\n", "b.yaml")
    project.contract("gates:\n  - {id: C, rule: fine}\n", "c.yaml")
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    text = result.stdout.str()
    for line in (
        "contracts/a.yaml:2:13: unknown key `chekcs`; did you mean `checks`?",
        "contracts/a.yaml:3:10: duplicate id `A`; it stands in line 2 already",
        "contracts/b.yaml:2:13: unknown key `runn`; did you mean `run`?",
    ):
        assert line in text
    assert "Traceback" not in text
    # pytest's own way past it: the contracts that are right are judged.
    result = project.run("--continue-on-collection-errors")
    result.assert_outcomes(skipped=1, errors=2)


def test_one_gate_declared_in_two_files_is_refused_for_records_could_not_tell_them_apart(
    project: Project,
) -> None:
    text = "contract_id: C\nruns: {p: {driver: probe}}\ngates:\n" + gate(
        "{kind: fact, fact: cuda_devices, at_least: 0}"
    ).replace("base", "p").removeprefix("gates:\n")
    project.contract(text, "a.yaml")
    project.contract(text, "b.yaml")
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["contracts/b.yaml:4:5: `G` of contract `C` is declared in contracts/a.yaml:4 already*"]
    )
