"""Evidence as files: sealed once, verified at every reading, never changed in between.

A folder `<first 10 of the run's hash>-<first 10 of the id>/` holds the run's files and a manifest
in canonical JSON that names each with its SHA-256; the id is the SHA-256 of the manifest. A folder
appears whole or not at all: files, manifest, fsync, rename, fsync of the parent.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping, Sequence
from getpass import getuser
from pathlib import Path
from typing import Any

from pytest_gates.canonical import canonical
from pytest_gates.disk import (
    folder_inside,
    fsync_folder,
    read_regular,
    refuse_links,
    staged,
    write_durably,
)
from pytest_gates.errors import (
    ChangedEvidenceError,
    EvidenceError,
    MissingEvidenceError,
)
from pytest_gates.evidence import (
    Artifact,
    Evidence,
    HostInfo,
    Rank,
    Telemetry,
    Witness,
    run_hash,
)
from pytest_gates.manifest import (
    FILE_NAME,
    FORMAT,
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    FileEntry,
    Manifest,
    folder_name,
    parse_manifest,
)
from pytest_gates.model.config import Run
from pytest_gates.model.telemetry import STATUSES
from pytest_gates.readers.artifacts import ARTIFACTS
from pytest_gates.readers.artifacts import parse as parse_artifacts
from pytest_gates.readers.telemetry import parse_telemetry
from pytest_gates.readers.witness_csv import read_witness

WITNESS = "witness.csv"
RUNS = "runs"
"""Folder of promoted evidence beneath the project's evidence folder."""
LIMIT_BYTES = 64 * 2**20
"""Largest evidence of one run unless configured otherwise."""

_TELEMETRY = re.compile(r"telemetry-(0|[1-9][0-9]{0,4})\.jsonl")


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
    files: Mapping[str, Path] | Mapping[str, bytes],
    fault: Mapping[str, Any] | None = None,
    repetition: int = 0,
    group: str | None = None,
    declared: bool = False,
    code: str | None = None,
    notes: tuple[str, ...] = (),
    ranks: Sequence[Rank] = (),
    limit_bytes: int = LIMIT_BYTES,
) -> Path:
    """Put the files of one execution, or their bytes, into an evidence folder beneath `parent`.

    Sealing the same again gives the same folder, and nothing is written where the bytes are at
    hand: those of recorded runs are sealed in each session. `reason` loses host name, user and
    home folder.

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
        at_hand = {name: _entry(one) for name, one in files.items() if isinstance(one, bytes)}
        if len(at_hand) == len(files):
            data = canonical({**manifest, "files": at_hand})
            folder = parent / folder_name(hashed, hashlib.sha256(data).hexdigest())
            if _has_manifest(folder, data):
                return folder
        entries = {name: _put(source, staging / name) for name, source in files.items()}
        data = canonical({**manifest, "files": entries})
        write_durably(staging / MANIFEST, data)
        return _publish(staging, parent / folder_name(hashed, hashlib.sha256(data).hexdigest()))


def promote(folder: Path, evidence_root: Path) -> Path:
    """Copy a sealed folder to `evidence_root`/runs, verified on the way; twice is once.

    Raises:
        EvidenceError: a file is not what the manifest says, or cannot be written.
    """
    data = read_regular(folder / MANIFEST, str(folder / MANIFEST), MANIFEST_LIMIT_BYTES)
    manifest, _ = parse_manifest(data, str(folder), str(folder))
    parent = evidence_root / RUNS
    refuse_links(evidence_root, parent)
    if (parent / folder.name / MANIFEST).is_file():
        return parent / folder.name
    with staged(parent) as staging:
        for name, entry in manifest.files.items():
            content = _verified(folder / name, f"{folder}/{name}", entry)
            write_durably(staging / name, content)
        write_durably(staging / MANIFEST, data)
        return _publish(staging, parent / folder.name)


def read_evidence(root: Path, location: str, proven: set[str] | None = None) -> Evidence:
    """Read an evidence folder and prove each byte of it against the manifest and the folder's name.

    Args:
        root: the project's root.
        location: the folder, relative to `root`, with forward slashes.
        proven: see `folder_inside`.

    Raises:
        EvidenceError: it lies outside `root` or behind a symbolic link, or a file is missing,
            changed or malformed; the message begins with the file.
    """
    folder = folder_inside(root, location, proven)
    if folder is None:
        raise MissingEvidenceError(f"{location}: no evidence folder")
    place = f"{location}/{MANIFEST}"
    data = read_regular(f"{folder}/{MANIFEST}", place, MANIFEST_LIMIT_BYTES)
    manifest, id_ = parse_manifest(data, folder, location)
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


def _check_size(files: Mapping[str, Path] | Mapping[str, bytes], limit_bytes: int) -> None:
    assert all(FILE_NAME.fullmatch(name) and name != MANIFEST for name in files), list(files)
    total = sum(len(one) if isinstance(one, bytes) else one.stat().st_size
                for one in files.values())  # fmt: skip
    if total > limit_bytes:
        raise EvidenceError(
            f"evidence of {total / 2**20:.1f} MiB in {len(files)} files exceeds the limit of "
            f"{limit_bytes / 2**20:.1f} MiB a run; declare fewer steps or raise the limit"
        )


def _entry(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _put(source: Path | bytes, target: Path) -> dict[str, Any]:
    if isinstance(source, bytes):
        write_durably(target, source)
        return _entry(source)
    return _copy(source, target)


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
        if not _has_manifest(folder, (staging / MANIFEST).read_bytes()):
            raise
    fsync_folder(folder.parent)
    return folder


def _has_manifest(folder: Path, data: bytes) -> bool:
    try:
        return (folder / MANIFEST).read_bytes() == data
    except OSError:
        return False
