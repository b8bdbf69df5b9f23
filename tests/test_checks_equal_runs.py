import math
from collections.abc import Sequence
from typing import Any

import pytest
from builders import evidence, pretrain_run, steps_series
from pydantic import ValidationError

from pytest_gates.checks import CHECKS
from pytest_gates.checks.base import Need, Outcome, Verdict
from pytest_gates.checks.equal_runs import EqualRuns
from pytest_gates.evidence import Evidence

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
LOSSES = (11.0, 10.5, 10.25)


def equal_runs(**said: Any) -> EqualRuns:
    settings = {"kind": "equal_runs", "of": {"run": "strict", "repeat": 2}}
    return EqualRuns.model_validate(settings | said)


def said(id: str, values: Sequence[float | None] = LOSSES, **other: Any) -> Evidence:  # noqa: A002
    settings: dict[str, Any] = {"status": "ABORTED"}
    return evidence(steps=steps_series(train_loss=values), id=id, **(settings | other))


def compared(a: Evidence, b: Evidence, **check: Any) -> Outcome:
    return equal_runs(**check).evaluate({"strict": (a, b)})


def test_equal_bits_pass_and_the_first_difference_is_shown() -> None:
    assert compared(said("a"), said("b")).verdict is PASS
    ulp = math.nextafter(10.5, 11)
    outcome = compared(said("a"), said("b", (11.0, ulp, 9.0)))
    assert outcome.verdict is FAIL
    assert "2 values differ" in outcome.summary
    assert "strict#0 and strict#1: train_loss at step 1, 10.5 and 10.500000000000002" in (
        outcome.summary
    )


def test_zero_has_a_sign() -> None:
    assert compared(said("a", (0.0,)), said("b", (-0.0,))).verdict is FAIL
    assert compared(said("a", (0.0,)), said("b", (-0.0,)), tolerance=1e-9).verdict is PASS


def test_tolerance_admits_what_it_says() -> None:
    near, far = (11.0, 10.5, 10.25 + 2**-10), (11.0, 10.5, 10.25 + 2**-9)
    assert compared(said("a"), said("b", near), tolerance=2**-10).verdict is PASS
    assert compared(said("a"), said("b", far), tolerance=2**-10).verdict is FAIL


def test_infinity_equals_itself_and_nan_nothing() -> None:
    infinite, odd = (11.0, math.inf), (11.0, math.nan)
    assert compared(said("a", infinite), said("b", infinite), tolerance=1).verdict is PASS
    assert compared(said("a", odd), said("b", odd)).verdict is FAIL
    assert compared(said("a", odd), said("b", odd), tolerance=1).verdict is FAIL
    differ = compared(said("a", odd), said("b", odd), expect="differ")
    assert differ.verdict is INCONCLUSIVE


def test_an_execution_is_not_compared_with_itself() -> None:
    outcome = compared(said("a"), said("a"))
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.summary == "an execution is compared with itself"


def test_missing_executions_block() -> None:
    assert equal_runs().evaluate({"strict": (said("a"),)}).verdict is Verdict.BLOCKED
    assert equal_runs().evaluate({}).verdict is Verdict.BLOCKED


def test_two_runs_that_should_differ() -> None:
    check = equal_runs(of=("strict", "other"), expect="differ")
    same = {"strict": (said("a"),), "other": (said("b"),)}
    outcome = check.evaluate(same)
    assert outcome.verdict is FAIL
    assert "all values equal" in outcome.summary
    other = said("b", (11.0, 10.5, 10.0))
    assert check.evaluate(same | {"other": (other,)}).verdict is PASS


def test_of_three_every_two_are_compared() -> None:
    check = equal_runs(of={"run": "strict", "repeat": 3})
    runs = (said("a"), said("b"), said("c", (11.0, 10.5, 10.0)))
    outcome = check.evaluate({"strict": runs})
    assert outcome.verdict is FAIL
    assert [line.split(":")[0] for line in outcome.detail] == [
        "strict#0 and strict#2",
        "strict#1 and strict#2",
    ]
    differ = equal_runs(of={"run": "strict", "repeat": 3}, expect="differ")
    assert differ.evaluate({"strict": runs}).verdict is FAIL


def test_gaps_are_never_equal() -> None:
    gap = compared(said("a", (11.0, None)), said("b", (11.0, None)))
    assert gap.verdict is INCONCLUSIVE
    killed = compared(said("a"), said("b", status="KILLED"))
    assert killed.verdict is INCONCLUSIVE
    assert compared(said("a"), said("b"), metrics=["lr"]).verdict is INCONCLUSIVE
    longer = compared(said("a"), said("b", (*LOSSES, 10.0)))
    assert longer.verdict is FAIL
    assert "3 and 4 values" in longer.summary
    window = compared(said("a"), said("b", (*LOSSES, 10.0)), steps=(0, 2))
    assert window.verdict is PASS


def test_facts_are_compared_with_their_types() -> None:
    check = {"metrics": [], "facts": ["param_sha256"]}
    one, other = {"param_sha256": "a" * 64}, {"param_sha256": "b" * 64}
    assert compared(said("a", facts=one), said("b", facts=one), **check).verdict is PASS
    outcome = compared(said("a", facts=one), said("b", facts=other), **check)
    assert outcome.verdict is FAIL
    assert "fact param_sha256" in outcome.summary
    assert compared(said("a", facts=one), said("b"), **check).verdict is INCONCLUSIVE
    typed = compared(
        said("a", facts={"param_sha256": 1}), said("b", facts={"param_sha256": True}), **check
    )
    assert typed.verdict is FAIL


def test_needs_and_refusals() -> None:
    assert equal_runs().needs() == (Need("strict", 2),)
    assert equal_runs(of=("a", "b")).needs() == (Need("a"), Need("b"))
    check = equal_runs(steps=(0, 100))
    refused = check.refusals(None, runs={"strict": pretrain_run()})
    assert [path for path, _ in refused] == [("steps", 1)]
    assert list(equal_runs(steps=(0, 99)).refusals(None, runs={"strict": pretrain_run()})) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"of": ("strict", "strict")},
        {"of": {"run": "strict", "repeat": 1}},
        {"of": ("a", "b", "c")},
        {"metrics": []},
        {"metrics": ["param_hashes"]},
        {"tolerance": -1},
        {"tolerance": math.nan},
        {"tolerance": "1e-5"},
    ],
)
def test_malformed_comparisons_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        equal_runs(**bad)


def test_every_check_has_a_kind_of_its_own_and_a_schema() -> None:
    kinds = [check.model_json_schema()["properties"]["kind"]["const"] for check in CHECKS]
    assert sorted(kinds) == sorted(
        ["budget", "descent", "bounded", "finite", "required_fields", "not_constant", "residency",
         "exit_status", "event", "fact", "equal_runs", "equal_ranks",
             "property", "anatomy", "artifacts",
         "layer_statistics", "memory", "monotone", "ratio_of_runs", "schedule",
         "same_input", "trace_parity", "trace_spike"]
    )  # fmt: skip
