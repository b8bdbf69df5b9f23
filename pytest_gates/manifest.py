"""The manifest of an evidence folder: what was executed, and the hash of each of its files."""

from __future__ import annotations

import hashlib
import marshal
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from pytest_gates.canonical import parse_canonical
from pytest_gates.errors import ChangedEvidenceError, EvidenceError, SwappedEvidenceError
from pytest_gates.evidence import Gpu, HostInfo, run_adapter, run_hash
from pytest_gates.model.config import Index, Run, Settings
from pytest_gates.model.telemetry import STATUSES
from pytest_gates.readers.telemetry import describe

FORMAT = "pytest-gates/evidence/1"
MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 2**20
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names that a file of evidence may have."""
Sha256 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(Settings):
    """One file of the evidence."""

    sha256: Sha256
    bytes: Index


class Key(Settings):
    """What makes an execution this one."""

    run_hash: Sha256
    fault: dict[str, Any] | None
    repetition: Index
    group: StrictStr | None


class RankEntry(Settings):
    """One process of several."""

    pid: Index | None
    gpu: Gpu | None


def _once(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A run that was read already is not validated again; see `_with_known_run`."""
    return value if isinstance(value, Settings) else validate(value)


class Manifest(Settings):
    """`manifest.json`: what was executed, where, how it ended, and the hash of each file."""

    format: Literal["pytest-gates/evidence/1"]
    key: Key
    run: Annotated[Run, WrapValidator(_once)]
    """In full, with the defaults it ran with."""
    host: HostInfo
    status: StrictStr
    reason: StrictStr | None
    wall_ms: float | None
    pid: Index | None
    run_folder: StrictBool
    started: StrictStr | None
    declared: StrictBool
    code: StrictStr | None
    notes: tuple[StrictStr, ...]
    ranks: tuple[RankEntry, ...] = ()
    """Left out where the run declares no `launch`."""
    files: dict[StrictStr, FileEntry]


def parse_manifest(data: bytes, folder: str, location: str) -> tuple[Manifest, str]:
    """A manifest and its id, proven against its folder's name and the run that it tells of.

    Args:
        data: the bytes of the file.
        folder: path of the folder that it lies in.
        location: what errors call that folder.

    Raises:
        EvidenceError: it is no manifest, or that of another folder or run.
    """
    place = f"{location}/{MANIFEST}"
    found = hashlib.sha256(data).hexdigest()
    parent, _, name = folder.rpartition("/")
    said = name.rpartition("-")[2]
    if found[:10] != said:
        true = next(Path(parent).glob(f"*-{found[:10]}"), None)
        if true is not None:
            text = f"it is the manifest of {true.name}, put in its place"
            raise SwappedEvidenceError(f"{place}: {text}")
        raise ChangedEvidenceError(
            f"{place}: SHA-256 is {found[:10]}… but the folder's name says {said[:10]}…: "
            "the file was changed after it was recorded"
        )
    try:
        manifest = Manifest.model_validate(_with_known_run(parse_canonical(data)))
    except ValidationError as error:
        raise EvidenceError(f"{place}: {describe(error)}") from None
    except ValueError as error:
        raise EvidenceError(f"{place}: {error}") from None
    if (declared := run_hash(manifest.run)) != manifest.key.run_hash:
        said = manifest.key.run_hash
        raise EvidenceError(f"{place}: its run hashes to {declared[:10]}…, not to {said[:10]}…")
    if manifest.status not in STATUSES:
        raise EvidenceError(f"{place}: unknown status {manifest.status}")
    if bad := [name for name in manifest.files if not FILE_NAME.fullmatch(name)]:
        raise EvidenceError(f"{place}: {bad[0]!r} is no plain file name")
    if name != (true_name := folder_name(manifest.key.run_hash, found)):
        raise EvidenceError(f"{place}: the folder should be {true_name}")
    return manifest, found


_RUNS_KEPT = 1024
_runs: dict[bytes, Run] = {}
"""Runs that were read already, by their values: thousands of manifests share a few."""


def _with_known_run(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("run"), dict):
        return value  # refused by the model
    said = marshal.dumps(value["run"], 2)  # equal bytes, equal values; JSON would take ten times
    if said not in _runs:
        if len(_runs) >= _RUNS_KEPT:
            _runs.clear()
        try:
            _runs[said] = run_adapter.validate_python(value["run"])
        except ValidationError:
            return value  # the model says so at its place
    return value | {"run": _runs[said]}


def folder_name(hashed_run: str, id_: str) -> str:
    """Name of the folder of evidence, by the hash of its run and its id."""
    return f"{hashed_run[:10]}-{id_[:10]}"
