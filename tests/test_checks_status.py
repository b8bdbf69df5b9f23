import math
from typing import Any

import pytest
from builders import event, evidence, pretrain_run
from pydantic import ValidationError

from pytest_gates.checks.base import Verdict
from pytest_gates.checks.fact import Fact
from pytest_gates.checks.property import Property
from pytest_gates.checks.status import EventCheck, ExitStatus
from pytest_gates.evidence import PropertyResult
from pytest_gates.model.config import ForwardRun, RecordedRun

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def exits(**said: Any) -> ExitStatus:
    return ExitStatus.model_validate({"kind": "exit_status", **said})


def test_the_status_is_the_expected_one() -> None:
    assert exits().evaluate(evidence()).verdict is PASS
    refused = evidence(status="DEVICE_UNAVAILABLE", reason="no CUDA device is visible")
    outcome = exits().evaluate(refused)
    assert outcome.verdict is FAIL
    assert outcome.summary == (
        "ended DEVICE_UNAVAILABLE (no CUDA device is visible), not COMPLETED"
    )
    assert exits(expect="DEVICE_UNAVAILABLE").evaluate(refused).verdict is PASS
    assert exits(expect=["COMPLETED", "DEVICE_UNAVAILABLE"]).evaluate(refused).verdict is PASS


@pytest.mark.parametrize(
    ("wall_ms", "verdict"),
    [(1999.0, PASS), (2000.0, PASS), (2001.0, FAIL), (math.nan, FAIL), (None, INCONCLUSIVE)],
)
def test_the_process_ends_in_time(wall_ms: float | None, verdict: Verdict) -> None:
    outcome = exits(within_s=2).evaluate(evidence(wall_ms=wall_ms))
    assert outcome.verdict is verdict


def test_time_and_headroom_are_shown() -> None:
    outcome = exits(within_s=2).evaluate(evidence(wall_ms=500.0))
    assert (outcome.figure, outcome.limit) == ("COMPLETED in 0.5 s", "COMPLETED within 2 s")
    assert outcome.headroom_pct == 75


def test_the_run_folder_was_made_or_was_not() -> None:
    assert exits(run_folder=False).evaluate(evidence()).verdict is FAIL
    assert exits(run_folder=False).evaluate(evidence(run_folder=False)).verdict is PASS
    assert exits(run_folder=True).evaluate(evidence(run_folder=False)).verdict is FAIL


def test_malformed_expectations_are_refused() -> None:
    with pytest.raises(ValidationError, match="did you mean `COMPLETED"):
        exits(expect="COMPLETE")
    for said in ({"within_s": 0}, {"within_s": math.inf}, {"expect": []}):
        with pytest.raises(ValidationError):
            exits(**said)
    recorded = RecordedRun.model_validate(
        {"driver": "recorded", "files": ({"path": "x", "format": "json"},)}
    )
    refused = exits(within_s=2, run_folder=True).refusals(recorded)
    assert [path for path, _ in refused] == [("within_s",), ("run_folder",)]


def occurs(**said: Any) -> EventCheck:
    return EventCheck.model_validate({"kind": "event", "event": "non_finite", **said})


def test_events_are_counted() -> None:
    twice = evidence(events=[event("non_finite", 3), event("non_finite", 7)])
    assert occurs(exactly=2).evaluate(twice).verdict is PASS
    assert occurs(exactly=1).evaluate(twice).verdict is FAIL
    assert occurs(at_least=1).evaluate(twice).verdict is PASS
    assert occurs(at_least=3).evaluate(twice).verdict is FAIL
    assert occurs(exactly=0).evaluate(twice).verdict is FAIL
    assert occurs(exactly=0).evaluate(evidence()).verdict is PASS
    assert occurs(exactly=1, steps=(0, 5)).evaluate(twice).verdict is PASS
    assert occurs(exactly=0, steps=(8, 9)).evaluate(twice).verdict is PASS


def test_an_event_comes_before_another() -> None:
    check = EventCheck.model_validate(
        {"kind": "event", "event": "auto_chose_cpu", "exactly": 1, "before": "model_built"}
    )
    warned, built = event("auto_chose_cpu"), event("model_built")
    assert check.evaluate(evidence(events=[warned, built])).verdict is PASS
    assert check.evaluate(evidence(events=[built, warned])).verdict is FAIL
    assert check.evaluate(evidence(events=[warned])).verdict is FAIL


def test_a_run_that_said_nothing_decides_nothing_unless_it_made_no_folder() -> None:
    check = occurs(exactly=0)
    assert check.evaluate(evidence(telemetry=())).verdict is INCONCLUSIVE
    assert check.evaluate(evidence(telemetry=(), run_folder=False)).verdict is PASS


