"""Rows of a program's own log, under the program's own names, become telemetry lines.

A reader of rows knows a format; which field is which metric, in which unit, is declared in the
contract (`fields:`) on top of what the format itself fixes. One mechanism for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.model.sources import TOLD, UNITS, Source, ToldField
from pytest_gates.model.telemetry import METRICS, decode_number, encode_number
from pytest_gates.readers.contents import Contents, Fields
from pytest_gates.readers.telemetry import LARGEST_INTEGER

SHOWN = 40
"""Names of a file that a message lists."""

FORMAT_FIELDS: Mapping[str, Mapping[str, str | ToldField]] = MappingProxyType({
    # transformers.TrainerState.log_history, as Trainer.log writes it.
    "trainer-state": {
        "train_loss": "loss",
        "lr": "learning_rate",
        "val_loss": "eval_loss",
        "tokens": "num_input_tokens_seen",
    },
    # mlperf_logging's own names (mllog.constants): step_num and samples_count are metadata.
    "mllog": {"step": "step_num", "val_loss": "eval_error", "lr": "opt_base_learning_rate"},
})  # fmt: skip
"""What a format calls a metric; all others have the metric's own name unless declared."""


@dataclass(frozen=True)
class Row:
    """What a program told at once."""

    place: str
    """For messages: `file:line`."""
    values: Mapping[str, Any]
    """By the program's own names."""


@dataclass(frozen=True)
class Rows:
    """All rows of a file, and how its run ended, where it tells."""

    rows: Sequence[Row]
    status: str | None = None
    reason: str | None = None


def told_by(source: Source) -> dict[str, ToldField]:
    """By metric the field that tells it: as declared, else as the format has it, else by name."""
    fields: dict[str, str | ToldField] = {name: name for name in TOLD}
    fields |= FORMAT_FIELDS.get(source.format, {})
    fields |= source.fields
    return {
        metric: told if isinstance(told, ToldField) else ToldField(field=told)
        for metric, told in fields.items()
    }


def mapped(read: Rows, source: Source, place: str) -> Contents:
    """Telemetry lines of the rows; rows about one step become one line.

    A field that no row has is not said here: `fields` of the contents tells which are there, so
    that a check can say what it misses.

    Raises:
        EvidenceError: a step is no whole number, a value no number, or a metric is told twice.
    """
    told = told_by(source)
    there = sorted({name for row in read.rows for name in row.values})
    steps: dict[int, dict[str, float]] = {}
    epochs: list[dict[str, float]] = []
    left_out = 0
    for row in read.rows:
        step = _step(row, told["step"].field, source)
        found = dict(_metrics(row, told))
        of_epoch = {name: one for name, one in found.items() if METRICS[name].scope == "epoch"}
        of_step = {name: one for name, one in found.items() if name not in of_epoch}
        if of_epoch:
            epochs.append(of_epoch | ({} if step is None else {"step": step}))
        if of_step and step is None:
            left_out += 1
        elif of_step and step is not None:
            clocks = {name for name in of_step if told[name].difference}
            _add(steps.setdefault(step, {}), of_step, clocks, f"{row.place}: step {step}")
    _differences(steps, told)
    lines = [{"kind": "step", "step": step, **_encoded(one)} for step, one in steps.items()]
    lines += [{"kind": "epoch", "epoch": index, **_encoded(one)}
              for index, one in enumerate(epochs)]  # fmt: skip
    notes = [f"{place}: {left_out} rows without a step were left out"] if left_out else []
    missing = [f"{name} ({told[name].field})" for name in source.fields
               if told[name].field not in there]  # fmt: skip
    if missing:
        notes.append(f"{place}: no row has {', '.join(missing)}; there are {listed(there)}")
    return Contents(
        lines=tuple(lines),
        status=read.status,
        reason=read.reason,
        notes=tuple(notes),
        fields=Fields(place, tuple(there)),
    )


def listed(names: Sequence[str]) -> str:
    """Names for a message; the first few of many."""
    if not names:
        return "none"
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _step(row: Row, field: str, source: Source) -> int | None:
    said = row.values.get(field)
    if said is None or said == "":
        return None
    number = _number(said, f"{row.place}: {field}")
    whole = abs(number) <= LARGEST_INTEGER and number == int(number)
    if not whole or number < source.begins_at:
        begins = f" from {source.begins_at} on" if source.begins_at else ""
        raise EvidenceError(f"{row.place}: {field} {said!r} is no step: a whole number{begins}")
    return int(number) - source.begins_at


def _metrics(row: Row, told: Mapping[str, ToldField]) -> Iterator[tuple[str, float]]:
    for metric, one in told.items():
        said = row.values.get(one.field)
        if metric == "step" or said is None or said == "":
            continue
        worth = UNITS.get(METRICS[metric].unit, {}).get(one.unit or "", 1.0)
        value = _number(said, f"{row.place}: {one.field}")
        yield metric, value if worth == 1.0 else value * worth


def _number(said: Any, where: str) -> float:
    try:
        if isinstance(said, str) and said not in {"NaN", "Infinity", "-Infinity"}:
            said = float(said)
        value = decode_number(said)
    except (ValueError, OverflowError):
        value = None
    if value is None:
        raise EvidenceError(f"{where} {said!r} is no number")
    return value


def _add(
    line: dict[str, float], found: Mapping[str, float], clocks: Collection[str], where: str
) -> None:
    """Of a clock the last word about a step counts; nothing else is told twice in two ways."""
    for name, value in found.items():
        before = line.get(name)
        same = before == value or (before is not None and before != before and value != value)  # noqa: PLR0124 - NaN
        if before is not None and not same and name not in clocks:
            raise EvidenceError(f"{where}: {name} is told a second time")
        line[name] = value


def _differences(steps: dict[int, dict[str, float]], told: Mapping[str, ToldField]) -> None:
    """Clocks and sums become what they rose by since the step before; the first rose by nothing."""
    for metric in [name for name, one in told.items() if one.difference]:
        sums = {step: line.pop(metric) for step, line in steps.items() if metric in line}
        for step, value in sums.items():
            if step - 1 in sums:
                steps[step][metric] = value - sums[step - 1]


def _encoded(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: encode_number(value) for name, value in values.items()}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Blocks of JSON taken apart: a dot leads into one."""
    found: dict[str, Any] = {}
    for name, one in value.items():
        if isinstance(one, Mapping):
            found |= flat(one, f"{prefix}{name}.")
        else:
            found[prefix + name] = one
    return found


def text_lines(data: bytes, place: str) -> Iterable[tuple[int, str]]:
    """The lines of a text with their numbers.

    Raises:
        EvidenceError: it is not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{place}: not UTF-8: {error}") from None
    # No `splitlines`: U+2028, U+0085 and others may stand inside of a string of JSON.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return list(enumerate(lines, start=1))
