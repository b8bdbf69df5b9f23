"""How a checkpoint's bytes reach the disk: by blocks, hashed on the way, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training import CPU, Said, Train

from pytest_gates.model import checkpoint
from pytest_gates.model.blocks import BLOCKS, Buffers
from pytest_gates.model.checkpoint import Checkpointer, Trained
from pytest_gates.model.moments import FlatMoments
from pytest_gates.model.tensor_file import write_tensors

SETTINGS: dict[str, Any] = {"steps": 9, "validate_every": 3, "checkpoint": "epoch"}


def several() -> dict[str, Tensor]:
    """Tensors that lie within a block of 1 KiB, end at its end, and go over several."""
    torch.manual_seed(0)
    sizes = {"a": (3,), "b": (16, 16), "step": (), "empty": (0, 4), "c": (100, 50), "d": (1,)}
    tensors = {name: torch.randn(size) for name, size in sizes.items()}
    return {**tensors, "rng": torch.arange(251, dtype=torch.uint8), "turned": torch.randn(8, 9).T}


@pytest.mark.parametrize("size", [1, 7, 1024, 2**20])
def test_a_file_is_the_same_through_buffers_of_any_size(tmp_path: Path, size: int) -> None:
    tensors = several() if size > 1 else {"a": torch.randn(5)}
    plain, staged = tmp_path / "plain.safetensors", tmp_path / "staged.safetensors"
    said = write_tensors(plain, tensors)
    assert write_tensors(staged, tensors, Buffers(CPU, size)) == said
    data = staged.read_bytes()
    assert data == plain.read_bytes()
    assert said == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    found = load_file(staged)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, to this process: a write beyond it is an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # half of a module's, else
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = writes


def test_a_disk_that_is_full_leaves_nothing_and_no_thread(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    tensors = {f"{index}": torch.zeros(1024) for index in range(8 * BLOCKS)}
    with files_of_at_most(10_000), pytest.raises(OSError, match="too large"):
        write_tensors(tmp_path / "a.safetensors", tensors, Buffers(CPU, 4096))
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= threads


def hashes(said: Said) -> list[Any]:
    return [event["files"] for event in said.events("checkpoint_saved")]


def test_without_memory_for_a_copy_the_training_waits_and_the_files_are_the_same(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError

    copied = train(**SETTINGS)
    monkeypatch.setattr(checkpoint, "copied", refused)
    in_place = train(**SETTINGS)
    assert len(hashes(copied)) == 3
    assert hashes(in_place) == hashes(copied)


@pytest.mark.parametrize("room", [True, False])
def test_a_checkpoint_waits_as_a_copy_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    """What the training does to its state meanwhile reaches neither file."""
    slow = threading.Event()

    def write(path: Path, *args: Any) -> dict[str, Any]:
        assert slow.wait(300)
        return write_tensors(path, *args)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    monkeypatch.setattr(Checkpointer, "_has_room", lambda *_: room)
    model, moments = torch.nn.Linear(4, 4), FlatMoments()
    trained = Trained(model, moments, CPU)
    checkpoint.make_moments(trained)
    keeps = Checkpointer(tmp_path / "kept", CPU)
    if not room:
        threading.Timer(0.05, slow.set).start()
    finished = []
    for epoch in range(3):
        with torch.no_grad():
            model.weight.fill_(epoch)
        finished += keeps.save(trained, {"epoch": epoch})
    assert [one["epoch"] for one in finished] == ([] if room else [0, 1])
    slow.set()
    finished += keeps.wait()
    assert [one["epoch"] for one in finished] == [0, 1, 2]
    for epoch, told in enumerate(finished):
        stem = tmp_path / "kept" / f"epoch-{epoch:03d}"
        assert (load_file(stem.with_suffix(".safetensors"))["weight"] == epoch).all()
        assert json.loads(stem.with_suffix(".metadata.json").read_text()) == told
