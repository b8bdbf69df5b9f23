"""Evidence as files: sealed once, verified at every reading, never changed in between.

A folder `<first 10 of the run's hash>-<first 10 of the id>/` holds the run's files and a manifest
in canonical JSON that names each with its SHA-256; the id is the SHA-256 of the manifest. A folder
appears whole or not at all: files, manifest, fsync, rename, fsync of the parent.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import re
import socket
from collections.abc import Mapping, Sequence
from getpass import getuser
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

from pytest_gates.canonical import canonical, parse_canonical
from pytest_gates.disk import (
    fsync_folder,
    read_regular,
    resolve_inside,
    staged,
    write_durably,
)
from pytest_gates.errors import (
    ChangedEvidenceError,
    EvidenceError,
    MissingEvidenceError,
    SwappedEvidenceError,
)
from pytest_gates.evidence import (
    Artifact,
    Evidence,
    Gpu,
    HostInfo,
    Rank,
    Telemetry,
    Witness,
    run_adapter,
    run_hash,
)
from pytest_gates.model.config import Index, Run, Settings
from pytest_gates.model.telemetry import STATUSES
from pytest_gates.readers.artifacts import ARTIFACTS
from pytest_gates.readers.artifacts import parse as parse_artifacts
from pytest_gates.readers.telemetry import describe, parse_telemetry
from pytest_gates.readers.witness_csv import read_witness

FORMAT = "pytest-gates/evidence/1"
MANIFEST = "manifest.json"
WITNESS = "witness.csv"
RUNS = "runs"
"""Folder of promoted evidence beneath the project's evidence folder."""
LIMIT_BYTES = 64 * 2**20
"""Largest evidence of one run unless configured otherwise."""
MANIFEST_LIMIT_BYTES = 2**20

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TELEMETRY = re.compile(r"telemetry-(0|[1-9][0-9]{0,4})\.jsonl")
_SHA256 = r"^[0-9a-f]{64}$"
Sha256 = Annotated[StrictStr, Field(pattern=_SHA256)]


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


def seal(
    parent: Path,
    *,
    run: Run,
    host: HostInfo,
    status: str,
    reason: str | None,
    wall_ms: float | None,
    pid: int | None,
    run_folder: bool,
    started: str | None,
    files: Mapping[str, Path],
    fault: Mapping[str, Any] | None = None,
    repetition: int = 0,
    group: str | None = None,
    declared: bool = False,
    code: str | None = None,
    notes: tuple[str, ...] = (),
    ranks: Sequence[Rank] = (),
    limit_bytes: int = LIMIT_BYTES,
) -> Path:
    """Copy the files of one execution into an evidence folder beneath `parent`.

    Sealing the same again gives the same folder. `reason` loses host name, user and home folder.

    Raises:
        EvidenceError: the files exceed `limit_bytes`, or cannot be written; nothing is left then.
    """
    assert status in STATUSES, f"{status} is no status"
    assert all(rank_witness(number) in files for number in range(1, len(ranks)))
    hashed = run_hash(run)
    manifest = {
        "format": FORMAT,
        "key": {"run_hash": hashed, "fault": fault, "repetition": repetition, "group": group},
        "run": run.model_dump(mode="json"),
        "host": host,
        "status": status,
        "reason": None if reason is None else scrub(reason),
        "wall_ms": wall_ms,
        "pid": pid,
        "run_folder": run_folder,
        "started": started,
        "declared": declared,
        "code": code,
        "notes": notes,
        **({"ranks": [{"pid": one.pid, "gpu": one.gpu} for one in ranks]} if ranks else {}),
    }
    with staged(parent) as staging:
        _check_size(files, limit_bytes)
        entries = {name: _copy(source, staging / name) for name, source in files.items()}
        data = canonical({**manifest, "files": entries})
        write_durably(staging / MANIFEST, data)
        return _publish(staging, parent / _name(hashed, hashlib.sha256(data).hexdigest()))


def promote(folder: Path, evidence_root: Path) -> Path:
    """Copy a sealed folder to `evidence_root`/runs, verified on the way; twice is once.

    Raises:
        EvidenceError: a file is not what the manifest says, or cannot be written.
    """
    data = read_regular(folder / MANIFEST, str(folder / MANIFEST), MANIFEST_LIMIT_BYTES)
    manifest, _ = _manifest(data, str(folder), str(folder))
    parent = evidence_root / RUNS
    if (parent / folder.name / MANIFEST).is_file():
        return parent / folder.name
    with staged(parent) as staging:
        for name, entry in manifest.files.items():
            content = _verified(folder / name, f"{folder}/{name}", entry)
            write_durably(staging / name, content)
        write_durably(staging / MANIFEST, data)
        return _publish(staging, parent / folder.name)


