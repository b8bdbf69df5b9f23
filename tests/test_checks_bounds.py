import math
from typing import Any

import pytest
from builders import evidence, pretrain_run, steps_series
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_gates.checks.base import Verdict
from pytest_gates.checks.bounds import Bounded, Finite, NotConstant, RequiredFields
from pytest_gates.evidence import Evidence, Series
from pytest_gates.model.config import ForwardRun
from pytest_gates.model.telemetry import REQUIRED_STEP_FIELDS

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
FORWARD = ForwardRun.model_validate({"driver": "forward", "device": "cpu", "model": "llama-1m"})


def bounded(**said: Any) -> Bounded:
    return Bounded.model_validate({"kind": "bounded", "metric": "train_loss", **said})


def losses(*values: float | None, status: str = "ABORTED", **said: Any) -> Evidence:
    return evidence(steps=steps_series(train_loss=values), status=status, **said)


def test_bounds_are_outside_and_one_ulp_decides() -> None:
    assert bounded(below=10).evaluate(losses(9, math.nextafter(10, 0))).verdict is PASS
    outcome = bounded(below=10).evaluate(losses(9, 10.0, 11))
    assert outcome.verdict is FAIL
    assert "train_loss is 10 at step 1, limit < 10 nats: 2 of 3 values out" in outcome.summary
    assert outcome.headroom_pct == pytest.approx(-10)
    assert bounded(above=0).evaluate(losses(0.0, 1)).verdict is FAIL
    assert bounded(above=0, below=10).evaluate(losses(1, 2)).verdict is PASS


@given(st.sampled_from([{"above": 0}, {"below": 10}, {"above": 0, "below": 10}]), st.integers(0, 4))
def test_nan_never_passes(limits: dict[str, float], place: int) -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    values[place] = math.nan
    assert bounded(**limits).evaluate(losses(*values)).verdict is FAIL


def test_infinities_are_out_where_they_should_be() -> None:
    assert bounded(below=10).evaluate(losses(1, math.inf)).verdict is FAIL
    assert bounded(above=0).evaluate(losses(1, math.inf)).verdict is PASS


def test_first_and_last_value_alone() -> None:
    said = losses(11, 5, 3)
    assert bounded(below=10).evaluate(said).verdict is FAIL
    assert bounded(below=10, at="last").evaluate(said).verdict is PASS
    assert bounded(below=10, at="first").evaluate(said).verdict is FAIL
    assert bounded(below=10, at="last").evaluate(losses(5, 3, status="KILLED")).verdict is (
        INCONCLUSIVE
    )


def test_a_value_out_of_bounds_fails_a_run_that_crashed_and_its_absence_proves_nothing() -> None:
    assert bounded(below=10).evaluate(losses(1, 11, status="ERROR")).verdict is FAIL
    assert bounded(below=10).evaluate(losses(1, 2, status="ERROR")).verdict is INCONCLUSIVE
    assert bounded(below=10).evaluate(losses(1, 2, status="COMPLETED")).verdict is INCONCLUSIVE
    assert bounded(below=10).evaluate(losses(1, None)).verdict is INCONCLUSIVE
    assert bounded(below=10).evaluate(evidence()).verdict is INCONCLUSIVE


def test_metrics_of_epochs_and_slots() -> None:
    epochs = Series({"epoch": (0.0, 1.0), "step": (49.0, 99.0), "val_loss": (10.0, 9.5)})
    check = bounded(metric="val_loss", below=10)
    assert check.evaluate(evidence(epochs=epochs)).verdict is FAIL
    assert (
        bounded(metric="val_loss", below=10, at="last").evaluate(evidence(epochs=epochs)).verdict
        is PASS
    )
    assert check.evaluate(evidence()).verdict is INCONCLUSIVE
    slots = Series({"layer": (0.0, 1.0), "slot": ("ffn_out", "ffn_out"), "std": (0.3, 11.4)})
    assert bounded(metric="std", below=1).evaluate(evidence(FORWARD, slots=slots)).verdict is FAIL


