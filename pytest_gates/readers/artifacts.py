"""The files a run left, as evidence: of each its size, hash and what it says it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictStr, TypeAdapter, ValidationError

from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Artifact
from pytest_gates.model.config import Index, Settings
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.tensor_header import read_header
from pytest_gates.readers.telemetry import describe

ARTIFACTS = "artifacts.json"
"""The file among the evidence."""
_JSON_LIMIT = 2**20


_Tensor = Annotated[StrictStr, Field(pattern=r"^[A-Z][A-Z0-9_]*\[(\d{1,15}(,\d{1,15}){0,15})?\]$")]
"""A tensor's type and shape as the header of safetensors has them: `F32[16,24]`."""


class _Line(Settings):
    path: StrictStr
    bytes: Index
    sha256: StrictStr
    tensors: dict[StrictStr, _Tensor] | None = None
    metadata: dict[StrictStr, Any] | None = None


_LINES = TypeAdapter(list[_Line])


def inventory(folder: Path, prefix: str) -> Iterator[Artifact]:
    """Every file of a folder and below, by name; drafts of unfinished writes too.

    Raises:
        OSError: a file cannot be read.
    """
    for path in sorted(found for found in folder.rglob("*") if found.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield Artifact(
            path=f"{prefix}/{path.relative_to(folder).as_posix()}",
            bytes=path.stat().st_size,
            sha256=digest,
            tensors=_tensors(path),
            metadata=_metadata(path),
        )


def encode(artifacts: list[Artifact]) -> str:
    """The bytes of `artifacts.json`."""
    plain = [
        {key: value for key, value in vars(one).items() if value is not None} for one in artifacts
    ]
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse(data: bytes, place: str) -> tuple[Artifact, ...]:
    """Read `artifacts.json`.

    Raises:
        EvidenceError: it is not in the form that `encode` writes.
    """
    try:
        lines = _LINES.validate_json(data)
    except ValidationError as error:
        raise EvidenceError(f"{place}: {describe(error)}") from None
    return tuple(
        Artifact(one.path, one.bytes, one.sha256, one.tensors, one.metadata) for one in lines
    )


def _tensors(path: Path) -> dict[str, str] | None:
    if path.suffix != ".safetensors":
        return None
    try:
        header, _ = read_header(path)
    except RunRefusedError:
        return None
    return {
        name: f"{entry['dtype']}[{','.join(map(str, entry['shape']))}]"
        for name, entry in header.items()
    }


def _metadata(path: Path) -> dict[str, Any] | None:
    if path.suffix != ".json" or path.stat().st_size > _JSON_LIMIT:
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
