"""JSON of other people's: a step a line under names of its own, and transformers' trainer state."""

from __future__ import annotations

from typing import Any

from pytest_gates.errors import EvidenceError
from pytest_gates.readers.contents import DECODER
from pytest_gates.readers.rows import Row, Rows, flat, text_lines

HISTORY = "log_history"


def read_json_rows(data: bytes, place: str) -> Rows:
    """Read JSON Lines; blocks are taken apart, a dot leads into one.

    Raises:
        EvidenceError: a line is no JSON object.
    """
    rows = []
    for number, text in text_lines(data, place):
        if text.strip():
            where = f"{place}:{number}"
            rows.append(Row(where, flat(_object(text, where))))
    return Rows(rows)


def read_trainer_state(data: bytes, place: str) -> Rows:
    """Read `trainer_state.json`: what `transformers.Trainer` logged, an entry a call of `log`.

    Raises:
        EvidenceError: it is no trainer state.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvidenceError(f"{place}: not UTF-8: {error}") from None
    history = _object(text, place).get(HISTORY)
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise EvidenceError(f"{place}: no list of objects under {HISTORY}: no trainer_state.json")
    return Rows([Row(f"{place}: {HISTORY}[{index}]", entry) for index, entry in enumerate(history)])


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise EvidenceError(f"{where}: not a JSON object")
    return value
