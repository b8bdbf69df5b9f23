"""Drivers `pretrain`, `forward` and `probe`: the program's own code in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_gates.errors import RunError
from pytest_gates.evidence import Gpu
from pytest_gates.evidence_store import RUNS, rank_witness, seal
from pytest_gates.model.config import CommandRun, PretrainRun, ProbeRun, RecordedRun
from pytest_gates.readers.artifacts import ARTIFACTS, encode, inventory
from pytest_gates.readers.witness_csv import write_witness
from pytest_gates.revision import code_revision
from pytest_gates.run.bench import Bench
from pytest_gates.run.counterexamples import known_counterexamples
from pytest_gates.run.device_lock import cpu_lock, gpu_lock
from pytest_gates.run.gpus import NoGpuError
from pytest_gates.run.plan import Execution, processes_of, threads_of
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
    alone = len(members) == 1
    with (
        bench.live.shows(f"{holder}: {execution.title}", _steps(execution)) as on_line,
        held_device(bench, members, holder) as gpus,
    ):
        finished = bench.worker.execute_in_turns(
            [_order(bench, one, SHOWN_MIB if alone else (), gpus) for one in members],
            timeout_s=longest_s(bench, members),
            on_line=on_line,
        )
    try:
        return [_seal(bench, *pair) for pair in zip(members, finished, strict=True)]
    finally:
        for one in finished:
            shutil.rmtree(one.staging, ignore_errors=True)


def _steps(execution: Execution) -> int | None:
    return execution.run.steps if isinstance(execution.run, PretrainRun) else None


def _order(
    bench: Bench, execution: Execution, show_mib: tuple[int, ...], gpus: tuple[Gpu, ...]
) -> Order:
    run, source = execution.run, execution.source
    assert not isinstance(run, RecordedRun | CommandRun)
    resume_from = None if source is None else bench.kept(source)
    own = gpus[: processes_of(run)]
    folders = (bench.settings.evidence / RUNS, bench.sealed)
    known = known_counterexamples(bench.settings.root, folders, run)
    return Order(run, execution.fault_data, execution.repetition, show_mib, resume_from, own, known)


def longest_s(bench: Bench, members: Sequence[Execution]) -> float:
    """The longest time that any of them may take, for each of them."""
    declared = [one.run.timeout_s for one in members if not isinstance(one.run, RecordedRun)]
    return len(members) * max(one or bench.settings.timeout_s for one in declared)


@contextmanager
def held_device(
    bench: Bench, members: Sequence[Execution], holder: str
) -> Iterator[tuple[Gpu, ...]]:
    """Hold what the members need, taking turns on it; yields the GPUs that a run is pinned to.

    None, where each means the GPUs that it would mean anyway.

    Raises:
        RunError: the device stayed held.
    """
    # The one that asks for most: what it holds is enough for the others.
    execution = max(members, key=lambda one: (processes_of(one.run), threads_of(one.run)))
    run = execution.run
    assert not isinstance(run, RecordedRun)
    running = f"{holder}, {execution.title}"
    timeout_s = bench.settings.lock_timeout_s
    gpus, environ = bench.worker.gpus, bench.worker.environ
    try:
        candidates, needed = gpus.pinnable(run, environ)
        asked = gpus.of_ranks(run, environ)
    except NoGpuError:
        slots, ended = bench.settings.cpu_slots, bench.ended
        with cpu_lock(
            threads_of(run), running=running, timeout_s=timeout_s, slots=slots, ended=ended
        ):
            yield ()
        return
    device = "cuda" if isinstance(run, ProbeRun) else run.device
    with gpu_lock(
        candidates,
        needed=needed,
        name=device,
        running=running,
        timeout_s=timeout_s,
        ended=bench.ended,
    ) as held:
        yield () if held == asked else held


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
    """Seal an execution: what it told, what its witnesses saw, and how it ended.

    Raises:
        RunError: the witnesses' samples could not be written.
        EvidenceError: the evidence could not be kept.
    """
    seen = [finished.witness, *(one.witness for one in finished.ranks[1:])]
    sampled = {rank_witness(rank): witness for rank, witness in enumerate(seen)}
    for name, witness in sampled.items():
        path = finished.staging / name
        try:
            write_witness(path, witness)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from None
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
        files={**files, **{name: finished.staging / name for name in sampled}},
        ranks=finished.ranks,
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
