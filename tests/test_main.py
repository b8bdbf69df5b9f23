"""The entry of a run's process: real subprocesses, their exit codes and what they leave behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from project import NO_BYTECODE

from pytest_gates.model.__main__ import run_request
from pytest_gates.model.telemetry import STATUSES

TINY = {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 24, "vocab": 256}
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


def write_request(folder: Path, run: dict[str, Any] | None = None, **request: Any) -> Path:
    values = {
        "driver": "pretrain", "device": "cpu", "model": TINY, "seq_len": 8, "batch_size": 2,
        "data": {"corpus": "python-stdlib"}, "steps": 3, "optimizer": {"warmup_steps": 1},
    }  # fmt: skip
    content = {
        "run": {**values, **(run or {})}, "root": str(folder), "cache": str(folder / "cache"),
        **request,
    }  # fmt: skip
    path = folder / "run.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def start(request: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest_gates.model",
        str(request),
        str(request.parent / "out"),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, **options
    )


def said(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "out" / "telemetry-0.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def facts(folder: Path) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in said(folder) if line["kind"] == "fact"}


def last_word(stderr: str) -> dict[str, str]:
    word = json.loads(stderr.splitlines()[-1])
    assert set(word) == {"status", "reason"}
    return word


@pytest.fixture(autouse=True)
def environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)


def test_a_run_as_a_process_ends_with_0_and_its_telemetry(tmp_path: Path) -> None:
    ended = start(write_request(tmp_path))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    lines = said(tmp_path)
    events = [line["event"] for line in lines if line["kind"] == "event"]
    assert events == [
        "run_started", "model_built", "optimizer_built", "training_started", "first_step_done",
        "run_finished",
    ]  # fmt: skip
    assert [line["step"] for line in lines if line["kind"] == "step"] == [0, 1, 2]
    assert facts(tmp_path)["device_requested"] == facts(tmp_path)["device_resolved"] == "cpu"
    assert facts(tmp_path)["threads"] == 1
    times = [line["at_ms"] for line in lines if line["kind"] == "event"]
    assert times == sorted(times)
    # On the time line of the process: importing torch lies before its first word.
    assert 100 < times[0] < 60_000


def test_a_kill_ends_the_process_by_its_signal_and_loses_no_step_before(tmp_path: Path) -> None:
    ended = start(write_request(tmp_path, {"stimulus": {"kind": "kill", "step": 2}}))
    assert ended.returncode == -signal.SIGKILL
    lines = said(tmp_path)
    assert [line["step"] for line in lines if line["kind"] == "step"] == [0, 1]
    assert lines[-1]["event"] == "stimulus_applied"
    assert lines[-1]["step"] == 2


@without_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_device_that_is_not_there_leaves_nothing_behind(tmp_path: Path, device: str) -> None:
    ended = start(write_request(tmp_path, {"device": device}))
    assert ended.returncode == STATUSES["DEVICE_UNAVAILABLE"] == 3
    word = last_word(ended.stderr)
    assert word["status"] == "DEVICE_UNAVAILABLE"
    expected = "no device visible" if torch.version.cuda else "torch is built without CUDA"
    assert word["reason"].startswith(f"{device} asked for; ")
    assert expected in word["reason"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_hidden_cuda_is_no_cuda(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    request = write_request(tmp_path, {"device": "cuda", "host": {"cuda": "hidden"}})
    ended = start(request)
    assert ended.returncode == 3
    assert not (tmp_path / "out").exists()
    assert "asked for" in last_word(ended.stderr)["reason"]
    assert capfd.readouterr().err == ""


@without_cuda
def test_auto_says_that_it_chose_the_cpu_and_cpu_does_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder, device, count in (("a", "auto", 1), ("b", "cpu", 0)):
        place = tmp_path / folder
        assert run_request(write_request(place, {"device": device}), place / "out") == 0
        chosen = [line for line in said(place) if line.get("event") == "auto_chose_cpu"]
        assert len(chosen) == count
        assert facts(place)["device_requested"] == device
        assert facts(place)["device_resolved"] == "cpu"


def test_silent_fallback_goes_on_on_the_cpu(tmp_path: Path) -> None:
    request = write_request(tmp_path, {"device": "cuda:0"}, fault={"fault": "silent_cpu_fallback"})
    assert run_request(request, tmp_path / "out") == 0
    found = facts(tmp_path)
    assert found["device_requested"] == "cuda:0"
    assert found["device_resolved"] == "cpu"
    assert found["device_uuid"] is None
    assert found["compute_dtype"] == "float32"
    assert list(found["residency_after"]["parameters"]) == ["cpu"]


def test_a_deterministic_run_is_one_before_cuda_starts(tmp_path: Path) -> None:
    ended = start(write_request(tmp_path, {"deterministic": True}))
    assert ended.returncode == 0
    assert facts(tmp_path)["deterministic"] is True


def test_data_that_cannot_serve_is_refused_with_the_numbers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(20))
    request = write_request(tmp_path, {"data": {"shards": ["a.bin"]}})
    assert run_request(request, tmp_path / "out") == STATUSES["CONFIG_REFUSED"]
    word = last_word(capfd.readouterr().err)
    assert word["status"] == "CONFIG_REFUSED"
    assert "a window of seq_len 8 needs 9" in word["reason"]


def test_a_request_that_is_none_is_refused_by_key(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = write_request(tmp_path, {"stpes": 3})
    assert run_request(request, tmp_path / "out") == STATUSES["CONFIG_REFUSED"]
    word = last_word(capfd.readouterr().err)
    assert "run.pretrain.stpes: Extra inputs are not permitted" in word["reason"]
    assert not (tmp_path / "out").exists()


def test_memory_that_ran_out_has_a_status_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = write_request(tmp_path, allocations_mib=[2**38])
    assert run_request(request, tmp_path / "out") == STATUSES["OUT_OF_MEMORY"]
    assert last_word(capfd.readouterr().err)["status"] == "OUT_OF_MEMORY"


def test_a_folder_that_cannot_be_made_is_an_io_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = write_request(tmp_path)
    assert run_request(request, tmp_path / "missing" / "out") == STATUSES["IO_ERROR"]
    word = last_word(capfd.readouterr().err)
    assert word["reason"] == "No such file or directory: out"


def test_a_file_that_cannot_grow_ends_the_run_with_one_clear_line(tmp_path: Path) -> None:
    # A limit on the size of files is the full disk that a test can have without one.
    def no_more_than_2_kib() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    ended = start(write_request(tmp_path, {"steps": 30}), preexec_fn=no_more_than_2_kib,
                  env=NO_BYTECODE)  # fmt: skip
    assert ended.returncode == STATUSES["IO_ERROR"]
    assert ended.stderr.count("\n") == 1
    assert last_word(ended.stderr) == {"status": "IO_ERROR", "reason": "File too large"}


def test_an_error_of_the_program_names_no_folder_and_no_user(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "homes" / "ada"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "ada")
    host = os.uname().nodename

    def broken(*_: object) -> None:
        raise KeyError(f"{home}/notes of ada on {host} in {tmp_path}/x: adamant")

    monkeypatch.setattr("pytest_gates.model.trainer.run", broken)
    assert run_request(write_request(tmp_path), tmp_path / "out") == STATUSES["ERROR"]
    err = capfd.readouterr().err
    reason = last_word(err)["reason"]
    assert reason == "KeyError: '~/notes of <user> on <host> in <root>/x: adamant'"
    assert "Traceback" in err
    assert str(home) not in err
