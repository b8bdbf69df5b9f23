"""A JSON report with `per_step_metrics`, as a trainer prints it at its end, log lines before it."""

from __future__ import annotations

import re
from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.model.telemetry import STATUSES
from pytest_gates.readers.contents import DECODER, Contents, encoded, left_out, step_line
from pytest_gates.readers.telemetry import typed_line

STEPS = "per_step_metrics"
_READ = frozenset({STEPS, "status", "detail", "val_loss_history"})
_OBJECT = re.compile(r"^\{", re.MULTILINE)


def read_json_report(data: bytes, place: str) -> Contents:
    """Read a report.

    `status` and `detail` tell how the run ended (COMPLETED if there is no status), and
    `val_loss_history` holds one validation loss an epoch.

    Raises:
        EvidenceError: there is no such report, or a value in it is malformed.
    """
    try:
        report = _find(data.decode(), place)
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{place}: not UTF-8: {error}") from None
    ignored: set[str] = set()
    steps = [
        step_line(row, f"{place}: {STEPS}[{index}]", ignored)
        for index, row in enumerate(_list(report, STEPS, place))
    ]
    epochs = [
        _epoch(index, value, f"{place}: val_loss_history[{index}]")
        for index, value in enumerate(_list(report, "val_loss_history", place))
    ]
    return Contents(
        lines=(*steps, *epochs),
        status=_status(report, place),
        reason=_detail(report, place),
        notes=left_out(place, ignored | (report.keys() - _READ)),
    )


def _find(text: str, place: str) -> dict[str, Any]:
    """The first object that begins a line and holds `per_step_metrics`."""
    failure = ""
    for start in _OBJECT.finditer(text):
        try:
            value, _ = DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError) as error:
            failure = f" ({error})"
            continue
        if STEPS in value:
            report: dict[str, Any] = value
            return report
    raise EvidenceError(f"{place}: no JSON object with {STEPS} at the start of a line{failure}")


def _list(report: dict[str, Any], key: str, place: str) -> list[Any]:
    value = report.get(key, [])
    if not isinstance(value, list):
        raise EvidenceError(f"{place}: {key} is no list")
    return value


def _epoch(index: int, value: object, place: str) -> dict[str, Any]:
    line = encoded({"kind": "epoch", "epoch": index, "val_loss": value})
    typed_line(line, place)
    return line


def _status(report: dict[str, Any], place: str) -> str | None:
    status = report.get("status")
    if status is not None and status not in tuple(STATUSES):
        raise EvidenceError(f"{place}: status {status!r} is none of {', '.join(STATUSES)}")
    return status


def _detail(report: dict[str, Any], place: str) -> str | None:
    detail = report.get("detail")
    if detail is not None and not isinstance(detail, str):
        raise EvidenceError(f"{place}: detail is no text")
    return detail
