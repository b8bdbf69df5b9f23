"""Slot statistics on a GPU in two passes over the activations.

What the kernels leave of N slots is brought together once for all slots of a pass, in float64:
`look` launches two kernels and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_gates.model import slot_kernels
from pytest_gates.model.slot_statistics import figures

CHUNKS, BLOCK = 64, 2048
"""Programs a slot, and elements that one takes at once."""


@dataclass(frozen=True)
class Looked:
    """What the kernels left of N slots of `size` elements."""

    sums: Tensor
    """N CHUNKS."""
    largest: Tensor
    """Absolute values: N CHUNKS."""
    counts: Tensor
    """How many are 0, not finite and NaN, and the fingerprint: N CHUNKS 4."""
    powers: Tensor
    """Of deviations over the slot's largest, the second and the fourth, summed: N CHUNKS 2."""
    size: int


_WORDS = {2: torch.int16, 4: torch.int32}


def look(slots: Tensor) -> Looked:
    """Launch both passes over N slots of M elements (N M) of two or four bytes each."""
    count, size = slots.shape
    assert slots.is_contiguous()
    new = slots.new_empty
    sums, largest = (new((count, CHUNKS), dtype=torch.float32) for _ in range(2))
    counts = new((count, CHUNKS, 4), dtype=torch.int32)
    powers = new((count, CHUNKS, 2), dtype=torch.float32)
    words = slots.view(_WORDS[slots.element_size()])
    grid = count, CHUNKS
    slot_kernels.first_look[grid](
        slots, words, sums, largest, counts, size, CHUNKS, BLOCK, num_warps=8
    )
    slot_kernels.second_look[grid](slots, sums, largest, powers, size, CHUNKS, BLOCK, num_warps=8)
    return Looked(sums, largest, counts, powers, size)


def statistics(looks: Sequence[Looked]) -> tuple[Tensor, Tensor]:
    """Figures (N 7, float64, as `slot_statistics`) and fingerprints (N, int32) of all slots."""
    sums, largest, counts, powers = (
        torch.cat([getattr(one, name) for one in looks])
        for name in ("sums", "largest", "counts", "powers")
    )
    sizes = torch.tensor([one.size for one in looks for _ in one.sums], dtype=torch.float64)
    size = sizes.to(sums.device, non_blocking=True)
    zeros, broken, nans, marks = counts.sum(1, dtype=torch.int32).unbind(1)
    top = torch.where(nans > 0, math.nan, largest.amax(1)).double()
    mean = sums.double().sum(1) / size
    second, fourth = (powers.double().sum(1) / size[:, None]).unbind(1)
    said = figures(
        mean, top, (second, fourth), zeros_pct=zeros * (100 / size), non_finite=broken.double()
    )
    return said, marks
