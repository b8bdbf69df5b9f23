"""CSV as nvidia-smi prints it: `--query-compute-apps` (a row a process) or `--query-gpu`.

With or without units in the cells; the header must be there. Column names: `nvidia-smi
--help-query-gpu` and `--help-query-compute-apps`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Sample
from pytest_gates.readers.contents import Contents, left_out

_TIMESTAMP = "%Y/%m/%d %H:%M:%S.%f"
_MISSING = re.compile(r"\[?(N/A|Not Supported|Unknown Error|Insufficient Permissions)\]?")
_QUANTITY = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)(?: (MiB|MHz|W|%))?")

COLUMNS: dict[str, str] = {
    "memory.used": "device_used_mib",
    "utilization.gpu": "util_pct",
    "clocks.current.sm": "sm_clock_mhz",
    "clocks.sm": "sm_clock_mhz",
    "power.draw": "power_w",
    "temperature.gpu": "temperature_c",
}
"""Quantities of the device, by nvidia-smi's names without their unit."""
_PROCESS_MEMORY = ("used_gpu_memory", "used_memory")
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_UNITS = {"used_mib": "MiB", "device_used_mib": "MiB", "util_pct": "%", "sm_clock_mhz": "MHz",
          "power_w": "W", "temperature_c": None}  # fmt: skip


def read_nvidia_smi(data: bytes, place: str) -> Contents:
    """Read samples.

    `at_ms` counts from the first row where the rows have a `timestamp`, and is 0 where not.

    Raises:
        EvidenceError: the header is missing or a cell is malformed, as `place:line: what`.
    """
    try:
        rows = list(csv.reader(data.decode("utf-8-sig").splitlines(), skipinitialspace=True))
    except (ValueError, csv.Error) as error:
        raise EvidenceError(f"{place}: not a CSV file: {error}") from None
    names = [name.split(" [")[0].strip() for name in rows[0]] if rows else []
    known = {"pid", "timestamp", *COLUMNS, *_PROCESS_MEMORY, *_REASONS}
    if not known & set(names):
        raise EvidenceError(f"{place}:1: no header of nvidia-smi; use --format=csv, not noheader")
    samples: list[Sample] = []
    first: datetime | None = None
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        where = f"{place}:{number}"
        if len(row) != len(names):
            raise EvidenceError(f"{where}: {len(row)} cells, the header has {len(names)}")
        cells = dict(zip(names, map(str.strip, row), strict=True))
        at = _time(cells, where)
        first = first or at
        elapsed = at - first if at and first else timedelta()
        samples.append(_sample(cells, elapsed / timedelta(milliseconds=1), where))
    return Contents(samples=tuple(samples), notes=left_out(place, set(names) - known))


def _sample(cells: Mapping[str, str], at_ms: float, where: str) -> Sample:
    device: dict[str, Any] = {
        field: _quantity(cells[name], _UNITS[field], f"{where}: {name}")
        for name, field in COLUMNS.items()
        if name in cells
    }
    used = next((name for name in _PROCESS_MEMORY if name in cells), None)
    return Sample(
        at_ms=at_ms,
        pid=_whole(cells.get("pid"), 10, f"{where}: pid"),
        used_mib=_quantity(cells[used], "MiB", f"{where}: {used}") if used else None,
        reasons=next(
            (_whole(cells[name], 16, f"{where}: {name}") for name in _REASONS if name in cells),
            None,
        ),
        **device,
    )


def _quantity(cell: str, unit: str | None, where: str) -> float | None:
    if _MISSING.fullmatch(cell):
        return None
    match = _QUANTITY.fullmatch(cell)
    if match is None or match.group(2) not in {None, unit}:
        raise EvidenceError(f"{where}: {cell!r} is no quantity" + (f" in {unit}" if unit else ""))
    return float(match.group(1))


def _whole(cell: str | None, base: int, where: str) -> int | None:
    if cell is None or _MISSING.fullmatch(cell):
        return None
    try:
        return int(cell, base)
    except ValueError:
        raise EvidenceError(f"{where}: {cell!r} is no whole number") from None


def _time(cells: Mapping[str, str], where: str) -> datetime | None:
    if "timestamp" not in cells:
        return None
    try:
        return datetime.strptime(cells["timestamp"], _TIMESTAMP)
    except ValueError:
        raise EvidenceError(
            f"{where}: timestamp {cells['timestamp']!r} is not as nvidia-smi prints it"
        ) from None
