"""Runs of several processes, through the worker: real ranks, their PIDs, their ends, no orphan."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import Device, FakeNvml
from test_worker import NO_GPU, TESTS, gone
from training import TINY, Said

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.launch import Launch
from pytest_gates.model.parallel.command import torchrun
from pytest_gates.model.telemetry import decode_number
from pytest_gates.run.gpus import find_gpus
from pytest_gates.run.worker import Finished, Worker

SETTINGS: dict[str, Any] = {
    "driver": "pretrain", "device": "cpu", "model": TINY, "seq_len": 8, "batch_size": 8,
    "data": {"corpus": "python-stdlib"}, "steps": 6, "optimizer": {"warmup_steps": 2},
    "deterministic": True, "validation_batches": 1, "launch": {"processes": 2},
}  # fmt: skip
ENDLESS = {"steps": 90_000, "deterministic": False}


def run_of(**settings: Any) -> PretrainRun:
    return PretrainRun.model_validate({**SETTINGS, **settings})


class Ranks:
    """What each rank of a finished run said."""

    def __init__(self, finished: Finished) -> None:
        self.finished = finished
        count = len(list(finished.out.glob("telemetry-*.jsonl")))
        self.said = [Said(finished.out, rank) for rank in range(count)]

    def columns(self, metric: str) -> list[list[float | None]]:
        return [one.column(metric) for one in self.said]

    def facts(self, name: str) -> list[Any]:
        return [one.facts.get(name) for one in self.said]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    cache = tmp_path_factory.mktemp("cache")
    with Worker(cache=cache, root=cache, gpus=NO_GPU) as shared:
        yield shared


@pytest.fixture
def train(worker: Worker) -> Iterator[Any]:
    made: list[Path] = []

    def execute(resume_from: Path | None = None, fault: Any = None, **settings: Any) -> Ranks:
        finished = worker.execute(
            run_of(**settings), resume_from=resume_from, fault=fault, timeout_s=600
        )
        made.append(finished.staging)
        return Ranks(finished)

    yield execute
    for staging in made:
        shutil.rmtree(staging)


def test_two_ranks_are_children_of_the_launcher_and_hold_the_same(train: Any) -> None:
    ranks = train()
    finished = ranks.finished
    assert (finished.status, finished.reason) == ("COMPLETED", None)
    told = [one.events("run_started")[0]["pid"] for one in ranks.said]
    assert [one.pid for one in finished.ranks] == told
    assert len({finished.pid, *told}) == 3
    assert all(map(gone, told))
    assert ranks.facts("ranks") == [2, 2]
    assert ranks.facts("backend") == ["gloo", "gloo"]
    assert ranks.facts("reduction_error") == [0.0, 0.0]
    for metric in ("train_loss", "grad_norm", "param_hash"):
        first, second = ranks.columns(metric)
        assert len(first) == 6
        assert first == second
    first, second = ranks.columns("data_hash")
    assert not set(first) & set(second)
    assert len(set(ranks.facts("param_sha256"))) == 1
    shares = [share for column in ranks.columns("comm_share_pct") for share in column]
    assert all(share is not None and 0 < share <= 100 for share in shares)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_train_like_one_process_that_accumulates(train: Any, parallel: str) -> None:
    one = train(launch=None, micro_batches=2).said[0]
    ranks = train(parallel=parallel).said[0]
    for metric, tolerance in (("train_loss", 1e-5), ("grad_norm", 1e-5)):
        pairs = zip(one.column(metric), ranks.column(metric), strict=True)
        assert all(a is not None and b is not None and abs(a - b) < tolerance for a, b in pairs)
    assert one.facts["data_sha256"] == ranks.facts["data_sha256"]
    assert one.epochs[-1]["val_loss"] == pytest.approx(ranks.epochs[-1]["val_loss"], abs=1e-5)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_resumed_run_equals_one_that_never_stopped(train: Any, parallel: str) -> None:
    settings = {"parallel": parallel, "validate_every": 3, "checkpoint": "epoch"}
    whole = train(**settings)
    source = whole.finished.out / "checkpoints"
    resumed = train(
        resume_from=source,
        resume={"run": {**SETTINGS, **settings}, "epoch": 0},
        **settings,
    )
    assert resumed.finished.status == "COMPLETED", resumed.finished.reason
    for metric in ("train_loss", "grad_norm", "param_hash"):
        for before, after in zip(whole.columns(metric), resumed.columns(metric), strict=True):
            assert after == before[3:]
    assert resumed.facts("param_sha256") == whole.facts("param_sha256")
    saved = [len(one.events("checkpoint_saved")) for one in whole.said]
    assert saved == [2, 0]  # rank 0 closes what all have written


def test_a_sharded_checkpoint_that_was_changed_is_refused(train: Any) -> None:
    settings = {"parallel": "fsdp", "validate_every": 3, "checkpoint": "epoch"}
    source = train(**settings).finished.out / "checkpoints"
    again = {"resume": {"run": {**SETTINGS, **settings}, "epoch": 0}, **settings}
    whole = train(resume_from=source, **{**again, "parallel": "ddp"})
    assert whole.finished.status == "CONFIG_REFUSED"
    assert "sharded True" in (whole.finished.staging / "log.txt").read_text()
    shards = sorted((source / "epoch-000.dcp").iterdir())
    assert [shard.suffix for shard in shards] == [".safetensors"] * 2  # nothing to be unpickled
    shard = shards[1]
    listed = "".join(
        f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.parent.name}/{one.name}\n"
        for one in sorted((source / "epoch-000.optimizer.dcp").iterdir())
    )
    said = json.loads((source / "epoch-000.metadata.json").read_text())
    assert said["optimizer_state_sha256"] == hashlib.sha256(listed.encode()).hexdigest()
    written = bytearray(shard.read_bytes())
    written[len(written) // 2] ^= 1
    shard.write_bytes(written)
    changed = train(resume_from=source, **again)
    assert changed.finished.status == "CONFIG_REFUSED"
    log = (changed.finished.staging / "log.txt").read_text()
    assert f"epoch-000.dcp/{shard.name}: SHA-256 is" in log


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_nan_on_one_rank_ends_all_within_the_step(train: Any, parallel: str) -> None:
    stimulus = {"kind": "nan", "rank": 1, "step": 2}
    ranks = train(parallel=parallel, stimulus=stimulus)
    assert ranks.finished.status == "NUMERICAL_INSTABILITY"
    assert [len(one.events("stimulus_applied")) for one in ranks.said] == [0, 1]
    for one in ranks.said:
        assert [line["step"] for line in one.events("non_finite")] == [2]
        assert [line["status"] for line in one.events("rank_ended")] == ["NUMERICAL_INSTABILITY"]
        assert one.facts["optimizer_steps"] == 2


def test_a_killed_rank_ends_the_run_by_name_and_leaves_no_orphan(train: Any) -> None:
    ranks = train(**ENDLESS, stimulus={"kind": "kill", "rank": 1, "step": 4})
    finished = ranks.finished
    assert (finished.status, finished.reason) == (
        "KILLED", "rank 1 was ended by SIGKILL, its own stimulus at step 4",
    )  # fmt: skip
    assert None not in [one.pid for one in finished.ranks]
    assert all(gone(one.pid) for one in finished.ranks if one.pid is not None)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("summed_gradients", "reduction_error"),
        ("local_gradients", "param_sha256"),
        ("same_shard", "data_hash"),
    ],
)
def test_each_fault_shows_where_it_should_and_only_there(train: Any, fault: str, seen: str) -> None:
    ranks = train(fault={"fault": fault})
    assert ranks.finished.status == "COMPLETED"
    first, second = ranks.columns("data_hash")
    found = {
        "reduction_error": max(ranks.facts("reduction_error")) > 1e-6,
        "param_sha256": len(set(ranks.facts("param_sha256"))) > 1,
        "data_hash": first == second,
    }
    expected = {seen, "reduction_error"} if fault == "local_gradients" else {seen}
    assert {name for name, shown in found.items() if shown} == expected


def test_slow_communication_is_told_as_such(train: Any) -> None:
    ranks = train(fault={"fault": "slow_communication", "ms": 30})
    waits = [ms for column in ranks.columns("comm_ms") for ms in column]
    assert len(waits) == 12
    assert all(ms is not None and ms >= 30 for ms in waits)


def test_a_run_whose_time_is_up_ends_with_all_its_ranks(
    worker: Worker, hour_passes: Callable[[Callable[[], object]], None]
) -> None:
    steps: list[Mapping[str, Any]] = []  # the first one was made by all ranks

    def hear(line: Mapping[str, Any]) -> None:
        if line.get("kind") == "step":
            steps.append(line)

    hour_passes(lambda: steps)
    finished = worker.execute(run_of(**ENDLESS), timeout_s=600, on_line=hear)
    shutil.rmtree(finished.staging)
    assert finished.status == "TIMEOUT"
    assert len(finished.ranks) == 2
    assert all(one.pid is not None and gone(one.pid) for one in finished.ranks)


def test_a_port_that_somebody_else_holds_is_named(worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        meeting = f"localhost:{taken.getsockname()[1]}"
        launch = {"processes": 2, "rendezvous": meeting}
        finished = worker.execute(run_of(launch=launch), timeout_s=3)
    shutil.rmtree(finished.staging)
    assert finished.status == "TIMEOUT"
    assert finished.reason is not None
    assert finished.reason.endswith(f"no rank had begun: its nodes did not meet at {meeting}")


def test_ranks_die_with_their_launcher(worker: Worker) -> None:
    launchers: list[int] = []

    def end_launcher(line: Mapping[str, Any]) -> None:
        if line.get("event") == "run_started":
            launchers.append(psutil.Process(line["pid"]).ppid())
        if line.get("kind") == "step" and line["step"] == 2:
            os.kill(launchers[0], signal.SIGKILL)

    finished = worker.execute(run_of(**ENDLESS), timeout_s=600, on_line=end_launcher)
    shutil.rmtree(finished.staging)
    assert (finished.status, finished.reason) == ("KILLED", "ended by SIGKILL")
    assert launchers == [finished.pid]
    assert all(one.pid is not None and gone(one.pid) for one in finished.ranks)


def test_a_run_that_other_launchers_ranks_join_is_refused(tmp_path: Path) -> None:
    request = {"run": {**SETTINGS}, "root": str(tmp_path), "cache": str(tmp_path)}
    (tmp_path / "run.json").write_text(json.dumps(request))
    env = os.environ | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}
    command = [sys.executable, "-m", "pytest_gates.model", "run.json", "out"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "the run declares 2 ranks, 3 were started" in ended.stderr


def test_each_rank_is_watched_on_its_own_gpu(tmp_path: Path) -> None:
    def used_mib(rank: int) -> float:
        held = [file.read_text() for file in tmp_path.glob(f"staging/*/control/held-{rank}")]
        return 700.0 + sum(int(text or 0) for text in held)

    class Everybody(dict[int, int | None]):
        """Every process of this test's own holds memory on the device."""

        def __init__(self, rank: int) -> None:
            self.rank, self.looks = rank, 0

        def items(self) -> Any:
            self.looks += 1
            if self.looks > 1:  # a sample is complete: the rank need not live any longer
                for control in tmp_path.glob("staging/*/control"):
                    (control / f"sampled-{self.rank}").touch()
            return [(one.pid, 5000) for one in psutil.Process().children(recursive=True)]

    devices = [
        Device(uuid=f"GPU-{rank}", used_mib=lambda rank=rank: used_mib(rank),
               processes=Everybody(rank)) for rank in range(2)
    ]  # fmt: skip
    gpus = find_gpus(FakeNvml(*devices))
    with Worker(
        cache=tmp_path, root=tmp_path, gpus=gpus, entry="entries:ranks", preload=()
    ) as worker:
        worker.environ["PYTHONPATH"] += os.pathsep + str(TESTS)
        finished = worker.execute(run_of(device="cuda"), show_mib=(64, 160))
    assert [one.gpu.uuid for one in finished.ranks if one.gpu is not None] == ["GPU-0", "GPU-1"]
    pids = [Said(finished.out, rank).events("run_started")[-1]["pid"] for rank in range(2)]
    assert [one.pid for one in finished.ranks] == pids
    assert finished.ranks[0].witness == finished.witness
    for one in finished.ranks:
        assert {sample.pid for sample in one.witness.samples} <= {one.pid, None}
        assert any(sample.pid == one.pid for sample in one.witness.samples)
        seen = [(each.told_mib, each.seen_mib) for each in one.witness.allocations]
        assert seen == [(64, 64.0), (160, 160.0)]


