"""What every group of several ranks shares: who is in it, means, and proof of its averaging."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from numpy import int64
from numpy.typing import NDArray
from torch import Tensor, nn

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.parallel.group import Group
from pytest_gates.model.parallel.place import Place
from pytest_gates.model.seams import Seams

_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others in one operation."""
_PART = timedelta(seconds=10)
"""How long a rank that ends by a guard waits for the others to end by it too."""
_PLANTED = (2.0, 4.0, 6.0)
"""Gradient of rank 0; that of each further rank is 6 more in every place."""
_STRIDE = 6.0


class Ranks(Group):
    """Several ranks, joined by `torch.distributed`: NCCL on CUDA, Gloo on the CPU."""

    def __init__(self, run: PretrainRun, place: Place, device: torch.device, seams: Seams) -> None:
        """Join the others.

        Raises:
            RuntimeError: they did not come.
        """
        self._run, self._device, self._seams = run, device, seams
        self.rank, self.ranks = place.rank, place.ranks
        self._place = place
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            self.backend,
            rank=place.rank,
            world_size=place.ranks,
            timeout=_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )

    @property
    def divisor(self) -> float:
        """What summed gradients are divided by: the number of ranks, so that they are averaged."""
        return self._seams.gradient_divisor(self.ranks)

    def shard(self, batch: NDArray[int64]) -> NDArray[int64]:
        """See `Group.shard`."""
        rows = len(batch) // self.ranks
        first = self._seams.rank_of_data(self.rank) * rows
        return batch[first : first + rows]

    def mean(self, loss: Tensor) -> Tensor:
        """See `Group.mean`. A loss that is not finite makes the mean so on every rank."""
        total = loss.detach().clone()
        dist.all_reduce(total)
        return total / self.ranks

    def facts(self, device: torch.device) -> Mapping[str, Any]:
        """See `Group.facts`. The planted gradients go the way of the model's own."""
        return {
            "rank": self.rank,
            "ranks": self.ranks,
            "local_rank": self._place.local_rank,
            "backend": self.backend,
            "parallel": self._run.parallel,
            "reduction_error": self._reduction_error(device),
        }

    def _reduction_error(self, device: torch.device) -> float:
        planted = torch.tensor(_PLANTED, device=device)
        module = Planted(self.ranks, device)
        forward = self.wrap(module)
        with self.accumulate(last=True):
            forward(planted + self.rank * _STRIDE).backward()  # type: ignore[no-untyped-call] # torch's own
        assert module.weight.grad is not None
        found = self.whole(module.weight.grad)
        expected = planted + _STRIDE * (self.ranks - 1) / 2
        return float((found - expected).abs().max().item())

    def part(self) -> None:
        """See `Group.part`."""
        meeting = dist.barrier(async_op=True)
        if meeting is not None:
            with suppress(RuntimeError):  # some did not come: their end is not ours
                meeting.wait(_PART)

    def leave(self) -> None:
        """See `Group.leave`."""
        dist.destroy_process_group()


class Planted(nn.Module):
    """A module whose gradient is what it is fed, in each of as many rows as there are ranks."""

    def __init__(self, rows: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, len(_PLANTED), device=device))

    def forward(self, gradient: Tensor) -> Tensor:
        """A scalar."""
        return (self.weight * gradient).sum()
