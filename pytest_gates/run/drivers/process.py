"""Drivers `pretrain`, `forward` and `probe`: the program's own code in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pytest_gates.errors import RunError
from pytest_gates.evidence_store import seal
from pytest_gates.model.config import CommandRun, PretrainRun, ProbeRun, RecordedRun
from pytest_gates.readers.artifacts import ARTIFACTS, encode, inventory
from pytest_gates.readers.witness_csv import write_witness
from pytest_gates.revision import code_revision
from pytest_gates.run.bench import Bench
from pytest_gates.run.device_lock import cpu_lock, gpu_lock
from pytest_gates.run.gpus import NoGpuError
from pytest_gates.run.plan import Execution
from pytest_gates.run.worker import Finished, Order

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints in its run folder."""
SHOWN_MIB = (64, 160, 96)
"""Sizes a CUDA run allocates for the witness; unequal, so that none stands for another."""


def produce(bench: Bench, execution: Execution, holder: str) -> list[Path]:
    """Execute a run, with its whole group, while holding its device, and seal what is left.

    Raises:
        RunError: the device stayed held, or the process could not be started.
        EvidenceError: the evidence could not be kept.
    """
    members = execution.companions
    bench.live.start(f"{holder}: {execution.title}", _steps(execution))
    alone = len(members) == 1
    try:
        with held_device(bench, execution, holder):
            finished = bench.worker.execute_in_turns(
                [_order(bench, one, SHOWN_MIB if alone else ()) for one in members],
                timeout_s=longest_s(bench, members),
                on_line=bench.live.line,
            )
    finally:
        bench.live.stop()
    try:
        return [_seal(bench, *pair) for pair in zip(members, finished, strict=True)]
    finally:
        for one in finished:
            shutil.rmtree(one.staging, ignore_errors=True)


def _steps(execution: Execution) -> int | None:
    return execution.run.steps if isinstance(execution.run, PretrainRun) else None


def _order(bench: Bench, execution: Execution, show_mib: tuple[int, ...]) -> Order:
    run, source = execution.run, execution.source
    assert not isinstance(run, RecordedRun | CommandRun)
    resume_from = None if source is None else bench.kept(source)
    return Order(run, execution.fault_data, execution.repetition, show_mib, resume_from)


def longest_s(bench: Bench, members: Sequence[Execution]) -> float:
    """The longest time that any of them may take, for each of them."""
    declared = [one.run.timeout_s for one in members if not isinstance(one.run, RecordedRun)]
    return len(members) * max(one or bench.settings.timeout_s for one in declared)


def held_device(bench: Bench, execution: Execution, holder: str) -> AbstractContextManager[None]:
    """The lock of what a run computes on."""
    run = execution.run
    assert not isinstance(run, RecordedRun)
    running = f"{holder}, {execution.title}"
    timeout_s = bench.settings.lock_timeout_s
    try:
        gpu = bench.worker.gpus.of(run, bench.worker.environ)
    except NoGpuError:
        threads = 1 if isinstance(run, ProbeRun) else run.threads
        return cpu_lock(threads, running=running, timeout_s=timeout_s)
    device = "cuda" if isinstance(run, ProbeRun) else run.device
    return gpu_lock(gpu, name=device, running=running, timeout_s=timeout_s)


def _seal(bench: Bench, execution: Execution, finished: Finished) -> Path:
    files = _artifacts(bench, execution, finished)
    if finished.run_folder:
        files |= {path.name: path for path in sorted(finished.out.glob("telemetry-*.jsonl"))}
    return sealed(bench, execution, finished, files)


def sealed(
    bench: Bench,
    execution: Execution,
    finished: Finished,
    files: Mapping[str, Path],
    notes: tuple[str, ...] = (),
) -> Path:
    """Seal an execution: what it told, what the witness saw, and how it ended.

    Raises:
        RunError: the witness's samples could not be written.
        EvidenceError: the evidence could not be kept.
    """
    witness = finished.staging / "witness.csv"
    try:
        write_witness(witness, finished.witness)
    except OSError as error:
        raise RunError(f"{witness}: cannot be written: {error.strerror}") from None
    return seal(
        bench.sealed,
        run=execution.run,
        host=finished.host,
        status=finished.status,
        reason=finished.reason,
        wall_ms=finished.wall_ms,
        pid=finished.pid,
        run_folder=finished.run_folder,
        started=finished.started,
        files={**files, "witness.csv": witness},
        notes=notes,
        fault=execution.fault_data,
        repetition=execution.repetition,
        group=execution.group,
        code=code_revision(),
        limit_bytes=bench.limit_bytes,
    )


def _artifacts(bench: Bench, execution: Execution, finished: Finished) -> dict[str, Path]:
    """Keep a run's checkpoints for the runs that continue it, and list them for the evidence."""
    made, kept = finished.out / CHECKPOINTS, bench.kept(execution)
    source = execution.source
    if not made.is_dir() and source is None:
        return {}
    listed = finished.staging / ARTIFACTS
    try:
        found = [*inventory(made, CHECKPOINTS)]
        if source is not None:
            found += inventory(bench.kept(source), "source")
        listed.write_text(encode(found), encoding="utf-8")
        if made.is_dir():
            kept.parent.mkdir(parents=True, exist_ok=True)
            made.rename(kept)
    except OSError as error:
        raise RunError(f"{kept}: cannot be written: {error.strerror}") from None
    return {ARTIFACTS: listed}
