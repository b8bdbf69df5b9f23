"""CSV with a header: a row a step, as trainers write it. Lightning's CSVLogger is the same."""

from __future__ import annotations

import csv

from pytest_gates.errors import EvidenceError
from pytest_gates.readers.rows import Row, Rows, text_lines


def read_csv_rows(data: bytes, place: str) -> Rows:
    """Read the rows; an empty cell tells nothing, so a step may be told in several rows.

    Raises:
        EvidenceError: there is no header, a name is there twice, or a row is of another length.
    """
    lines = [text for _, text in text_lines(data, place)]
    try:
        rows = list(csv.reader(lines, skipinitialspace=True))
    except csv.Error as error:
        raise EvidenceError(f"{place}: not a CSV file: {error}") from None
    names = [name.strip() for name in rows[0]] if rows else []
    if not names or len(set(names)) < len(names):
        raise EvidenceError(f"{place}:1: expected a header of names, each once")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(names):
            raise EvidenceError(f"{place}:{number}: {len(row)} cells, the header has {len(names)}")
        found.append(Row(f"{place}:{number}", dict(zip(names, map(str.strip, row), strict=True))))
    return Rows(found)
