"""The seam between a training run and the other processes of it.

`Group` is a run of one process: every method is what the trainer would do by itself. `ddp` and
`fsdp` make groups of several ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy import int64
from numpy.typing import NDArray
from torch import Tensor, nn

from pytest_gates.model import checkpoint
from pytest_gates.model.checkpoint import Checkpointer, Trained
from pytest_gates.model.clock import Clock
from pytest_gates.model.seams import Seams

Forward = Callable[[Tensor], Tensor]


class Checkpoints(Protocol):
    """Keeps the state of finished epochs; see `checkpoint.Checkpointer`."""

    blocked_s: float

    def save(self, trained: Trained, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Begin to write; the metadata of those that were finished meanwhile."""

    def wait(self) -> tuple[dict[str, Any], ...]:
        """Wait for those that are being written; their metadata."""


class Group:
    """A run of one process."""

    rank = 0
    ranks = 1

    def shard(self, batch: NDArray[int64]) -> NDArray[int64]:
        """This rank's rows of the batch that all ranks share."""
        return batch

    def wrap(self, model: nn.Module) -> Forward:
        """The model as the step calls it: its gradients are those of all ranks.

        To be called before the optimizer is built: parameters may become shards of themselves.
        """
        return model

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch; gradients meet in the `last` one."""
        return nullcontext()

    def mean(self, loss: Tensor) -> Tensor:
        """The mean of all ranks' losses, each over as many tokens."""
        return loss

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor whose shards may lie with several ranks."""
        return tensor

    def begin(self, step: int, clock: Clock[Any]) -> None:
        """A step is about to be launched."""

    def told(self, step: int, since: Any, wall_ms: float) -> dict[str, float]:
        """What the meeting of gradients took in a step that was reached, as metrics."""
        return {}

    def checkpoints(self, folder: Path, device: torch.device, seams: Seams) -> Checkpoints:
        """What keeps this rank's part of a checkpoint."""
        return Checkpointer(folder, device, seams)

    def restore(
        self, folder: Path, metadata: Mapping[str, Any], into: Trained, seams: Seams
    ) -> int:
        """Put a verified checkpoint's state into place; counts its tensors."""
        return checkpoint.restore(folder, metadata, into, seams)

    def facts(self, device: torch.device) -> Mapping[str, Any]:
        """What the group says of itself."""
        return {}

    def part(self) -> None:
        """A guard ends the run; wait a while for the ranks that it ends as well.

        The first rank that ends badly makes the launcher end all others, and none could say why.
        """

    def leave(self) -> None:
        """The run of this process is over."""


ALONE = Group()
"""The group of a run that declares none."""
