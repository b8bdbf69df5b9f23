"""Effects of the faults in `faults.learning`."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import torch
from numpy import int64
from numpy.typing import NDArray
from torch import Tensor, nn

from pytest_gates.model.config import Optimizer
from pytest_gates.model.faults.learning import (
    ClipBySquaredNorm,
    FrozenWeights,
    LabelShift,
    LossInBits,
    LrZeroAfterWarmup,
    RepeatedBatch,
    SchedulePerMicroBatch,
    SeedIgnored,
    SeedUnset,
    SummedAccumulation,
    UnnormalisedAccumulation,
)
from pytest_gates.model.loss import next_token_loss
from pytest_gates.model.schedule import learning_rate
from pytest_gates.model.seams import Seams


def _frozen(_: FrozenWeights) -> Seams:
    def freeze(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros_like(group["lr"])

    return Seams(edit_optimizer=freeze)


def _zero_after_warmup(_: LrZeroAfterWarmup) -> Seams:
    def rate(step: int, steps: int, optimizer: Optimizer) -> float:
        warm = step < optimizer.warmup_steps
        return learning_rate(step, steps, optimizer) if warm else 0.0

    return Seams(learning_rate=rate)


def _hasty(fault: SchedulePerMicroBatch) -> Seams:
    def rate(step: int, steps: int, optimizer: Optimizer) -> float:
        return learning_rate(min(step * fault.times, steps - 1), steps, optimizer)

    return Seams(learning_rate=rate)


def _one_seed(_: SeedIgnored) -> Seams:
    return Seams(seed=lambda _declared: 0)


def _no_seed(_: SeedUnset) -> Seams:
    drawn = secrets.randbits(31)
    return Seams(seed=lambda _declared: drawn)


def _first_batch(_: RepeatedBatch) -> Seams:
    kept: list[NDArray[int64]] = []

    def again(_step: int, tokens: NDArray[int64]) -> NDArray[int64]:
        if not kept:
            kept.append(tokens)
        return kept[0]

    return Seams(batch=again)


def _shifted(_: LabelShift) -> Seams:
    def shift(_module: nn.Module, _inputs: object, logits: Tensor) -> Tensor:
        # Position t is judged by what position t - 1 says, so it learns token t + 2.
        return torch.cat((logits[:, :1], logits[:, :-1]), dim=1)

    def edit(model: nn.Module) -> None:
        model.register_forward_hook(shift)

    return Seams(edit_model=edit)


def _in_bits(_: LossInBits) -> Seams:
    return Seams(loss=lambda logits, targets: next_token_loss(logits, targets) / math.log(2))


def _squared(_: ClipBySquaredNorm) -> Seams:
    def clip(parameters: Iterable[Tensor], largest: float) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        squared = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        factor = (largest / squared).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)
        return squared

    return Seams(clip=clip)


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    FrozenWeights: _frozen,
    LrZeroAfterWarmup: _zero_after_warmup,
    SchedulePerMicroBatch: _hasty,
    SeedIgnored: _one_seed,
    SeedUnset: _no_seed,
    RepeatedBatch: _first_batch,
    LabelShift: _shifted,
    LossInBits: _in_bits,
    ClipBySquaredNorm: _squared,
    SummedAccumulation: lambda _: Seams(weigh=lambda _part, _parts: 1.0),
    UnnormalisedAccumulation: lambda _: Seams(weigh=lambda _part, parts: 1 / len(parts)),
}
