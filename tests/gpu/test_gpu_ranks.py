"""Several ranks through NCCL, each on a GPU of its own; as many as the machine has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_ranks import run_of
from training import Said

from pytest_gates.model.config import PretrainRun
from pytest_gates.run.worker import Finished, Worker

pytestmark = pytest.mark.gpu

SETTINGS = {"device": "cuda", "model": "llama-1m", "seq_len": 64, "batch_size": 8, "steps": 6}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cache = tmp_path_factory.mktemp("cache")
    with Worker(cache=cache, root=cache) as shared:
        yield shared


def executed(worker: Worker, run: PretrainRun) -> tuple[Finished, list[Said]]:
    finished = worker.execute(run, show_mib=(64, 160), timeout_s=180)
    log = (finished.staging / "log.txt").read_text()
    assert finished.status == "COMPLETED", log[-3000:]
    said = [Said(finished.out, rank) for rank in range(run.ranks)]
    shutil.rmtree(finished.staging)
    return finished, said


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_live_each_on_a_gpu_of_its_own(worker: Worker, ranks: int, parallel: str) -> None:
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"{ranks - torch.cuda.device_count()} GPUs missing")
    run = run_of(**SETTINGS, launch={"processes": ranks}, parallel=parallel)
    finished, said = executed(worker, run)
    assert [one.facts["device_resolved"] for one in said] == [f"cuda:{n}" for n in range(ranks)]
    assert {one.facts["backend"] for one in said} == {"nccl"}
    assert [one.facts["reduction_error"] for one in said] == [0.0] * ranks
    assert len({one.facts["param_sha256"] for one in said}) == 1
    pids = [one.events("run_started")[0]["pid"] for one in said]
    assert [one.pid for one in finished.ranks] == pids
    uuids = [one.gpu.uuid for one in finished.ranks if one.gpu is not None]
    assert uuids == [one.facts["device_uuid"] for one in said]
    for one in finished.ranks:
        assert one.witness.samples
        seen = [(each.told_mib, each.seen_mib) for each in one.witness.allocations]
        assert seen == [(64, 64.0), (160, 160.0)]


def test_a_rank_killed_on_its_gpu_ends_the_run(worker: Worker) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("1 GPU missing")
    stimulus = {"kind": "kill", "rank": 1, "step": 3}
    run = run_of(**{**SETTINGS, "steps": 50_000}, stimulus=stimulus)
    finished = worker.execute(run, timeout_s=180)
    shutil.rmtree(finished.staging)
    assert finished.reason == "rank 1 was ended by SIGKILL, its own stimulus at step 3"


def test_a_nan_on_one_gpu_ends_both(worker: Worker) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("1 GPU missing")
    run = run_of(**SETTINGS, stimulus={"kind": "nan", "rank": 1, "step": 3})
    finished = worker.execute(run, timeout_s=180)
    said = [Said(Path(finished.out), rank) for rank in range(2)]
    shutil.rmtree(finished.staging)
    assert finished.status == "NUMERICAL_INSTABILITY"
    assert [[line["step"] for line in one.events("non_finite")] for one in said] == [[3], [3]]
