"""Blocks under torch.compile, their slots included: one graph for all layers of a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pytest_gates.model.compilations import Compilations
from pytest_gates.model.slots import BLOCK_SLOTS
from pytest_gates.model.transformer import Observe, Span


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch's own
def _traced() -> int:
    """Run while a graph is made and never when it runs: the public way to see a compilation."""
    Compilations.count += 1
    return 0


def _seen(block: nn.Module, x: Tensor, span: Span, instead: Sequence[Tensor]) -> list[Tensor]:
    """Every slot of a block as computed; each of `instead` takes its slot's place."""
    _traced()
    seen: list[Tensor] = []

    def keep(_layer: int, _slot: str, value: Tensor) -> Tensor | None:
        seen.append(value)
        return instead[len(seen) - 1].to(value.dtype) if instead else None

    out = block(x, span, 0, keep)
    return [*seen, out]


def _plain(block: nn.Module, x: Tensor, span: Span) -> Tensor:
    _traced()
    out: Tensor = block(x, span, 0, None)
    return out


class CompiledBlocks:
    """What a decoder runs its blocks with; an observer is shown what the graph computed."""

    def __init__(self) -> None:
        # inductor would rather have fp32 products rounded to TF32; what is declared is computed.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        # A length is compiled for itself: a prompt's and a token's pass have little in common, and
        # kernels of unknown length are slower.
        self._seen = torch.compile(_seen, fullgraph=True, dynamic=False)
        # With it inductor writes a product with one row as a reduction, near the memory's speed; a
        # library's product takes twice as long there, and decoding is made of them.
        tuned: dict[str, str | int | bool | Callable[..., object]] = {
            "coordinate_descent_tuning": True
        }
        self._plain = torch.compile(_plain, fullgraph=True, dynamic=False, options=tuned)

    def __call__(
        self, block: nn.Module, x: Tensor, span: Span, layer: int, observe: Observe | None
    ) -> Tensor:
        """Advance the residual stream by one block: B T C -> B T C."""
        if observe is None:
            return self._plain(block, x, span)
        *seen, out = self._seen(block, x, span, self._instead(layer, observe))
        for slot, value in zip(BLOCK_SLOTS, seen, strict=True):
            observe(layer, slot, value)
        return out

    @staticmethod
    def _instead(layer: int, observe: Observe) -> list[Tensor]:
        """What the observer will put in each slot's place, asked for before the graph runs."""
        instead = getattr(observe, "instead", None)
        return [] if instead is None else instead(layer)
