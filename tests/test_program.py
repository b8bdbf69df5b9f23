"""A program's process from outside: the device it gets, and its children on that device."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import Device, FakeNvml

from pytest_gates.errors import RunError
from pytest_gates.evidence import Gpu
from pytest_gates.model.config import CommandRun
from pytest_gates.run.gpus import find_gpus
from pytest_gates.run.program import launch_of, redacted
from pytest_gates.run.sabotage import disturbance
from pytest_gates.run.worker import Worker

GPU = Gpu("NVIDIA H200", "GPU-22222222-bbbb", 143_771)


def a_run(**settings: Any) -> CommandRun:
    said = {"driver": "command", "argv": [sys.executable, "-c", "pass"], "device": "cuda:1"}
    return CommandRun.model_validate(said | settings)


def seen_by(run: CommandRun, folder: Path, fault: Mapping[str, Any] | None = None) -> str | None:
    gpus = (GPU,) if run.device.startswith("cuda") and run.host.cuda != "hidden" else ()
    environ = launch_of(run, fault, folder, folder, gpus).environ
    assert environ["PYTEST_GATES_DEVICE"] == run.device
    return environ.get("CUDA_VISIBLE_DEVICES")


def test_a_program_sees_the_one_gpu_that_it_is_given(tmp_path: Path) -> None:
    assert seen_by(a_run(), tmp_path) == GPU.uuid
    assert seen_by(a_run(device="cpu"), tmp_path) == ""
    assert seen_by(a_run(host={"cuda": "hidden"}), tmp_path) == ""
    assert seen_by(a_run(), tmp_path, {"fault": "hidden_devices"}) == ""


def test_a_fault_in_the_environment_has_the_last_word(tmp_path: Path) -> None:
    fault = {"fault": "other_environment", "variables": {"RATE": "0"}}
    launch = launch_of(
        a_run(environment={"RATE": "1", "SIZE": "2"}), fault, tmp_path, tmp_path, (GPU,)
    )
    assert (launch.environ["RATE"], launch.environ["SIZE"]) == ("0", "2")


def test_a_program_that_went_missing_since_it_was_planned(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no program 'gone' beside pytest's Python"):
        launch_of(a_run(argv=["gone"]), None, tmp_path, tmp_path, ())


def test_signals_of_a_slow_program_alternate_from_the_first_step_on() -> None:
    slow = disturbance({"fault": "slow_program", "pause_ms": 250, "run_ms": 125})
    assert slow is not None
    assert slow.due(0.0, spoke=False) == []
    told = [(at, slow.due(at / 8, spoke=True)) for at in range(8)]
    names = [(at, signal.Signals(number).name) for at, numbers in told for number in numbers]
    assert names == [(0, "SIGSTOP"), (2, "SIGCONT"), (3, "SIGSTOP"), (5, "SIGCONT"),
                     (6, "SIGSTOP")]  # fmt: skip


def test_what_is_a_secret_by_its_name_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 'se"cret-1')
    monkeypatch.setenv("COLOUR", "blue-and-green")
    text = redacted('a se"cret-1, {"b": "se\\"cret-1"}, blue-and-green')
    assert text == 'a <WANDB_API_KEY>, {"b": "<WANDB_API_KEY>"}, blue-and-green'


PARENT = """
import json, os, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
with open(os.path.join(os.environ["PYTEST_GATES_OUT"], "telemetry-0.jsonl"), "w") as file:
    file.write(json.dumps({"kind": "fact", "name": "child", "value": child.pid}) + "\\n")
while not os.path.exists(os.environ["SEEN"]):
    time.sleep(0.01)
child.kill()
child.wait()
"""


def test_the_memory_of_a_child_counts_as_the_runs(tmp_path: Path) -> None:
    device, seen = Device(processes={1: 70}), tmp_path / "seen"
    nvml = FakeNvml(device)

    def put_on_the_device(line: Mapping[str, Any]) -> None:
        device.processes[line["value"]] = 5000
        begun = nvml.looks
        while nvml.looks < begun + 3:
            time.sleep(0.01)
        seen.touch()

    run = a_run(
        device="cuda:0", argv=[sys.executable, "-c", PARENT], environment={"SEEN": str(seen)}
    )
    with Worker(cache=tmp_path / "c", root=tmp_path, gpus=find_gpus(nvml)) as worker:
        assert worker.why_not(run) is None  # torch is not asked for what the program may use
        finished = worker.execute(run, on_line=put_on_the_device, timeout_s=600)
        shutil.rmtree(finished.staging)
    assert finished.status == "COMPLETED", finished.reason
    held = [one for one in finished.witness.samples if one.used_mib is not None]
    assert {(one.pid, one.used_mib) for one in held} == {(finished.pid, 5000.0)}
    assert held[0].foreign_pids == 1
    assert finished.host.gpu is not None


RANK = """
import json, os, time
rank, folder = os.environ["RANK"], os.environ["PYTEST_GATES_OUT"]
said = [{"kind": "event", "event": "run_started", "step": None, "pid": os.getpid()},
        {"kind": "fact", "name": "visible", "value": os.environ["CUDA_VISIBLE_DEVICES"]}]
with open(f"{folder}/telemetry-{rank}.jsonl", "w") as file:
    file.writelines(json.dumps(one) + "\\n" for one in said)
while not os.path.exists(os.environ["SEEN"]):
    time.sleep(0.01)
"""


def test_each_rank_of_a_program_has_a_gpu_and_a_witness_of_its_own(tmp_path: Path) -> None:
    first, second = Device(uuid="GPU-1"), Device(uuid="GPU-2")
    nvml, seen = FakeNvml(first, second), tmp_path / "seen"
    run = a_run(
        device="cuda", launch={"processes": 2}, argv=[sys.executable, "-c", RANK],
        environment={"SEEN": str(seen)},
    )  # fmt: skip
    with Worker(cache=tmp_path / "c", root=tmp_path, gpus=find_gpus(nvml)) as worker:
        said: list[Mapping[str, Any]] = []

        def put_on_its_device(line: Mapping[str, Any]) -> None:
            said.append(line)
            if line.get("event") == "run_started":
                first.processes[line["pid"]] = 700
                return
            begun = nvml.looks
            while nvml.looks < begun + 6:
                time.sleep(0.01)
            seen.touch()

        finished = worker.execute(run, on_line=put_on_its_device, timeout_s=600)
        shutil.rmtree(finished.staging)
    assert finished.status == "COMPLETED", finished.reason
    assert [rank.gpu.uuid for rank in finished.ranks if rank.gpu] == ["GPU-1", "GPU-2"]
    assert said[1]["value"] == "GPU-1,GPU-2"
    pid = finished.ranks[0].pid
    assert pid not in {None, finished.pid}
    held = [one for one in finished.ranks[0].witness.samples if one.used_mib is not None]
    assert {(one.pid, one.used_mib) for one in held} == {(pid, 700.0)}