def test_the_end_of_the_run_is_shown() -> None:
    outcome = occurs(exactly=0).evaluate(evidence(status="KILLED"))
    assert "the run ended KILLED" in outcome.summary


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"exactly": 1, "at_least": 1},
        {"exactly": -1},
        {"at_least": 0},
        {"exactly": 0, "before": "model_built"},
        {"exactly": 1, "event": "nonfinite"},
    ],
)
def test_malformed_events_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        occurs(**said)


def fact(**said: Any) -> Fact:
    return Fact.model_validate({"kind": "fact", "fact": "parameters", **said})


@pytest.mark.parametrize(
    ("value", "claim", "verdict"),
    [
        (373509120, {"equals": 373509120}, PASS),
        (373509120, {"at_least": 366_000_000, "at_most": 374_000_000}, PASS),
        (322045952, {"at_least": 366_000_000, "at_most": 374_000_000}, FAIL),
        (374_000_000, {"at_most": 374_000_000}, PASS),
        (math.nan, {"at_most": 1}, FAIL),
        (math.nan, {"at_least": 1}, FAIL),
        ("373509120", {"equals": 373509120}, FAIL),
        ("many", {"at_least": 1}, FAIL),
        (True, {"equals": True}, PASS),
        (True, {"equals": 1}, FAIL),
        (1, {"equals": True}, FAIL),
        (True, {"at_least": 1}, FAIL),
        (1, {"equals": 1.0}, PASS),
        (False, {"equals": False}, PASS),
        ("bfloat16", {"one_of": ["bfloat16", "float16"]}, PASS),
        ("float32", {"one_of": ["bfloat16", "float16"]}, FAIL),
        (["NVIDIA H200"], {"equals": "NVIDIA H200"}, FAIL),
    ],
)
def test_a_fact_is_what_is_claimed(value: object, claim: dict[str, Any], verdict: Verdict) -> None:
    assert fact(**claim).evaluate(evidence(facts={"parameters": value})).verdict is verdict


def test_a_missing_fact_names_those_that_are_there() -> None:
    outcome = fact(equals=1).evaluate(evidence(facts={"tied": False}, status="ERROR"))
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.summary == "no fact parameters (run ended ERROR); there are tied"


def test_a_fact_is_shown_with_its_limit() -> None:
    outcome = fact(equals=2).evaluate(evidence(facts={"parameters": 373509120}))
    assert outcome.summary == "parameters is 373,509,120, not = 2"


@pytest.mark.parametrize(
    "claim",
    [{}, {"equals": 1, "at_least": 1}, {"at_least": 2, "at_most": 1}, {"one_of": []},
     {"at_least": math.nan}, {"equals": math.nan}, {"equals": None}],
)  # fmt: skip
def test_malformed_facts_are_refused(claim: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        fact(**claim)


CAUSALITY = Property.model_validate({"kind": "property", "property": "causality"})


def test_a_property_holds_without_a_counterexample() -> None:
    held = evidence(properties=[PropertyResult("causality", 20, None)])
    assert CAUSALITY.evaluate(held).verdict is PASS
    untried = evidence(properties=[PropertyResult("causality", 0, None)])
    assert CAUSALITY.evaluate(untried).verdict is INCONCLUSIVE
    assert CAUSALITY.evaluate(evidence()).verdict is INCONCLUSIVE
    crashed = evidence(properties=[PropertyResult("causality", 20, None)], status="ERROR")
    assert CAUSALITY.evaluate(crashed).verdict is INCONCLUSIVE


def test_a_counterexample_is_shown() -> None:
    found = PropertyResult("causality", 7, {"tokens": [0, 1], "position": 0})
    outcome = CAUSALITY.evaluate(evidence(properties=[found], status="ERROR"))
    assert outcome.verdict is FAIL
    assert outcome.summary == "causality fails for tokens=[0, 1], position=0"


def test_a_property_must_be_declared_by_the_run() -> None:
    forward = {"driver": "forward", "device": "cpu", "model": "llama-1m"}
    without = ForwardRun.model_validate(forward)
    declared = ForwardRun.model_validate(forward | {"properties": ({"name": "causality"},)})
    assert list(CAUSALITY.refusals(declared)) == []
    for run in (without, pretrain_run()):
        ((path, message),) = CAUSALITY.refusals(run)
        assert path == ("property",)
        assert "the run declares no property 'causality'" in message


def test_an_event_window_fits_the_run() -> None:
    check = occurs(exactly=0, steps=(0, 100))
    assert [path for path, _ in check.refusals(pretrain_run())] == [("steps", 1)]
    assert list(occurs(exactly=0).refusals(pretrain_run())) == []
