"""Recorded traces as CSV: a row a layer with a column a slot, or a row a slot.

The wide form has the columns `layer` and slots, each a standard deviation; the long one, which
`pytest-gates trace --csv` writes, has `layer`, `slot` and statistics by the names of the metrics.
"""

from __future__ import annotations

import csv
from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.model.slots import GRADIENT, SLOTS
from pytest_gates.model.telemetry import METRICS, encode_number
from pytest_gates.readers.contents import Contents, left_out

STATISTICS = frozenset(
    name for name, metric in METRICS.items() if metric.scope == "slot" and name != "layer"
)


def read_trace_csv(data: bytes, place: str) -> Contents:
    """Read a trace; its slots are told in the order of a forward pass.

    Raises:
        EvidenceError: the header is none of the two, a cell is malformed, or a place is told twice;
            as `place:line: what`.
    """
    try:
        rows = list(csv.reader(data.decode("utf-8-sig").splitlines(), skipinitialspace=True))
    except (ValueError, csv.Error) as error:
        raise EvidenceError(f"{place}: not a CSV file: {error}") from None
    names = [name.strip() for name in rows[0]] if rows else []
    if "layer" not in names or len(names) < 2 or len(set(names)) < len(names):  # noqa: PLR2004
        raise EvidenceError(f"{place}:1: expected a header of `layer` and slots, each once")
    long = "slot" in names
    lines: list[dict[str, Any]] = []
    for number, row in enumerate(rows[1:], start=2):
        if row:
            where = f"{place}:{number}"
            if len(row) != len(names):
                raise EvidenceError(f"{where}: {len(row)} cells, the header has {len(names)}")
            cells = dict(zip(names, map(str.strip, row), strict=True))
            lines += [_long(cells, where)] if long else _wide(cells, where)
    _refuse_twice(lines, place)
    if not lines:
        raise EvidenceError(f"{place}: holds no layer")
    lines = _in_the_order_of_the_pass(lines)
    known = STATISTICS | {"layer", "slot", "hash"}
    return Contents(tuple(lines), notes=left_out(place, set(names) - known) if long else ())


def _wide(cells: dict[str, str], where: str) -> list[dict[str, Any]]:
    layer = _layer(cells.pop("layer"), where)
    return [
        {"kind": "slot", "layer": layer, "slot": slot, "std": _number(cell, f"{where}: {slot}")}
        for slot, cell in cells.items()
        if cell
    ]


def _in_the_order_of_the_pass(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """However the rows lay; slots of other names follow in their layer, gradients after all."""
    order = {slot: index for index, slot in enumerate(SLOTS)}

    def place(line: dict[str, Any]) -> tuple[bool, int, int]:
        return line["layer"] < 0, line["layer"], order.get(line["slot"], len(order))

    forward = [line for line in lines if not line["slot"].startswith(GRADIENT)]
    gradients = [line for line in lines if line["slot"].startswith(GRADIENT)]
    return sorted(forward, key=place) + gradients


def _long(cells: dict[str, str], where: str) -> dict[str, Any]:
    line: dict[str, Any] = {
        "kind": "slot",
        "layer": _layer(cells["layer"], where),
        "slot": cells["slot"],
    }
    for name in STATISTICS & cells.keys():
        if cells[name]:
            line[name] = _number(cells[name], f"{where}: {name}")
    return line | ({"hash": cells["hash"]} if cells.get("hash") else {})


def _layer(cell: str, where: str) -> int:
    try:
        layer = int(cell)
    except ValueError:
        raise EvidenceError(f"{where}: layer {cell!r} is no whole number") from None
    if layer < -1:
        raise EvidenceError(f"{where}: layer {layer} is below -1")
    return layer


def _number(cell: str, where: str) -> float | str:
    try:
        return encode_number(float(cell))  # Python reads "NaN" and "Infinity" too
    except ValueError:
        raise EvidenceError(f"{where}: {cell!r} is no number") from None


def _refuse_twice(lines: list[dict[str, Any]], place: str) -> None:
    seen: set[tuple[int, str]] = set()
    for line in lines:
        at = (line["layer"], line["slot"])
        if at in seen:
            raise EvidenceError(f"{place}: layer {at[0]} {at[1]} is told twice")
        seen.add(at)
