"""Steps that are read all at once say what they say when each line is read by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gates.errors import EvidenceError
from pytest_gates.model.telemetry import encode_line
from pytest_gates.readers.telemetry import parse_telemetry

EXACT = 2**53 - 1
NUMBERS = st.none() | st.floats() | st.integers(-EXACT, EXACT)
STEPS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6)
OTHERS = st.sampled_from(
    ["", "\n", encode_line({"kind": "event", "event": "run_finished", "at_ms": 3.0})]
)


def lines_of(rows: list[tuple[Any, Any]]) -> list[str]:
    return [
        encode_line({"kind": "step", "step": step, "train_loss": loss, "wall_ms": wall})
        for step, (loss, wall) in enumerate(rows)
    ]


@given(STEPS, OTHERS, OTHERS)
def test_steps_are_read_at_once_as_they_are_one_by_one(
    rows: list[tuple[Any, Any]], before: str, after: str
) -> None:
    lines = lines_of(rows)
    at_once = parse_telemetry("".join([before, *lines, after]).encode(), "x")
    # A line that begins with a blank is none of those that are read together.
    one_by_one = parse_telemetry("".join([before, " ", *lines, after]).encode(), "x")
    assert repr(at_once) == repr(one_by_one)  # NaN equals nothing, and -0.0 equals 0.0


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"kind":"step","step":1,"wall_ms":NaN}', "NaN is no JSON"),
        ('{"kind":"step","step":1,"wall_ms":1e999}', "beyond the range"),
        ('{"kind":"step","step":1,"wall_ms":2.0,"wall_ms":1.0}', "twice"),
        ('{"kind":"step","step":1.5,"wall_ms":2.0}', "step"),
        ('{"kind":"step","step":-1,"wall_ms":2.0}', "step"),
        ('{"kind":"step","step":1},{"kind":"step","step":2}', "no telemetry line"),
        ('{"kind":"step","step":1,"wall_ms":', "no telemetry line"),
    ],
)
def test_a_bad_step_among_good_ones_is_named_by_its_line(line: str, what: str) -> None:
    good = lines_of([(1.0, 2.0)])
    with pytest.raises(EvidenceError, match=rf"^x:2: .*{what}"):
        parse_telemetry("".join([*good, line, "\n", *good]).encode(), "x")
