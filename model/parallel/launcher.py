"""Starts the ranks of a run through torch's own elastic launcher, and says how they ended.

The launcher is the run's process: the forkserver started it as it starts any run. torch's agent
forks the ranks from it, torch loaded and CUDA untouched, and each calls the one entry of a run's
process. A rank that ends badly ends the others; nothing is restarted.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.parallel.place import LAUNCHER, Place
from pytest_gates.model.telemetry import STATUSES

Entry = Callable[[Path, Path], int]

_STATUS_OF_CODE = {code: status for status, code in STATUSES.items() if code is not None}
_SHUTDOWN_S = "10"
"""Seconds that torch's agent gives ranks between SIGTERM and SIGKILL."""
_HANDED_OVER = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def launch(run: PretrainRun, entry: Entry, request: Path, out: Path, started_ns: int) -> int:
    """Start the ranks and wait for them; the exit code of a run, or an end by a rank's signal.

    Args:
        run: declares `launch`.
        entry: what a run's process calls; here in each rank.
        request: a `config.Request` as JSON.
        out: the run's folder, made by the ranks.
        started_ns: `time.monotonic_ns()` at the start of this process.
    """
    settings = run.launch
    assert settings is not None
    # torch's agent asks whether there is CUDA; through NVML that leaves CUDA untouched here.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = _SHUTDOWN_S
    os.environ["OMP_NUM_THREADS"] = str(run.threads)
    os.environ[LAUNCHER] = f"{os.getpid()} {started_ns}"
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import (  # noqa: PLC0415
        ChildFailedError,
    )
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    module = "fsdp" if run.sharded else "ddp"
    importlib.import_module(f"pytest_gates.model.parallel.{module}")  # once, for all ranks
    # What torch's agent leaves goes where the run's own files are, and with them.
    with tempfile.TemporaryDirectory(prefix="launcher-", dir=request.parent) as logs:
        config = LaunchConfig(
            min_nodes=settings.nodes,
            max_nodes=settings.nodes,
            nproc_per_node=settings.processes,
            run_id=str(uuid.uuid4()) if settings.nodes == 1 else "pytest-gates",
            rdzv_backend="c10d",
            rdzv_endpoint=settings.rendezvous or "localhost:0",
            local_addr="127.0.0.1" if settings.nodes == 1 else None,
            max_restarts=0,
            monitor_interval=0.05,
            start_method="fork",
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, _rank)(entry, request, out)
        except ChildFailedError as error:
            failed = {rank: one.exitcode for rank, one in error.failures.items()}
        else:
            return 0
    return _ended(failed)


def _rank(entry: Entry, request: Path, out: Path) -> int:
    """One rank's whole life."""
    for number in _HANDED_OVER:  # the agent's own handlers came along with its fork
        signal.signal(number, signal.SIG_DFL)
    place = Place.of(os.environ)
    assert place is not None
    place.die_with_launcher()
    code = entry(request, out)
    if code:
        sys.stderr.flush()
        sys.exit(code)
    return code


def _ended(failed: Mapping[int, int]) -> int:
    """Say why the group ended, as a run's process does; a signal is passed on."""
    rank, code = min(failed.items(), key=lambda one: (one[1] >= 0, one[0]))
    if code < 0:
        status, reason = "KILLED", f"rank {rank} was ended by {signal.Signals(-code).name}"
    else:
        status = _STATUS_OF_CODE.get(code, "ERROR")
        reason = f"rank {rank} ended {status} (exit code {code})"
    print(json.dumps({"status": status, "reason": reason}), file=sys.stderr, flush=True)  # noqa: T201
    if code < 0:
        # What ended a rank ends the group: whoever waits for this process sees the signal itself.
        os.kill(os.getpid(), signal.SIGKILL)
    return code
