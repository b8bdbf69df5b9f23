"""The witness and the worker on a real GPU: what the tests beside a fake NVML take for granted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_gates.model.config import (
    Data,
    ForwardRun,
    Host,
    Optimizer,
    PretrainRun,
)
from pytest_gates.run.gpus import MIB, find_gpus
from pytest_gates.run.worker import Finished, Worker

GPUS = find_gpus()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPUS.all, reason="no NVIDIA GPU on this machine"),
]

SHOWN_MIB = (64, 160, 96)


def forward(device: str, cuda: str = "any") -> ForwardRun:
    host = Host.model_validate({"cuda": cuda})
    return ForwardRun(driver="forward", device=device, model="llama-1m", host=host)


def pretrain(device: str) -> PretrainRun:
    return PretrainRun(
        driver="pretrain",
        device=device,
        model="llama-10m",
        data=Data(corpus="python-stdlib"),
        seq_len=512,
        batch_size=32,
        steps=120,
        optimizer=Optimizer(warmup_steps=10),
        validation_batches=0,
    )


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    cache = tmp_path_factory.mktemp("cache")
    with Worker(cache=cache, root=cache) as shared:
        yield shared


@pytest.fixture(scope="module")
def trained(worker: Worker) -> Finished:
    finished = worker.execute(pretrain("cuda:0"), show_mib=SHOWN_MIB, timeout_s=300)
    assert finished.status == "COMPLETED", (finished.staging / "log.txt").read_text()
    return finished


def test_the_forkserver_never_opens_a_gpu(worker: Worker) -> None:
    servers: list[list[str]] = []

    def look(line: Mapping[str, Any]) -> None:
        if not servers:
            (server,) = psutil.Process().children()
            servers.append([str(link.readlink()) for link in _open_files(server.pid)])

    worker.execute(forward("cuda:0"), on_line=look, timeout_s=60)
    assert servers
    assert not [name for name in servers[0] if "nvidia" in name]


def _open_files(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


def test_the_host_is_told(trained: Finished) -> None:
    assert trained.host.gpu == GPUS.all[0]
    assert trained.host.driver == GPUS.driver
    assert trained.host.torch is not None
    assert trained.host.cuda is not None


def test_the_run_is_seen_on_the_device_with_its_memory(trained: Finished) -> None:
    witness = trained.witness
    assert witness.unavailable is None
    assert len(witness.samples) >= 10 * trained.wall_ms / 1000
    if "pid" in witness.gaps:
        pytest.skip(f"NVML lists other PIDs here: {witness.gaps['pid']}")
    floor = pretrain("cuda:0").census_bytes / MIB
    used = [sample.used_mib for sample in witness.samples if sample.pid == trained.pid]
    assert max(mib for mib in used if mib is not None) >= floor


def test_the_device_is_seen_at_work(trained: Finished) -> None:
    samples = trained.witness.samples
    assert max(sample.device_used_mib or 0 for sample in samples) > 100
    assert all(sample.power_w is not None for sample in samples)
    assert all(sample.reasons is not None for sample in samples)
    assert all(sample.sm_clock_mhz is not None for sample in samples)


def test_told_allocations_are_seen_exactly(trained: Finished) -> None:
    seen = [(each.told_mib, each.seen_mib) for each in trained.witness.allocations]
    assert seen == [(mib, float(mib)) for mib in SHOWN_MIB]


def test_a_run_on_the_cpu_shows_nothing_on_the_device(worker: Worker) -> None:
    finished = worker.execute(
        forward("cuda:0"),
        fault={"fault": "silent_cpu_fallback"},
        show_mib=SHOWN_MIB,
        timeout_s=60,
    )
    assert finished.status == "COMPLETED"
    assert {sample.pid for sample in finished.witness.samples} == {None}
    assert [each.seen_mib for each in finished.witness.allocations] == [0.0] * len(SHOWN_MIB)


@pytest.mark.parametrize("run", [forward("cuda:15"), forward("cuda", "hidden")])
def test_a_device_that_is_not_there_is_refused_at_once(worker: Worker, run: ForwardRun) -> None:
    finished = worker.execute(run, timeout_s=60)
    assert finished.status == "DEVICE_UNAVAILABLE"
    assert not finished.run_folder
    assert finished.wall_ms < 2_000


def test_this_machine_can(worker: Worker) -> None:
    assert worker.why_not(forward("cuda:0")) is None
    assert worker.why_not(forward("cuda:15")) is not None
    assert worker.why_not(forward("cuda:15", "hidden")) is None


ALONE = """
import os, pathlib, sys
from pytest_gates.model.config import ForwardRun
from pytest_gates.run.gpus import find_gpus
from pytest_gates.run.worker import Worker

place, gpus = pathlib.Path(sys.argv[1]), find_gpus()
run = ForwardRun(driver="forward", device="cuda:0", model="llama-1m")
with Worker(cache=place, root=place, gpus=gpus) as worker:
    print(worker.execute(run, timeout_s=60).status)
    found = gpus.nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpus.handle(gpus.all[0]))
    print(os.getpid() in {process.pid for process in found})
"""


def test_the_parent_has_no_context_on_the_device(tmp_path: Path) -> None:
    # A process of its own: other tests of this one compute on the device themselves.
    told = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["COMPLETED", "False"]
