"""Checkpoints off a GPU: through pinned buffers, while the next one waits as a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pytest_gates.model import checkpoint
from pytest_gates.model.blocks import Buffers
from pytest_gates.model.checkpoint import Checkpointer, Trained
from pytest_gates.model.moments import FlatMoments
from pytest_gates.model.tensor_file import write_tensors

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda:0")


def test_a_file_off_a_gpu_has_the_bytes_of_one_off_a_cpu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"a": (3,), "b": (1000, 1000), "step": (), "c": (7, 300_000), "d": (1,)}
    host = {name: torch.randn(size) for name, size in sizes.items()}
    host["turned"] = torch.randn(300, 400).T
    device = {name: tensor.to(CUDA) for name, tensor in host.items()}
    device["rng"] = host["rng"] = torch.get_rng_state()  # lies on the host in both
    said = write_tensors(tmp_path / "host", host)
    assert write_tensors(tmp_path / "device", device, Buffers(CUDA, 2**20)) == said
    assert (tmp_path / "device").read_bytes() == (tmp_path / "host").read_bytes()


def test_steps_that_go_on_meanwhile_reach_no_checkpoint(tmp_path: Path) -> None:
    model, moments = torch.nn.Linear(8192, 8192, device=CUDA), FlatMoments()
    trained = Trained(model, moments, CUDA)
    checkpoint.make_moments(trained)
    keeps = Checkpointer(tmp_path / "kept", CUDA)
    finished = []
    for epoch in range(3):
        with torch.no_grad():
            model.weight.fill_(epoch)
        finished += keeps.save(trained, {"epoch": epoch})
        with torch.no_grad():
            model.weight.fill_(-1)  # at once, as the next step does
    assert len(finished) < 3
    finished += keeps.wait()
    assert [one["epoch"] for one in finished] == [0, 1, 2]
    for epoch in range(3):
        found = load_file(tmp_path / "kept" / f"epoch-{epoch:03d}.safetensors")
        assert bool((found["weight"] == epoch).all())
    hashes = checkpoint.verify(tmp_path / "kept", finished[0])
    assert hashes == {name: one["sha256"] for name, one in finished[0]["files"].items()}
