"""Fully sharded data parallel (FSDP2): each rank holds a shard of every parameter and moment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from pytest_gates.model.census import whole
from pytest_gates.model.checkpoint import Trained
from pytest_gates.model.parallel import sharded
from pytest_gates.model.parallel.group import Checkpoints, Forward
from pytest_gates.model.parallel.ranks import Ranks
from pytest_gates.model.seams import Seams


class FullyShardedDataParallel(Ranks):
    """`fully_shard` on each block, and on the model around them."""

    _root: FSDPModule | None = None

    def wrap(self, model: nn.Module) -> Forward:
        """See `Group.wrap`. Parameters become shards, in place."""
        mesh = init_device_mesh(self._device.type, (self.ranks,))
        blocks = model.get_submodule("model.layers").children() if hasattr(model, "model") else ()
        shards = [fully_shard(block, mesh=mesh) for block in blocks]
        # Left whole after a forward pass without a backward one, as a validation is, the root's
        # parameters would be other objects than those that the optimizer knows.
        root = fully_shard(model, mesh=mesh, reshard_after_forward=True)
        if self.divisor != self.ranks:
            for shard in (*shards, root):
                shard.set_force_sum_reduction_for_comms(True)  # Gloo cannot scale on the way
                shard.set_gradient_divide_factor(self.divisor)
        self._root = root
        forward: Forward = model
        return forward

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        """See `Group.accumulate`."""
        return nullcontext() if last else self._apart()

    @contextmanager
    def _apart(self) -> Any:
        assert self._root is not None
        self._root.set_requires_gradient_sync(False)
        yield
        self._root.set_requires_gradient_sync(True)

    def whole(self, tensor: Tensor) -> Tensor:
        """See `Group.whole`."""
        return whole(tensor)

    def checkpoints(self, folder: Path, device: torch.device, seams: Seams) -> Checkpoints:
        """See `Group.checkpoints`: each rank writes its shards."""
        return sharded.ShardedCheckpointer(folder, self.rank, seams)

    def restore(
        self, folder: Path, metadata: Mapping[str, Any], into: Trained, seams: Seams
    ) -> int:
        """See `Group.restore`."""
        return sharded.restore(folder, metadata, into, seams)
