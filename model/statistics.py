"""Statistics of every parameter at chosen steps: weights, gradients and what a step changed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.writer import TelemetryWriter

_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")


def place(name: str) -> tuple[int, str]:
    """The block of a parameter, -1 outside blocks, and its name within it."""
    match = _BLOCK.fullmatch(name)
    return (int(match.group(1)), match.group(2)) if match else (-1, name)


class Statistics:
    """Says the statistics of the steps that a run chose; those steps wait for the device."""

    def __init__(self, run: PretrainRun, model: nn.Module, writer: TelemetryWriter) -> None:
        self._steps = frozenset(run.statistics)
        self._model, self._writer = model, writer
        self._clipped: dict[int, float] = {}

    @contextmanager
    def of(self, step: int) -> Iterator[None]:
        """Around the launch of a step."""
        if step not in self._steps:
            yield
            return
        before = {name: p.detach().clone() for name, p in self._model.named_parameters()}
        yield
        squares = 0.0
        for name, p in self._model.named_parameters():
            assert p.grad is not None
            norm = _norm(p.grad)
            squares += norm**2
            layer, within = place(name)
            self._writer.parameter(
                step=step,
                layer=layer,
                name=within,
                gradient_norm=norm,
                gradient_zeros_pct=(p.grad == 0).double().mean().item() * 100,
                weight_mean=before[name].double().mean().item(),
                weight_std=before[name].double().std(correction=0).item(),
                update_norm=_norm(p.detach() - before[name]),
            )
        self._clipped[step] = math.sqrt(squares)

    def clipped_norm(self, step: int) -> dict[str, float]:
        """Norm of all gradients after clipping, where it was measured."""
        return {"clipped_norm": self._clipped.pop(step)} if step in self._clipped else {}


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()).item())
