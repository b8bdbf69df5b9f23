"""Driver `command`: a program of the team's own, and what it wrote, as evidence."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_gates.disk import read_inside, read_regular
from pytest_gates.errors import EvidenceError, RunError
from pytest_gates.evidence import FIELDS_THERE, TELEMETRY_GAP, HostInfo
from pytest_gates.model.command import OUT, CommandRun
from pytest_gates.model.sources import ProgramFile
from pytest_gates.readers.contents import Contents
from pytest_gates.readers.jsonl import read_jsonl
from pytest_gates.readers.recorded import names_there, only, telemetry_bytes
from pytest_gates.readers.sources import read_source, up_to_last_line, whole_lines
from pytest_gates.readers.telemetry import parse_telemetry
from pytest_gates.run.bench import Bench
from pytest_gates.run.drivers.process import held_device, longest_s, sealed
from pytest_gates.run.drivers.project_logs import Earlier, is_old, matching, turn_in_project
from pytest_gates.run.plan import Execution
from pytest_gates.run.program import EMITTED, STDOUT, redacted, redacted_lines
from pytest_gates.run.sabotage import tampering
from pytest_gates.run.worker import Finished, Order

LOGS = "logs"
"""Folder of what programs printed, in the cache that git ignores; no evidence, for people."""
LOG_BYTES = 2**20
"""The end of its output that is kept."""


def produce(bench: Bench, execution: Execution, holder: str) -> list[Path]:
    """Start the program while holding its device, watch it to its end, and seal what it told.

    Raises:
        RunError: the driver is not allowed, the device stayed held, or nothing could be started.
        EvidenceError: the evidence could not be kept.
    """
    run = execution.run
    assert isinstance(run, CommandRun)
    forbidden = bench.obstacle(run)
    if forbidden is not None:
        raise RunError(forbidden)
    with turn_in_project(bench, run, holder) as earlier:
        return [_produced(bench, execution, run, holder, earlier)]


def _produced(
    bench: Bench, execution: Execution, run: CommandRun, holder: str, earlier: Earlier
) -> Path:
    with (
        bench.live.shows(f"{holder}: {execution.title}", run.declares.steps) as on_line,
        held_device(bench, [execution], holder) as gpus,
    ):
        [finished] = bench.worker.execute_in_turns(
            [Order(run, execution.fault_data, execution.repetition, gpus=gpus)],
            timeout_s=longest_s(bench, [execution]),
            on_line=on_line,
        )
    try:
        log = _keep_log(bench, execution, finished)
        if finished.status != "COMPLETED":
            finished = replace(finished, reason=f"{finished.reason}; its output is in {log}")
        told, notes = _told(bench, run, finished, earlier)
        finished = replace(finished, host=_with_versions(finished.host, told))
        files = _files(finished, _tampered(told, execution.fault_data))
        return sealed(bench, execution, finished, files, notes)
    finally:
        shutil.rmtree(finished.staging, ignore_errors=True)


# --- what the program told -----------------------------------------------------------------------


def _told(
    bench: Bench, run: CommandRun, finished: Finished, earlier: Earlier
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Telemetry files by name, and notes. What cannot be read is said in the telemetry itself."""
    if not run.telemetry:
        return _emitted(bench, finished)
    contents: list[tuple[str, Contents]] = []
    notes: list[str] = []
    gaps: list[str] = []
    for source in run.telemetry:
        try:
            data = _data(bench, source, finished, earlier)
            if finished.status != "COMPLETED":
                data, cut = whole_lines(source, data)
                notes += [f"{source.place}: the half-written last line was left out"] * cut
            sha = hashlib.sha256(data).hexdigest()
            notes.append(f"{source.place}: {len(data)} bytes, SHA-256 {sha}")
            contents.append((source.place, _read(source, data)))
        except EvidenceError as error:
            gaps.append(str(error))
    telling = None
    try:
        telling = only([(place, one) for place, one in contents if one.lines])
    except EvidenceError as error:
        gaps.append(str(error))
    facts = [*names_there([one for _, one in contents]), *_gap(gaps)]
    notes += [note for _, one in contents for note in one.notes]
    data = redacted_lines(telemetry_bytes(telling, facts))
    return {"telemetry-0.jsonl": data}, tuple(map(redacted, notes))


def _read(source: ProgramFile, data: bytes) -> Contents:
    if not data.strip():
        raise EvidenceError(f"{source.place}: the program wrote nothing there")
    return read_source(source, data, source.place)


