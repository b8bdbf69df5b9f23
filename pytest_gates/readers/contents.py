"""What every reader of recorded files gives back, and how they take JSON that others wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Sample
from pytest_gates.model.telemetry import METRICS, encode_number
from pytest_gates.readers.telemetry import typed_line, unique

STEP_METRICS = frozenset(name for name, metric in METRICS.items() if metric.scope == "step")


@dataclass(frozen=True)
class Fields:
    """Names that a file of the program's own holds, for whoever misses one."""

    place: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """What one recorded file says, in our own words."""

    lines: tuple[Mapping[str, Any], ...] = ()
    """Telemetry lines, not yet encoded."""
    samples: tuple[Sample, ...] | None = None
    """None: the file is about no samples."""
    status: str | None = None
    """How the run ended, where the file tells."""
    reason: str | None = None
    notes: tuple[str, ...] = ()
    """What was left out."""
    fields: Fields | None = None
    """None: the file has our own names."""


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is beyond the range of a double")
    return number


DECODER = json.JSONDecoder(parse_float=_finite, object_pairs_hook=unique)
"""Takes NaN and Infinity as Python writes them: they are what the run said."""


def encoded(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its non-finite numbers by their names, as telemetry has them."""
    return {k: encode_number(v) if isinstance(v, float) else v for k, v in row.items()}


def step_line(row: object, place: str, ignored: set[str]) -> dict[str, Any]:
    """The telemetry line of one recorded step; keys that are no metric of a step go to `ignored`.

    Raises:
        EvidenceError: it has no step, or a metric is no number.
    """
    if not isinstance(row, dict):
        raise EvidenceError(f"{place}: a step is not a JSON object")
    ignored.update(row.keys() - STEP_METRICS)
    metrics = {name: value for name, value in row.items() if name in STEP_METRICS}
    line = {"kind": "step", **encoded(metrics)}
    typed_line(line, place)
    return line


def left_out(place: str, ignored: Iterable[str]) -> tuple[str, ...]:
    """A note about keys that were left out, if there are any."""
    names = ", ".join(sorted(ignored))
    return (f"{place}: unregistered keys were left out: {names}",) if names else ()
