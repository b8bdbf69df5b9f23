"""SIGKILL at random moments and resume: each ends in the hash of the run never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from training import TINY, Said

KILLS = 20
LAST = 399
"""The last step."""
SETTINGS: dict[str, Any] = {
    "driver": "pretrain", "device": "cpu", "model": TINY, "seq_len": 8, "batch_size": 4,
    "data": {"corpus": "python-stdlib"}, "steps": LAST + 1, "optimizer": {"warmup_steps": 2},
    "validate_every": 20, "validation_batches": 1, "checkpoint": "epoch", "deterministic": True,
}  # fmt: skip


def start(folder: Path, source: Path | None) -> subprocess.Popen[bytes]:
    run = dict(SETTINGS)
    if source is not None:
        run["resume"] = {"run": SETTINGS}
    folder.mkdir()
    request = {
        "run": run, "root": str(folder), "cache": str(folder.parent / "cache"),
        "resume_from": None if source is None else str(source),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "pytest_gates.model", "run.json", "out"]
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def training_since(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for the first step, so that the kill falls into the training, not into the imports."""
    lines = folder / "out" / "telemetry-0.jsonl"
    while process.poll() is None:
        if lines.exists() and '"kind":"step"' in lines.read_text():
            return
        time.sleep(0.005)


def finished(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "checkpoints").glob("*.metadata.json"))


def weights(folder: Path) -> bytes:
    """The parameters of the last checkpoint."""
    name = finished(folder)[-1].name.replace(".metadata.json", ".safetensors")
    return (folder / "out" / "checkpoints" / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Said, Path, float]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder, None)
    training_since(folder, process)
    begun = time.monotonic()
    assert process.wait() == 0, (folder / "log.txt").read_text()
    return Said(folder / "out"), folder, time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_random_moment_and_resumed_it_ends_in_the_same_hash(
    whole: tuple[Said, Path, float], number: int, tmp_path: Path
) -> None:
    said, whole_folder, lasts_s = whole
    (tmp_path / "cache").symlink_to(whole_folder.parent / "cache")
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    process = start(killed, None)
    training_since(killed, process)
    time.sleep(random.Random(number).uniform(0, lasts_s))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    source = killed / "out" / "checkpoints" if finished(killed) else None
    if source is not None and json.loads(finished(killed)[-1].read_text())["step"] == LAST:
        assert weights(killed) == weights(whole_folder)  # killed behind its last checkpoint
        return
    again = start(resumed, source)
    assert again.wait() == 0, (resumed / "log.txt").read_text()
    after = Said(resumed / "out")
    for fact in ("param_sha256", "optimizer_steps", "tokens"):
        assert after.facts[fact] == said.facts[fact]
    for metric in ("train_loss", "grad_norm", "param_hash"):
        assert after.column(metric) == said.column(metric)[after.steps[0]["step"] :]
