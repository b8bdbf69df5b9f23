"""Loading contracts: what is refused, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from loading import RUN, gate, refused
from project import Project

from pytest_gates.contract.load import load_contract
from pytest_gates.contract.runs import Caps
from pytest_gates.contract.words import FIELD_VOCABULARY
from pytest_gates.errors import ContractError
from pytest_gates.model.faults import FAULTS
from pytest_gates.model.telemetry import METRICS

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
            "steps: 100\n    stimulus: {kind: kill, step: 100}",
            "10:34: step 100 lies beyond the run's 100 steps",
        ),
        ("steps: 100", "steps: 100\n    micro_batches: 3", "10:20: batch_size 2 does not divide"),
        ("steps: 100", "steps: 100\n    anatomy: 101", "10:14: anatomy of 101 steps is longer"),
        (
            "steps: 100",
            "steps: 100\n    validation_batches: 0\n    checkpoint: epoch",
            "11:17: checkpoint needs validations; validation_batches is 0",
        ),
        ("steps: 100", "steps: 100\n    validate_every: 9\n    epochs: 9", "11:13: 9 epochs of 9"),
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


FINITE = gate("{kind: finite, metrics: [train_loss]}") + "  - id: P\n"
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
