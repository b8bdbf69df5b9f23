"""JSON Lines: a step a line (`step`, `train_loss`, `wall_ms`, ...), or telemetry as we publish it.

An object with a `kind` must be a telemetry line; one without is a step.
"""

from __future__ import annotations

from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.readers.contents import DECODER, Contents, encoded, left_out, step_line
from pytest_gates.readers.telemetry import typed_line


def read_jsonl(data: bytes, place: str) -> Contents:
    """Read a recording in JSON Lines.

    Raises:
        EvidenceError: a line is malformed, as `place:line: what`.
    """
    lines: list[dict[str, Any]] = []
    ignored: set[str] = set()
    for number, text in enumerate(data.split(b"\n"), start=1):
        if not text.strip():
            continue
        where = f"{place}:{number}"
        try:
            row = DECODER.decode(text.decode())
        except (ValueError, RecursionError) as error:
            raise EvidenceError(f"{where}: not a line of JSON: {error}") from None
        if isinstance(row, dict) and "kind" in row:
            lines.append(encoded(row))
            typed_line(lines[-1], where)
        else:
            lines.append(step_line(row, where, ignored))
    if not lines:
        raise EvidenceError(f"{place}: holds no step")
    return Contents(lines=tuple(lines), notes=left_out(place, ignored))
