"""Drivers `pretrain`, `forward` and `probe`: the program's own code in a process of its own."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from pytest_gates.errors import RunError
from pytest_gates.evidence_store import seal
from pytest_gates.model.config import PretrainRun, ProbeRun, RecordedRun
from pytest_gates.readers.witness_csv import write_witness
from pytest_gates.revision import code_revision
from pytest_gates.run.bench import Bench
from pytest_gates.run.device_lock import cpu_lock, gpu_lock
from pytest_gates.run.gpus import NoGpuError
from pytest_gates.run.plan import Execution
from pytest_gates.run.worker import Finished

SHOWN_MIB = (64, 160, 96)
"""Sizes a CUDA run allocates for the witness; unequal, so that none stands for another."""


def produce(bench: Bench, execution: Execution, holder: str) -> Path:
    """Execute a run while holding its device, and seal what it left.

    Raises:
        RunError: the device stayed held, or the process could not be started.
        EvidenceError: the evidence could not be kept.
    """
    run = execution.run
    assert not isinstance(run, RecordedRun)
    steps = run.steps if isinstance(run, PretrainRun) else None
    bench.live.start(f"{holder}: {execution.title}", steps)
    try:
        with _device(bench, execution, holder):
            finished = bench.worker.execute(
                run,
                fault=execution.fault_data,
                repetition=execution.repetition,
                show_mib=SHOWN_MIB,
                timeout_s=run.timeout_s or bench.settings.timeout_s,
                on_line=bench.live.line,
            )
    finally:
        bench.live.stop()
    try:
        return _seal(bench, execution, finished)
    finally:
        shutil.rmtree(finished.staging, ignore_errors=True)


def _device(bench: Bench, execution: Execution, holder: str) -> AbstractContextManager[None]:
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
    files: dict[str, Path] = {}
    if finished.run_folder:
        files |= {path.name: path for path in sorted(finished.out.glob("telemetry-*.jsonl"))}
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
        files=files | {"witness.csv": witness},
        fault=execution.fault_data,
        repetition=execution.repetition,
        group=execution.group,
        code=code_revision(),
        limit_bytes=bench.limit_bytes,
    )
