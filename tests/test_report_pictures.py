"""Pictures of the checks of series, schedules, parameters and slots, from evidence in memory."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import comparisons
import pytest
from builders import evidence, pretrain_run, steps_series

from pytest_gates.contract.load import CHECK_KINDS
from pytest_gates.evidence import Evidence, Series, Telemetry
from pytest_gates.model.schedule import learning_rate
from pytest_gates.report.draw import Picture
from pytest_gates.report.pictures import pictures

pytest.importorskip("vl_convert")


def drawn(said: dict[str, Any], found: Evidence) -> list[Picture]:
    check = CHECK_KINDS[said["kind"]].model_validate(said)
    made = list(pictures(check, {}, found))
    for picture in made:
        ElementTree.fromstring(picture.svg)  # noqa: S314 - our own
    return made


def falling(**other: Any) -> Evidence:
    return evidence(steps=steps_series(train_loss=[10.8 - step / 20 for step in range(100)]),
                    **other)  # fmt: skip


def test_a_bound_is_drawn_where_it_is_near_and_named_where_it_is_far() -> None:
    (near,) = drawn({"kind": "bounded", "metric": "train_loss", "below": 11.0}, falling())
    assert near.title == "train_loss by step"
    assert near.caption == "The line is the limit."
    assert "below 11" in near.svg
    (far,) = drawn({"kind": "bounded", "metric": "train_loss", "below": 1e9}, falling())
    assert far.caption == "The limit below 1e+09 lies beyond the picture."
    assert "below" not in far.svg


def test_a_schedule_is_drawn_over_its_closed_form() -> None:
    run = pretrain_run()
    rates = [learning_rate(step, 100, run.optimizer) for step in range(100)]
    (picture,) = drawn({"kind": "schedule"}, evidence(run, steps=steps_series(lr=rates)))
    assert picture.title == "lr by step"
    assert "closed form" in picture.caption


def test_a_direction_is_drawn_unless_it_is_that_of_the_steps_themselves() -> None:
    loss = {"kind": "monotone", "metric": "train_loss", "direction": "decreasing"}
    (picture,) = drawn(loss, falling())
    assert picture.caption == "Decreasing from value to value is what is claimed."
    assert drawn({"kind": "monotone", "metric": "step"}, falling()) == []


def test_parameters_are_a_grid_with_what_lies_outside_the_blocks_at_its_end() -> None:
    rows = [(0, -1, "model.embed_tokens.weight", 0.5), (0, 0, "mlp.up_proj.weight", 0.25),
            (0, 1, "mlp.up_proj.weight", 0.125), (5, 1, "mlp.up_proj.weight", 77.0)]  # fmt: skip
    names = ("step", "layer", "name", "gradient_norm")
    columns = {
        name: tuple(float(v) if isinstance(v, int) else v for v in column)
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    said = Telemetry(steps=steps_series(train_loss=[1.0]), parameters=Series(columns))
    check = {"kind": "layer_statistics", "metric": "gradient_norm", "step": 0, "above": 0.0}
    (picture,) = drawn(check, evidence(telemetry=(said,)))
    assert picture.title == "gradient_norm by layer and parameter"
    assert picture.caption == (
        "gradient_norm of 2 parameters, 2 layers, 0.125 to 0.5; the highest is model.embed_tokens."
    )
    assert "mlp.up_proj" in picture.svg


@pytest.mark.parametrize(
    ("check", "metric"),
    [({"kind": "trace_parity"}, "own_rel_l2"), ({"kind": "trace_spike"}, "std"),
     ({"kind": "trace_parity", "direction": "backward"}, "rel_l2")],
)  # fmt: skip
def test_a_trace_is_a_heat_map_of_what_the_check_compares(
    check: dict[str, Any], metric: str
) -> None:
    slots = Series({"layer": (0.0, 1.0), "slot": ("q", "q"), metric: (1e-7, 3e-7)})
    (picture,) = drawn(check, evidence(slots=slots))
    assert picture.title == f"{metric} by layer and slot"


def test_ratios_are_drawn_pair_by_pair_with_limit_interval_and_distribution() -> None:
    (picture,) = comparisons.ratios({"below": 0.55})
    assert picture.title == "Ratio of wall_ms by step, and its distribution over steps 20 to 99"
    assert picture.caption == (
        "Each point is a pair of neighbours; the line is the upper limit, the band the interval of "
        "the median. Pairs outside the window that lie beyond the picture: 2."
    )
    assert "limit 0.55" in picture.svg
    assert picture.found == "as it was judged"
    (above,) = comparisons.ratios({"above": 0.2})
    assert "the lower limit" in above.caption


def test_runs_that_say_the_same_are_a_level_difference_over_one_line() -> None:
    both = (comparisons.falling(), comparisons.falling(id="1" * 64))
    (picture,) = comparisons.side_by_side({"of": {"run": "a", "repeat": 2}}, a=both)
    assert picture.title == (
        "train_loss of execution 1 and execution 2 by step, and their difference"
    )
    assert picture.caption == "At each of 100 steps execution 1 and execution 2 say the same."
    assert "difference to execution 1" in picture.svg


def test_runs_that_differ_are_two_lines_and_where_they_differ_most() -> None:
    sides = {"strict": (comparisons.falling(),), "other": (comparisons.falling(by=0.04),)}
    said = {"of": ["strict", "other"], "expect": "differ", "metrics": ["train_loss", "param_hash"]}
    (picture,) = comparisons.side_by_side(said, **sides)
    assert picture.caption == (
        "At 99 of 100 steps strict and other differ, most at step 99, by 0.99."
    )
    assert comparisons.side_by_side(said, strict=sides["strict"]) == []


def test_memory_is_its_formula_above_what_was_measured_and_over_the_steps() -> None:
    (picture,) = comparisons.memory()
    assert picture.title == "Memory by the formula and as measured"
    assert "rest of the peak" in picture.caption
    assert "together 12393 MiB. Below, what the allocator held" in picture.caption
    assert "memory_mib" in picture.svg
    (without,) = comparisons.memory(device_resolved="cpu")
    assert "activations" not in without.svg
    assert "memory_mib" not in without.svg
    assert comparisons.memory(residency_after=None) == []


def test_parts_of_a_step_are_stacked_and_named_in_order() -> None:
    (picture,) = comparisons.anatomy()
    assert picture.caption == (
        "From the bottom gap 1.0 %, data 0.5 %, forward 30.0 %, backward 60.0 %, clip 2.0 %, "
        "optimizer 5.0 %; the tick is the step's wall time."
    )
    (many,) = comparisons.anatomy(80)
    assert many.svg.count("<path") < 300
