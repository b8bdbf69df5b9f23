"""`witness.csv`: what the witness saw, one sample a line, under nvidia-smi's column names.

Columns that `nvidia-smi --query-gpu` and `--query-compute-apps` have keep their names and units
(`--format=csv,nounits`, `[N/A]` for what is not there); three are ours: `at_ms`,
`process.utilization.sm [%]` and `foreign_pids`. One comment line before them holds as JSON what is
no sample: allocations, why there are no samples, why a column is empty. Floats are written in their
shortest form that reads back bit for bit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import StrictInt, StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12

from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Allocation, Sample, Witness
from pytest_gates.readers.telemetry import describe

_NOT_AVAILABLE = "[N/A]"
_COMMENT = "# "


class _Aside(TypedDict):
    """What the comment line holds."""

    allocations: list[tuple[StrictInt, float | None]]
    unavailable: StrictStr | None
    gaps: dict[StrictStr, StrictStr]


_ASIDE = TypeAdapter(_Aside)


def _mask(value: int) -> str:
    return f"0x{value:016X}"


def _hexadecimal(text: str) -> int:
    return int(text, 16)


_COLUMNS: tuple[tuple[str, str, Callable[[Any], str], Callable[[str], Any]], ...] = (
    ("at_ms", "at_ms", repr, float),
    ("pid", "pid", repr, int),
    ("used_mib", "used_gpu_memory [MiB]", repr, float),
    ("device_used_mib", "memory.used [MiB]", repr, float),
    ("sm_util_pct", "process.utilization.sm [%]", repr, float),
    ("util_pct", "utilization.gpu [%]", repr, float),
    ("sm_clock_mhz", "clocks.current.sm [MHz]", repr, float),
    ("power_w", "power.draw [W]", repr, float),
    ("temperature_c", "temperature.gpu", repr, float),
    ("reasons", "clocks_event_reasons.active", _mask, _hexadecimal),
    ("foreign_pids", "foreign_pids", repr, int),
)
"""(field of `Sample`, name of the column, how it is written, how it is read)."""


def write_witness(path: Path, witness: Witness) -> None:
    """Write what the witness saw; `read_witness` gives back an equal one."""
    path.write_bytes(witness_bytes(witness))


def witness_bytes(witness: Witness) -> bytes:
    """What `write_witness` writes."""
    aside = {
        "allocations": [[each.told_mib, each.seen_mib] for each in witness.allocations],
        "unavailable": witness.unavailable,
        "gaps": dict(witness.gaps),
    }
    file = io.StringIO(newline="")
    file.write(_COMMENT + json.dumps(aside, ensure_ascii=False, sort_keys=True) + "\n")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow([name for _, name, _, _ in _COLUMNS])
    for sample in witness.samples:
        lines.writerow(
            _NOT_AVAILABLE if (value := getattr(sample, field)) is None else write(value)
            for field, _, write, _ in _COLUMNS
        )
    return file.getvalue().encode()


def read_witness(path: Path) -> Witness:
    """Read what `write_witness` wrote.

    Raises:
        EvidenceError: the file is malformed; the message has its line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            comment, *lines = file.read().split("\n")
        aside = _ASIDE.validate_json(comment.removeprefix(_COMMENT))
    except ValidationError as error:
        raise EvidenceError(
            f"{path}:1: not the comment line of a witness: {describe(error)}"
        ) from None
    except ValueError as error:
        raise EvidenceError(f"{path}:1: not the comment line of a witness: {error}") from None
    if _cells(path, 2, lines[0] if lines else "") != [name for _, name, _, _ in _COLUMNS]:
        raise EvidenceError(f"{path}:2: not the columns of a witness")
    samples = tuple(
        _sample(path, number, row)
        for number, line in enumerate(lines[1:], 3)
        if (row := _cells(path, number, line))
    )
    allocations = tuple(Allocation(told, seen) for told, seen in aside["allocations"])
    return Witness(samples, allocations, aside["unavailable"], aside["gaps"])


def _cells(path: Path, number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:  # a cell of more than 128 KiB
        raise EvidenceError(f"{path}:{number}: not a sample of a witness: {error}") from None


def _sample(path: Path, number: int, row: list[str]) -> Sample:
    try:
        values: dict[str, Any] = {
            field: None if text == _NOT_AVAILABLE else read(text)
            for (field, _, _, read), text in zip(_COLUMNS, row, strict=True)
        }
    except ValueError as error:
        raise EvidenceError(f"{path}:{number}: not a sample of a witness: {error}") from error
    return Sample(**values)
