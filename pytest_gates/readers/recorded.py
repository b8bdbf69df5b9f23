"""Recorded runs: files that exist already become evidence in the one format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_gates.disk import read_inside
from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import FIELDS_THERE, Gpu, HostInfo, Witness
from pytest_gates.evidence_store import LIMIT_BYTES, WITNESS, seal
from pytest_gates.model.config import DeclaredHost, RecordedRun
from pytest_gates.model.telemetry import encode_line
from pytest_gates.readers.contents import Contents
from pytest_gates.readers.sources import read_source
from pytest_gates.readers.witness_csv import witness_bytes

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_NAME_LENGTH = 80


def adopt(root: Path, run: RecordedRun, parent: Path, *, limit_bytes: int = LIMIT_BYTES) -> Path:
    """Make evidence of the files a recorded run names, and keep their bytes beside it.

    Nothing of the present goes in, so the same files give the same evidence.

    Returns:
        The sealed folder beneath `parent`.

    Raises:
        EvidenceError: a file lies outside the project or behind a link, is malformed or too
            large, two files tell of the same, or the evidence cannot be written.
    """
    sources = [(file, read_inside(root, file.path, limit_bytes)) for file in run.files]
    contents = [read_source(file, data, file.path) for file, data in sources]
    telling = only([(f.path, c) for f, c in zip(run.files, contents, strict=True) if c.lines])
    there = names_there(contents)
    samples = [sample for content in contents for sample in content.samples or ()]
    files = _files(telling, there, Witness(samples=tuple(samples)))
    for index, (file, data) in enumerate(sources):
        name = _UNSAFE.sub("_", Path(file.path).name)[-_NAME_LENGTH:]
        files[f"source-{index}-{name}"] = data
    return seal(
        parent,
        run=run,
        host=_host(run.declares.host),
        status=(telling and telling.status) or "COMPLETED",
        reason=telling.reason if telling else None,
        wall_ms=None,
        pid=run.declares.pid,
        run_folder=False,
        started=None,
        declared=True,
        notes=tuple(note for content in contents for note in content.notes),
        files=files,
        limit_bytes=limit_bytes,
    )


def only(telling: Sequence[tuple[str, Contents]]) -> Contents | None:
    """What the one file says that tells the run's steps.

    Raises:
        EvidenceError: several do.
    """
    if len(telling) > 1:
        names = " and ".join(path for path, _ in telling)
        raise EvidenceError(f"{names} both tell the run's steps; name the one that counts")
    return telling[0][1] if telling else None


def names_there(contents: Sequence[Contents]) -> tuple[Mapping[str, Any], ...]:
    """A fact about the names that the program's own files hold, where there are any."""
    fields = {one.fields.place: list(one.fields.names) for one in contents if one.fields}
    return ({"kind": "fact", "name": FIELDS_THERE, "value": fields},) if fields else ()


def telemetry_bytes(telling: Contents | None, facts: Sequence[Mapping[str, Any]]) -> bytes:
    """A telemetry file: what was told, and the reader's own facts, which have the last word."""
    lines = (*(telling.lines if telling else ()), *facts)
    return "".join(encode_line(dict(line)) for line in lines).encode()


def _files(
    telling: Contents | None, facts: Sequence[Mapping[str, Any]], witness: Witness
) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if telling is not None or facts:
        files["telemetry-0.jsonl"] = telemetry_bytes(telling, facts)
    if witness.samples:
        files[WITNESS] = witness_bytes(witness)
    return files


def _host(host: DeclaredHost) -> HostInfo:
    gpu = Gpu(name=host.gpu, uuid=None, memory_mib=None) if host.gpu is not None else None
    return HostInfo(gpu=gpu, driver=host.driver, torch=host.torch)
