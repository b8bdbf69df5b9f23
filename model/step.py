"""One optimizer step as a function over static tensors, so that it can be captured in a graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pytest_gates.model.built import compute_dtype
from pytest_gates.model.census import checksum, gradients_of, whole
from pytest_gates.model.config import NonFinite, PretrainRun
from pytest_gates.model.moments import Moments
from pytest_gates.model.optimizer import build_optimizer
from pytest_gates.model.parallel.group import ALONE, Group
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.transformer import Transformer

PARTS = ("data", "forward", "backward", "clip", "optimizer")
"""What a step consists of on the device, in this order; the rest of its time is the host's gap."""

Mark = Callable[[str], None]
"""Called at the end of each part of a step."""


@dataclass(frozen=True)
class Report:
    """What a step says, once it is read."""

    loss: float
    grad_norm: float
    """Before clipping."""
    lr: float
    unstable: bool
    """Loss or gradient norm of this step or of one before was not finite: nothing was updated."""
    param_hash: float | None
    """Checksum of the parameters after the update; None unless the run is deterministic."""


def unmarked(part: str) -> None:
    """Nobody takes the step apart."""


class OptimizerStep(Protocol):
    """One optimizer step over static inputs: write `tokens`, `lr` and `poison`, call, `read`."""

    tokens: Tensor
    """B (T + 1) tokens."""
    lr: Tensor
    poison: Tensor | None
    """Factor on the loss, for a run that declares the stimulus."""

    @property
    def optimizer(self) -> Moments:
        """Whose moments are saved, hashed and counted."""

    mark: Mark
    attention: str | None
    """The step's own attention, or None where torch's kernels serve."""

    def __call__(self) -> Tensor:
        """Launch; the result is a report on the device."""

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of B (T + 1) tokens in nats."""

    def settings(self) -> dict[str, float]:
        """`beta1`, `beta2`, `eps` and `weight_decay` as the update itself has them."""

    def gradients(self) -> list[Tensor]:
        """Every gradient there is, for the census."""

    def clipped_norm(self) -> float:
        """Norm of all gradients as the optimizer took them; waits for the device."""


class Step:
    """Forward, backward, clip and update of one batch, in micro-batches.

    `tokens` (B (T + 1)), `lr` and `poison` are inputs, written before a launch; the result is a
    tensor of five on the device, to be read with `read`.
    """

    attention: str | None = None

    def __init__(
        self,
        run: PretrainRun,
        model: Transformer,
        device: torch.device,
        seams: Seams = CLEAN,
        group: Group = ALONE,
    ) -> None:
        rows = run.rank_batch_size
        self.tokens = torch.zeros(rows, run.seq_len + 1, dtype=torch.int64, device=device)
        self.lr = torch.zeros((), device=device)
        # Only a run that declares the stimulus has a factor on its loss, and so on its gradients.
        poisoned = isinstance(run.stimulus, NonFinite)
        self.poison: Tensor | None = torch.ones((), device=device) if poisoned else None
        self._group, self._forward = group, group.wrap(model)
        self.optimizer = build_optimizer(model, run.optimizer, self.lr)
        seams.edit_optimizer(self.optimizer)
        self.unstable = torch.zeros((), device=device)
        """1 from the first step on whose loss or gradient norm was not finite."""
        # The fused kernels read this flag on the device, as they do for a gradient scaler: where it
        # is 1 they leave parameters, moments and step counters as they are.
        self.optimizer.found_inf = self.unstable  # type: ignore[attr-defined]
        self.mark: Mark = unmarked
        self._model, self._seams = model, seams
        self._sizes = list(run.micro_sizes)
        self._clip = float(run.optimizer.clip)
        self._dtype = compute_dtype(run.dtype, device)
        self._hashed = run.deterministic

    def settings(self) -> dict[str, float]:
        """`beta1`, `beta2`, `eps` and `weight_decay` as the update itself has them."""
        groups = self.optimizer.param_groups
        beta1, beta2 = groups[0]["betas"]
        decay = max(group["weight_decay"] for group in groups)
        return {"beta1": beta1, "beta2": beta2, "eps": groups[0]["eps"], "weight_decay": decay}

    def gradients(self) -> list[Tensor]:
        """Every gradient there is, for the census."""
        return gradients_of(self._model)

    def clipped_norm(self) -> float:
        """Norm of all gradients as the optimizer took them; waits for the device."""
        squares = [whole(gradient).double().square().sum() for gradient in self.gradients()]
        return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of B (T + 1) tokens in nats."""
        low = self._dtype != torch.float32
        with torch.autocast(tokens.device.type, self._dtype, enabled=low):
            logits = self._forward(tokens[:, :-1])  # B T V
            return self._seams.loss(logits, tokens[:, 1:])

    def __call__(self) -> Tensor:
        """Forward, loss, backward, clip, update; nothing here waits for the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._group.mean(self._accumulate())
        norm = self._group.whole(self._seams.clip(self._model.parameters(), self._clip))
        self.mark("clip")
        finite = self._seams.finite(loss, norm)
        self.unstable.copy_(torch.maximum(self.unstable, (~finite).float()))
        self.optimizer.step()
        self.mark("optimizer")
        said = [loss, norm, self.lr, self.unstable]
        if self._hashed:
            said.append(checksum(self._model))
        return torch.stack([value.double() for value in said])

    def _accumulate(self) -> Tensor:
        """Loss of the rank's batch, its gradients summed in the fp32 of the parameters.

        A micro-batch counts by its share of the batch's tokens, so that the sum is the mean over
        all of them, however unequal the parts are.
        """
        total = torch.zeros((), device=self.tokens.device)
        parts = torch.split(self.tokens, self._sizes)
        for number, part in enumerate(parts, start=1):
            with self._group.accumulate(last=number == len(parts)):
                loss = self.loss(part) * self._seams.weigh(len(part), self._sizes)
                if self.poison is not None:
                    loss = loss * self.poison
                self.mark("forward")
                loss.backward()  # type: ignore[no-untyped-call] # torch's own
            total = total + loss.detach()
            self.mark("backward")
        return total


def read(report: Tensor) -> Report:
    """A step's result that has reached the host."""
    loss, norm, lr, unstable, *rest = report.tolist()
    return Report(loss, norm, lr, unstable != 0, rest[0] if rest else None)