def test_refusals_say_what_does_not_fit() -> None:
    def told(check: Any, run: Any) -> list[str]:
        return [message for _, message in check.refusals(run)]

    assert told(bounded(below=1), FORWARD) == ["driver forward has no steps"]
    assert told(bounded(metric="std", below=1), pretrain_run()) == [
        "driver pretrain traces no slots"
    ]
    assert told(bounded(metric="val_loss", below=1, steps=(0, 5)), pretrain_run()) == [
        "a window of steps goes with metrics of steps alone"
    ]
    assert told(bounded(metric="std", below=1), FORWARD) == []
    constant = NotConstant.model_validate(
        {"kind": "not_constant", "metric": "train_loss", "steps": (5, 5)}
    )
    assert told(constant, pretrain_run()) == ["one step alone is always constant"]


@pytest.mark.parametrize(
    "said", [{}, {"above": 2, "below": 1}, {"below": math.inf}, {"below": "1"}, {"beloww": 1}]
)
def test_malformed_bounds_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        bounded(**said)


def finite(*metrics: str) -> Finite:
    return Finite.model_validate({"kind": "finite", "metrics": metrics})


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_finite_names_the_value_that_is_not(odd: float) -> None:
    outcome = finite("train_loss").evaluate(losses(1, odd, 2, status="NUMERICAL_INSTABILITY"))
    assert outcome.verdict is FAIL
    assert outcome.summary == f"train_loss is {odd:g} at step 1"


def test_finite_passes_only_whole_runs_without_gaps() -> None:
    assert finite("train_loss").evaluate(losses(1, 2)).verdict is PASS
    assert finite("train_loss").evaluate(losses(1, None)).verdict is INCONCLUSIVE
    assert finite("train_loss").evaluate(losses(1, 2, status="TIMEOUT")).verdict is INCONCLUSIVE
    outcome = finite("train_loss", "grad_norm").evaluate(losses(1, 2))
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.summary == "no grad_norm in the telemetry; there are step, train_loss"
    with pytest.raises(ValidationError):
        finite()


def whole(**changed: Any) -> Series:
    columns = {name: [1.0, 2.0] for name in REQUIRED_STEP_FIELDS if name != "step"}
    return steps_series(**{key: value for key, value in (columns | changed).items() if value})


REQUIRED = RequiredFields.model_validate({"kind": "required_fields"})


def test_required_fields_are_all_there() -> None:
    said = {"steps": whole(), "status": "ABORTED"}
    assert REQUIRED.evaluate(evidence(**said)).verdict is PASS
    assert REQUIRED.evaluate(evidence(**said | {"status": "KILLED"})).verdict is INCONCLUSIVE
    assert REQUIRED.evaluate(evidence()).verdict is INCONCLUSIVE
    outcome = REQUIRED.evaluate(evidence(**said | {"steps": whole(lr=None)}))
    assert outcome.verdict is FAIL
    assert outcome.summary.startswith("lr missing; there are step, train_loss")


@pytest.mark.parametrize(
    ("device", "field", "verdict"),
    [
        ("cpu", "gpu_ms", PASS),
        ("cpu", "gpu_util_pct", PASS),
        ("cpu", "wall_ms", FAIL),
        ("cuda:0", "gpu_ms", FAIL),
    ],
)
def test_null_is_allowed_where_the_device_cannot_give_it(
    device: str, field: str, verdict: Verdict
) -> None:
    said = evidence(
        steps=whole(**{field: [None, None]}), status="ABORTED", facts={"device_resolved": device}
    )
    assert REQUIRED.evaluate(said).verdict is verdict


def test_a_constant_placeholder_is_seen() -> None:
    check = NotConstant.model_validate({"kind": "not_constant", "metric": "train_loss"})
    assert check.evaluate(losses(1, 2, 2)).verdict is PASS
    outcome = check.evaluate(losses(5, 5, 5))
    assert outcome.verdict is FAIL
    assert outcome.summary == "all 3 values of train_loss are 5"
    assert check.evaluate(losses(5, math.nan, 4)).verdict is FAIL
    assert check.evaluate(losses(5)).verdict is INCONCLUSIVE
    tail = NotConstant.model_validate(
        {"kind": "not_constant", "metric": "train_loss", "steps": (1, 3)}
    )
    assert tail.evaluate(losses(4, 5, 5, 5)).verdict is FAIL