def _gap(gaps: list[str]) -> list[dict[str, Any]]:
    text = redacted("; ".join(gaps)) or None
    return [{"kind": "fact", "name": TELEMETRY_GAP, "value": text}]


def _data(bench: Bench, source: ProgramFile, finished: Finished, earlier: Earlier) -> bytes:
    """The bytes of a source, as this run wrote them; what is in `{out}` was written by it.

    Raises:
        EvidenceError: it is not there, of an earlier run, or larger than a run's evidence may be.
    """
    limit = bench.limit_bytes
    if source.path is None:
        return read_regular(finished.staging / STDOUT, source.place, limit)
    inside = source.path.startswith(OUT)
    root = finished.out if inside else bench.settings.root
    path = source.path.removeprefix(f"{OUT}/")
    try:
        return read_inside(
            root, _of_this_run(root, path, source.place, {} if inside else earlier, limit), limit
        )
    except EvidenceError as error:
        text = str(error)
        raise EvidenceError(text if "*" in path else text.replace(path, source.place, 1)) from None


def _of_this_run(root: Path, path: str, place: str, earlier: Earlier, limit: int) -> str:
    """The one file that a path means and that no earlier run left."""
    there = matching(root, path)
    new = [one for one in there if not is_old(root, one, earlier, limit)]
    if there and not new:
        raise EvidenceError(
            f"{place}: was there before the run, and still begins with what it held then; "
            f"write into {OUT}, or begin the file anew"
        )
    if len(new) != 1:
        raise EvidenceError(f"{place}: {len(new)} files fit, expected one")
    return new[0]


def _emitted(bench: Bench, finished: Finished) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Published telemetry as it is, a file a rank, if all of it can be read."""
    told: dict[str, bytes] = {}
    notes: list[str] = []
    gaps: list[str] = []
    names: dict[str, list[str]] = {}
    for path in sorted(finished.out.glob(EMITTED)):
        try:
            data = read_regular(path, path.name, bench.limit_bytes)
            if finished.status != "COMPLETED":
                data, cut = up_to_last_line(data)
                notes += [f"{path.name}: the half-written last line was left out"] * cut
            said, _ = parse_telemetry(data, path.name)
        except EvidenceError as error:
            gaps.append(str(error))
            continue
        names[path.name] = sorted(said.steps.columns)
        told[path.name] = redacted_lines(data)
    if not told and not gaps:
        gaps.append(
            "the program wrote no telemetry; let it use pytest_gates.emit, or declare `telemetry`"
        )
    facts = [{"kind": "fact", "name": FIELDS_THERE, "value": names}, *_gap(gaps)]
    first = told.get("telemetry-0.jsonl", b"")
    newline = b"" if first.endswith(b"\n") or not first else b"\n"
    told["telemetry-0.jsonl"] = first + newline + telemetry_bytes(None, facts)
    return told, tuple(notes)


# --- what becomes of it --------------------------------------------------------------------------


def _tampered(told: dict[str, bytes], fault: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The telemetry as a fault leaves it that changes what is read."""
    change = tampering(fault)
    if change is None:
        return told
    contents = {}
    for name, data in told.items():
        lines = read_jsonl(data, name).lines
        contents[name] = telemetry_bytes(Contents(lines=tuple(map(change, lines))), ())
    return contents


def _with_versions(host: HostInfo, told: Mapping[str, bytes]) -> HostInfo:
    """The machine with the versions of torch and CUDA that the program says it has."""
    facts = parse_telemetry(told["telemetry-0.jsonl"], "telemetry-0.jsonl")[0].facts
    torch, cuda = facts.get("torch"), facts.get("cuda_built")
    return replace(
        host,
        torch=torch if isinstance(torch, str) else host.torch,
        cuda=cuda if isinstance(cuda, str) else host.cuda,
    )


def _files(finished: Finished, told: Mapping[str, bytes]) -> dict[str, Path]:
    folder = finished.staging / "told"
    try:
        folder.mkdir()
        for name, data in told.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
    return {name: folder / name for name in told}


def _keep_log(bench: Bench, execution: Execution, finished: Finished) -> str:
    """Keep the end of what the program printed, outside of all evidence; where, for people."""
    target = bench.settings.cache / LOGS / f"{execution.key[:12]}.txt"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as kept:
            for name in (STDOUT, "log.txt"):
                path = finished.staging / name
                if path.is_file():
                    kept.write(_end_of(path))
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror}") from None
    return bench.settings.shown(target)


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read()