@pytest.mark.slow
def test_torchrun_itself_can_start_the_ranks(tmp_path: Path) -> None:
    request = {"run": {**SETTINGS}, "root": str(tmp_path), "cache": str(tmp_path / "cache")}
    (tmp_path / "run.json").write_text(json.dumps(request))
    command = torchrun(Launch(processes=2), "run.json", "out", sys.executable)
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    first, second = (Said(tmp_path / "out", rank) for rank in range(2))
    assert first.facts["param_sha256"] == second.facts["param_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_rank_killed_at_a_random_step_ends_the_run_by_name(train: Any, number: int) -> None:
    drawn = random.Random(number)
    rank, step = drawn.randrange(2), drawn.randrange(40)
    parallel = drawn.choice(["ddp", "fsdp"])
    ranks = train(
        **ENDLESS, parallel=parallel, stimulus={"kind": "kill", "rank": rank, "step": step}
    )
    finished = ranks.finished
    assert (finished.status, finished.reason) == (
        "KILLED", f"rank {rank} was ended by SIGKILL, its own stimulus at step {step}",
    )  # fmt: skip
    assert all(one.pid is not None and gone(one.pid) for one in finished.ranks)
    losses = [decode_number(line["train_loss"]) for line in ranks.said[rank].steps]
    assert len(losses) in {step, step + 1}  # the host is at most one step ahead
