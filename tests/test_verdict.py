"""`judge`: whether evidence may judge a gate at all, and what the whole is of its checks."""

from __future__ import annotations

from itertools import permutations

import pytest
from builders import evidence, pretrain_run, steps_series
from hypothesis import given
from hypothesis import strategies as st
from loading import RUN, gate, gates_of

from pytest_gates.checks.base import Verdict
from pytest_gates.contract.models import Gate
from pytest_gates.evidence import Evidence
from pytest_gates.verdict import judge

NAN = float("nan")
FINITE = "{kind: finite, metrics: [train_loss]}"
FALLS = "{kind: bounded, metric: train_loss, below: 6}"
ENDS = "{kind: exit_status}"


def the_gate(*checks: str, runs: str = RUN, **keys: str) -> Gate:
    text = gate(checks[0], **keys)
    return gates_of(text + "".join(f"      - {check}\n" for check in checks[1:]), runs)["G"]


def execution(
    one: Gate, losses: list[float] | None = None, run: str = "base", **other: object
) -> Evidence:
    losses = [5.0] * 100 if losses is None else losses
    return evidence(one.runs[run], steps=steps_series(train_loss=losses), **other)  # type: ignore[arg-type]


def test_the_verdict_is_the_worst_of_the_checks_and_the_first_of_that_kind_decides() -> None:
    one = the_gate(ENDS, FINITE, FALLS)
    passed = judge(one, {"base": (execution(one),)})
    assert passed.verdict is Verdict.PASS
    assert len(passed.outcomes) == 3
    failed = judge(one, {"base": (execution(one, [5.0] * 99 + [7.0]),)})
    assert [outcome.verdict for outcome in failed.outcomes] == [
        Verdict.PASS,
        Verdict.PASS,
        Verdict.FAIL,
    ]
    assert failed.verdict is Verdict.FAIL
    assert failed.deciding is failed.outcomes[2]
    unsure = judge(one, {"base": (execution(one, [5.0] * 40, status="KILLED"),)})
    # exit_status has seen KILLED and fails; the others saw too little to decide.
    assert [str(outcome.verdict) for outcome in unsure.outcomes] == [
        "fail",
        "inconclusive",
        "inconclusive",
    ]
    assert unsure.verdict is Verdict.FAIL


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1))
def test_worst_is_the_same_in_any_order_and_a_pass_needs_passes_alone(many: list[Verdict]) -> None:
    worst = Verdict.worst(many)
    assert worst in many
    assert worst is Verdict.worst(many[::-1])
    assert (worst is Verdict.PASS) == (set(many) == {Verdict.PASS})


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seq_len": 512}, "evidence has seq_len 512, the gate declares 64"),
        ({"device": "cpu"}, "evidence has device cpu, the gate declares cuda:0"),
        ({"seed": 1}, "evidence has seed 1, the gate declares 0"),
    ],
)
def test_evidence_of_another_run_never_judges_and_the_difference_is_spelled_out(
    changed: dict[str, object], difference: str
) -> None:
    one = the_gate(FINITE)
    other = one.runs["base"].model_copy(update=changed)
    judgement = judge(one, {"base": (evidence(other, steps=steps_series(train_loss=[5.0] * 100)),)})
    assert judgement.verdict is Verdict.BLOCKED
    assert judgement.reason == f"run base: {difference}"
    assert judgement.outcomes == ()


def test_several_differences_are_said_at_once_and_the_rest_is_counted() -> None:
    one = the_gate(FINITE)
    assert judge(one, {"base": (evidence(pretrain_run()),)}).reason == (
        "run base: evidence has model llama-370m, the gate declares llama-1m; evidence has "
        "data.tokenizer bpe-50257, the gate declares bytes; evidence has seq_len 512, the gate "
        "declares 64; and 1 more"
    )


def test_requirements_beyond_the_run_are_of_the_gates_own_run() -> None:
    one = the_gate(FINITE, requires="{seq_len: 2048, batch_size: 1}")
    judgement = judge(one, {"base": (execution(one),)})
    assert judgement.verdict is Verdict.BLOCKED
    assert judgement.reason == (
        "run base: evidence has seq_len 64, the gate declares 2048; "
        "evidence has batch_size 2, the gate declares 1"
    )
    met = the_gate(FINITE, requires="{seq_len: 64}")
    assert judge(met, {"base": (execution(met),)}).verdict is Verdict.PASS


def test_too_few_executions_are_blocked_and_more_than_needed_are_fine() -> None:
    one = the_gate("{kind: equal_runs, of: {run: base, repeat: 2}}")
    first, second = (execution(one, id=str(number) * 64) for number in (1, 2))
    for there, many in ((0, ()), (1, (first,))):
        judgement = judge(one, {"base": many})
        assert judgement.verdict is Verdict.BLOCKED
        assert judgement.reason == f"run base has {there} of 2 executions as evidence"
    assert judge(one, {}).verdict is Verdict.BLOCKED
    assert judge(one, {"base": (first, second)}).verdict is Verdict.PASS
    # An execution is no second one of itself.
    assert judge(one, {"base": (first, first)}).verdict is Verdict.INCONCLUSIVE


def test_every_execution_of_the_gates_own_run_is_judged_and_the_worst_counts() -> None:
    one = the_gate(FINITE, "{kind: equal_runs, of: {run: base, repeat: 2}, expect: differ}")
    good = execution(one, [5.0] * 100, id="1" * 64)
    bad = execution(one, [4.0] * 99 + [NAN], id="2" * 64)
    for order in permutations((good, bad)):
        judgement = judge(one, {"base": order})
        assert judgement.verdict is Verdict.FAIL
        assert judgement.outcomes[0].verdict is Verdict.FAIL


def test_the_order_of_runs_changes_nothing() -> None:
    runs = RUN + "  other: {from: base, seed: 1}\n"
    one = the_gate("{kind: equal_runs, of: [base, other], expect: differ}", runs=runs)
    sides = {
        "base": (execution(one, id="1" * 64),),
        "other": (execution(one, [4.0] * 100, "other", id="2" * 64),),
    }
    forwards = judge(one, sides)
    backwards = judge(one, dict(reversed(sides.items())))
    assert forwards == backwards
    assert forwards.verdict is Verdict.PASS


def test_the_fault_that_was_injected_is_nothing_to_the_judge() -> None:
    one = the_gate(FINITE)
    clean = judge(one, {"base": (execution(one),)})
    sabotaged = judge(one, {"base": (execution(one, fault={"fault": "slow_step", "ms": 1}),)})
    assert clean == sabotaged


def test_an_early_end_is_told_with_every_verdict() -> None:
    one = the_gate("{kind: bounded, metric: train_loss, below: 6, steps: [0, 9]}")
    aborted = judge(one, {"base": (execution(one, [5.0] * 20, status="ABORTED"),)})
    assert (aborted.verdict, aborted.reason) == (Verdict.PASS, "run base ended ABORTED")
    completed = judge(one, {"base": (execution(one),)})
    assert (completed.verdict, completed.reason) == (Verdict.PASS, "")


def test_a_gate_of_prose_has_nothing_to_judge() -> None:
    one = gates_of("gates:\n  - {id: G, rule: somebody looked, verdict: pass}\n")["G"]
    judgement = judge(one, {})
    assert (judgement.verdict, judgement.reason) == (Verdict.BLOCKED, "nothing executable")
    assert judgement.deciding is None
