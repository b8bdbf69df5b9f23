"""What a declared file says, whoever wrote it: recordings and the team's programs alike.

A new format is a file here with a reader, a row in one of the two tables, its name in
`model.sources`, and a test.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_gates.model.sources import Source
from pytest_gates.readers.contents import Contents
from pytest_gates.readers.csv_rows import read_csv_rows
from pytest_gates.readers.json_report import read_json_report
from pytest_gates.readers.json_rows import read_json_rows, read_trainer_state
from pytest_gates.readers.jsonl import read_jsonl
from pytest_gates.readers.mllog import read_mllog
from pytest_gates.readers.nvidia_smi import read_nvidia_smi
from pytest_gates.readers.rows import Rows, mapped
from pytest_gates.readers.tensorboard import read_tensorboard
from pytest_gates.readers.trace_csv import read_trace_csv

READERS: dict[str, Callable[[bytes, str], Contents]] = {
    "jsonl": read_jsonl,
    "json": read_json_report,
    "nvidia-smi-csv": read_nvidia_smi,
    "trace-csv": read_trace_csv,
}
"""Formats with names of our own."""

ROW_READERS: dict[str, Callable[[bytes, str], Rows]] = {
    "jsonl": read_json_rows,
    "csv": read_csv_rows,
    "trainer-state": read_trainer_state,
    "tensorboard": read_tensorboard,
    "mllog": read_mllog,
    "lightning-csv": read_csv_rows,
}
"""Formats with the program's own names; JSON Lines is one of them where fields are declared."""

OF_LINES = frozenset({"jsonl", "csv", "lightning-csv", "mllog"})
"""Formats whose last line may be half written."""


def read_source(source: Source, data: bytes, place: str) -> Contents:
    """What a file says, as its source declares it.

    Raises:
        EvidenceError: it is malformed; the message begins with the place.
    """
    own_names = bool(source.fields) or source.first_step is not None
    if source.format in READERS and not own_names:
        return READERS[source.format](data, place)
    return mapped(ROW_READERS[source.format](data, place), source, place)


def whole_lines(source: Source, data: bytes) -> tuple[bytes, bool]:
    """The data of a run that ended early without a half-written last line, and if there was one."""
    return up_to_last_line(data) if source.format in OF_LINES else (data, False)


def up_to_last_line(data: bytes) -> tuple[bytes, bool]:
    """The data without what stands behind its last newline, and if there was something."""
    kept, newline, rest = data.rpartition(b"\n")
    return kept + newline, bool(rest)
