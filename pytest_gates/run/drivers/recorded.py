"""Driver `recorded`: files of a run that somebody made already."""

from __future__ import annotations

from pathlib import Path

from pytest_gates.model.config import RecordedRun
from pytest_gates.readers.recorded import adopt
from pytest_gates.run.bench import Bench
from pytest_gates.run.plan import Execution


def produce(bench: Bench, execution: Execution, holder: str) -> list[Path]:
    """Read the files into the one evidence format; nothing is executed.

    Raises:
        EvidenceError: a file is not there, lies outside the project, or cannot be read.
    """
    assert isinstance(execution.run, RecordedRun), holder
    folder = adopt(bench.settings.root, execution.run, bench.sealed, limit_bytes=bench.limit_bytes)
    return [folder]