def read_evidence(root: Path, location: str) -> Evidence:
    """Read an evidence folder and prove each byte of it against the manifest and the folder's name.

    Args:
        root: the project's root.
        location: the folder, relative to `root`, with forward slashes.

    Raises:
        EvidenceError: it lies outside `root` or behind a symbolic link, or a file is missing,
            changed or malformed; the message begins with the file.
    """
    folder = resolve_inside(root, location)
    if not os.path.isdir(folder):  # noqa: PTH112 - see resolve_inside
        raise MissingEvidenceError(f"{location}: no evidence folder")
    place = f"{location}/{MANIFEST}"
    data = read_regular(f"{folder}/{MANIFEST}", place, MANIFEST_LIMIT_BYTES)
    manifest, id_ = _manifest(data, folder, location)
    contents = {
        name: _verified(f"{folder}/{name}", f"{location}/{name}", entry)
        for name, entry in manifest.files.items()
    }
    telemetry, notes = _telemetry(contents, location, cut_off=manifest.status != "COMPLETED")
    return Evidence(
        id=id_,
        run=manifest.run,
        run_hash=manifest.key.run_hash,
        fault=manifest.key.fault,
        repetition=manifest.key.repetition,
        host=manifest.host,
        status=manifest.status,
        wall_ms=manifest.wall_ms,
        pid=manifest.pid,
        run_folder=manifest.run_folder,
        started=manifest.started,
        declared=manifest.declared,
        telemetry=telemetry,
        witness=_witness(folder, location, manifest),
        ranks=tuple(
            Rank(one.pid, one.gpu, _witness(folder, location, manifest, rank_witness(number)))
            for number, one in enumerate(manifest.ranks)
        ),
        artifacts=_artifacts(contents, location),
        reason=manifest.reason,
        location=location,
        group=manifest.key.group,
        code=manifest.code,
        notes=(*manifest.notes, *notes),
    )


def scrub(text: str) -> str:
    """The text without this machine's name, the user and the home folder."""
    text = text.replace(str(Path.home()), "~") if Path.home() != Path("/") else text
    text = re.sub(r"(?<![\w.~-])/(?:home|Users)/[^/\s:'\"]+", "~", text)
    host = socket.gethostname()
    for name, word in ((host, "<host>"), (host.split(".")[0], "<host>"), (_user(), "<user>")):
        # "root" and "localhost" name nobody, and are words of their own.
        if name and name not in {"root", "localhost"}:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", word, text)
    return text


def _user() -> str:
    try:
        return getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""


def _manifest(data: bytes, folder: str, location: str) -> tuple[Manifest, str]:
    """A manifest and its id, proven against its folder's name and the run that it tells of."""
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
    if bad := [name for name in manifest.files if not _FILE_NAME.fullmatch(name)]:
        raise EvidenceError(f"{place}: {bad[0]!r} is no plain file name")
    if name != (true_name := _name(manifest.key.run_hash, found)):
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


def _name(hashed_run: str, id_: str) -> str:
    return f"{hashed_run[:10]}-{id_[:10]}"


def _telemetry(
    contents: Mapping[str, bytes], location: str, *, cut_off: bool
) -> tuple[tuple[Telemetry, ...], tuple[str, ...]]:
    ranks: dict[int, Telemetry] = {}
    notes: list[str] = []
    for name, data in contents.items():
        if match := _TELEMETRY.fullmatch(name):
            said, left_out = parse_telemetry(data, f"{location}/{name}", cut_off=cut_off)
            ranks[int(match.group(1))] = said
            notes.extend(left_out)
    # A rank that died before its first word has no file, but the others keep their places.
    count = max(ranks, default=-1) + 1
    return tuple(ranks.get(rank, Telemetry()) for rank in range(count)), tuple(notes)


def _artifacts(contents: Mapping[str, bytes], location: str) -> tuple[Artifact, ...]:
    data = contents.get(ARTIFACTS)
    return () if data is None else parse_artifacts(data, f"{location}/{ARTIFACTS}")


def rank_witness(rank: int) -> str:
    """Name of the file of what was seen of a rank; that of rank 0 is the run's own."""
    return WITNESS if rank == 0 else f"witness-{rank}.csv"


def _witness(folder: str, location: str, manifest: Manifest, name: str = WITNESS) -> Witness:
    if name not in manifest.files:
        return Witness(unavailable="no samples were recorded")
    try:
        return read_witness(Path(folder) / name)
    except EvidenceError as error:
        raise EvidenceError(str(error).replace(folder, location)) from None


def _verified(path: Path | str, place: str, entry: FileEntry) -> bytes:
    data = read_regular(path, place)
    if len(data) != entry.bytes:
        raise ChangedEvidenceError(
            f"{place}: has {len(data)} bytes but the manifest says {entry.bytes}: "
            "the file was changed after it was recorded"
        )
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise ChangedEvidenceError(
            f"{place}: SHA-256 is {found[:10]}… but the manifest says {entry.sha256[:10]}…: "
            "the file was changed after it was recorded"
        )
    return data


def _check_size(files: Mapping[str, Path], limit_bytes: int) -> None:
    assert all(_FILE_NAME.fullmatch(name) and name != MANIFEST for name in files), list(files)
    total = sum(source.stat().st_size for source in files.values())
    if total > limit_bytes:
        raise EvidenceError(
            f"evidence of {total / 2**20:.1f} MiB in {len(files)} files exceeds the limit of "
            f"{limit_bytes / 2**20:.1f} MiB a run; declare fewer steps or raise the limit"
        )


def _copy(source: Path, target: Path) -> dict[str, Any]:
    hashed, size = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("xb") as write:
        while chunk := read.read(2**20):
            hashed.update(chunk)
            size += len(chunk)
            write.write(chunk)
        write.flush()
        os.fsync(write.fileno())
    return {"sha256": hashed.hexdigest(), "bytes": size}


def _publish(staging: Path, folder: Path) -> Path:
    fsync_folder(staging)
    try:
        staging.rename(folder)
    except OSError:
        # Somebody sealed the same before: the same id is the same manifest.
        if not _same_manifest(staging, folder):
            raise
    fsync_folder(folder.parent)
    return folder


def _same_manifest(staging: Path, folder: Path) -> bool:
    try:
        return (folder / MANIFEST).read_bytes() == (staging / MANIFEST).read_bytes()
    except OSError:
        return False
