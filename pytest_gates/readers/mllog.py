"""MLPerf's log lines, `:::MLLOG {...}`, among whatever else a program prints.

https://github.com/mlcommons/logging: `time_ms`, `event_type`, `key`, `value`, `metadata`.
"""

from __future__ import annotations

import json
from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.readers.rows import Row, Rows, flat, text_lines

MARK = ":::MLLOG"
RUN_STOP = "run_stop"


def read_mllog(data: bytes, place: str) -> Rows:
    """Read the marked lines; a line's value has the name of its key, its metadata their own.

    `run_stop` tells the end: a status that is not `success` is ABORTED.

    Raises:
        EvidenceError: a marked line holds no JSON object with a key, or no line is marked.
    """
    rows: list[Row] = []
    status = reason = None
    for number, text in text_lines(data, place):
        _, mark, rest = text.partition(MARK)
        if not mark:
            continue
        line = _line(rest, f"{place}:{number}")
        rows.append(Row(f"{place}:{number}", _values(line)))
        if line["key"] == RUN_STOP:
            said = (line.get("metadata") or {}).get("status", "success")
            if said != "success":
                status, reason = "ABORTED", f"{RUN_STOP} says {said}"
    if not rows:
        raise EvidenceError(f"{place}: no line is marked {MARK}")
    return Rows(rows, status, reason)


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{where}: not JSON behind {MARK}: {error}") from None
    metadata = line.get("metadata") if isinstance(line, dict) else None
    if not isinstance(line, dict) or not isinstance(line.get("key"), str):
        raise EvidenceError(f"{where}: no object with a key behind {MARK}")
    if metadata is not None and not isinstance(metadata, dict):
        raise EvidenceError(f"{where}: metadata is no object")
    return line


def _values(line: dict[str, Any]) -> dict[str, Any]:
    value, key = line.get("value"), line["key"]
    told = flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    about = line.get("metadata") or {}
    metadata = {name: one for name, one in about.items() if name not in {"file", "lineno"}}
    return {"time_ms": line.get("time_ms"), **metadata, **told}
