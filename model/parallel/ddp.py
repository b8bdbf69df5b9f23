"""Data parallel: every rank holds the whole state, and gradients are averaged in the backward.

Annotations are evaluated here: DDP looks at those of its hook.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from pytest_gates.model.checkpoint import Checkpointer, Trained
from pytest_gates.model.clock import Clock
from pytest_gates.model.parallel.group import Checkpoints, Forward
from pytest_gates.model.parallel.ranks import Ranks
from pytest_gates.model.seams import Seams


class DataParallel(Ranks):
    """`DistributedDataParallel`, with a hook that averages and marks when it did."""

    _wrapped: DistributedDataParallel | None = None
    _clock: Clock[Any] | None = None
    _step = -1

    def wrap(self, model: nn.Module) -> Forward:
        """See `Group.wrap`. Parameters become those of rank 0."""
        self._marks: dict[int, list[tuple[Any, Any]]] = {}
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(None, self._average)
        self._wrapped = wrapped
        forward: Forward = wrapped
        return forward

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        """See `Group.accumulate`."""
        assert self._wrapped is not None
        return nullcontext() if last else self._wrapped.no_sync()

    def begin(self, step: int, clock: Clock[Any]) -> None:
        """See `Group.begin`."""
        self._step, self._clock = step, clock
        self._marks[step] = []

    def told(self, step: int, since: Any, wall_ms: float) -> dict[str, float]:
        """See `Group.told`: how long gradients were on their way, and its share of the step."""
        assert self._clock is not None
        clock = self._clock
        spans = [(clock.wall_ms(since, begin), clock.wall_ms(since, end))
                 for begin, end in self._marks.pop(step)]  # fmt: skip
        busy = covered_ms(spans)
        return {"comm_ms": busy, "comm_share_pct": 100 * busy / wall_ms}

    def checkpoints(self, folder: Path, device: torch.device, seams: Seams) -> Checkpoints:
        """See `Group.checkpoints`: all ranks hold the same, so one writes it."""
        return Checkpointer(folder, device, seams) if self.rank == 0 else Nothing()

    def _average(self, _: object, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined] # no stub has it
        """Divide, then sum over all ranks, as DDP's own default does."""
        tensor, step, clock = bucket.buffer(), self._step, self._clock
        begun = None if clock is None else clock.mark()
        if not self._seams.reduces(self.rank):
            kept: Future[Tensor] = Future()
            kept.set_result(tensor)
            return kept
        work = dist.all_reduce(tensor.div_(self.divisor), async_op=True)
        assert work is not None

        def met(future: Future[list[Tensor]]) -> Tensor:
            if clock is not None:
                self._marks[step].append((begun, clock.mark()))
            return future.value()[0]

        averaged: Future[Tensor] = work.get_future().then(met)
        return averaged


class Nothing:
    """Keeps no checkpoint: another rank does."""

    blocked_s = 0.0

    def save(self, trained: Trained, metadata: Mapping[str, Any]) -> tuple[()]:
        """Another rank saves."""
        return ()

    def wait(self) -> tuple[()]:
        """There is nothing to wait for."""
        return ()


def covered_ms(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals: what overlaps counts once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
