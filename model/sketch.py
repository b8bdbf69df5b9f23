"""A sketch of a slot: what two runs that never meet can be compared by.

Random signs are put to the elements, and sums are taken of every WIDTH-th one (a count sketch; the
signs as in Alon, Matias and Szegedy, STOC 1996). It is linear, so the sketch of a difference is the
difference of the sketches, and its squared norm is, on average over the signs, that of the
difference: the relative L2 distance of two slots is known within about sqrt(1 / (2 WIDTH)), 6 %,
of itself. A changed sign or a swapped pair changes it, which no statistic of one side shows.
"""

from __future__ import annotations

import base64
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 127
"""A prime, so that a channel, whose elements lie a width of the model apart, falls into many."""


@torch.no_grad()
def sketches(slots: Tensor) -> Tensor:
    """The sketch of each of N slots of M elements (N M): N WIDTH, in float64."""
    count = slots.shape[1]
    signed = slots.double() * _signs(count, slots.device)
    return F.pad(signed, (0, -count % WIDTH)).view(len(slots), -1, WIDTH).sum(1)


@lru_cache(16)
def _signs(count: int, device: torch.device) -> Tensor:
    """A sign for each element, the same on every device: bits of a mixed index (murmur3)."""
    mixed = torch.arange(count, device=device, dtype=torch.int64)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0xFFFFFFFF
    bit = (mixed ^ (mixed >> 16)) & 1
    return 1.0 - 2.0 * bit.to(torch.int8)


def told(count: int, sketch: Tensor) -> str:
    """A sketch as a run says it: the number of elements, and little-endian doubles in base64."""
    values = sketch.cpu().numpy().astype("<f8", copy=False).tobytes()
    return f"{count}:{base64.b64encode(values).decode()}"
