"""What is said of each slot: statistics and a fingerprint, computed on the slot's own device.

Slots of one shape are looked at together, so that a trace costs a few dozen kernels and not a dozen
a slot; they are read back once, at the end of the pass.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import lru_cache

import torch
from torch import Tensor

from pytest_gates.model.writer import TelemetryWriter

STATISTICS = ("mean", "std", "rms", "abs_max", "kurtosis", "zeros_pct", "non_finite")
"""What is said of each slot, in this order in `slot_statistics`."""

_HELD_BYTES = {"cpu": 2**18, "cuda": 2**28}
"""Activations that are held back to be looked at together: few enough for a CPU's cache, many
enough for a GPU to be busy for longer than it takes to ask."""
# A double is taken as two halves: the sum is of 32-bit products.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}


@torch.no_grad()
def slot_statistics(slots: Tensor) -> Tensor:
    """`STATISTICS` of each of N slots of M elements (N M), as N x 7 in float64.

    The standard deviation is that of the population; the kurtosis is Pearson's, 3 for a normal
    distribution. Deviations are scaled by the largest activation, so that no power of them
    overflows. A non-finite activation shows in the figures that it spoils.
    """
    count = slots.shape[1]
    x = slots.float()
    largest = x.abs().amax(1)  # hands NaN on
    scale = largest.clamp_min(torch.finfo(torch.float32).tiny)
    mean = x.mean(1)
    squares = (x - mean[:, None]).div_(scale[:, None]).square_()
    second = squares.mean(1).double()
    fourth = squares.square_().mean(1).double()
    std = second.sqrt() * scale
    return torch.stack(
        (
            mean.double(),
            std,
            torch.hypot(std, mean.double()),
            largest.double(),
            fourth / second.square(),
            (count - slots.bool().sum(1, dtype=torch.int32)) * (100 / count),
            _non_finite(slots, largest),
        ),
        dim=1,
    )


def _non_finite(slots: Tensor, largest: Tensor) -> Tensor:
    # Where a look costs no wait, the largest tells that there is nothing to count.
    if slots.device.type == "cpu" and bool(largest.isfinite().all()):
        return torch.zeros(len(slots), dtype=torch.float64)
    return (slots.shape[1] - slots.isfinite().sum(1, dtype=torch.int32)).double()


@torch.no_grad()
def fingerprints(slots: Tensor) -> Tensor:
    """A fingerprint of the bits of each of N slots of M elements (N M), as N of int32.

    The sum of every element's bits times an odd number of its own (Knuth's multiplicative hashing),
    so that one changed bit and two swapped elements change it. It finds accidents, not forgers.
    """
    bits = slots.view(_INTEGERS[slots.element_size()]).int()
    return (bits * _odd_numbers(bits.shape[1], bits.device)).sum(1, dtype=torch.int32)


@lru_cache(16)
def _odd_numbers(count: int, device: torch.device) -> Tensor:
    place = torch.arange(count, device=device, dtype=torch.int32)
    return (place * -1640531527) ^ (place >> 7) | 1  # 2^32 / golden ratio, as a signed number


class SlotStatistics:
    """An observer of a forward pass: keeps a row a slot on the device until it is asked."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        """A line a slot: layer, name and shape."""
        self._places: list[tuple[int, str]] = []
        self._held: dict[tuple[int, torch.dtype], list[tuple[int, Tensor]]] = defaultdict(list)
        self._held_bytes = 0
        self._done: list[tuple[list[int], Tensor, Tensor]] = []

    def __call__(self, layer: int, slot: str, activations: Tensor) -> None:
        """Look at one slot, now or together with later ones; nothing waits for the device."""
        row = activations.detach().reshape(-1)
        self.shapes.append(f"{layer} {slot} {list(activations.shape)}\n")
        self._held[row.numel(), row.dtype].append((len(self._places), row))
        self._places.append((layer, slot))
        self._held_bytes += row.nbytes
        if self._held_bytes > _HELD_BYTES[row.device.type]:
            self._look()

    def _look(self) -> None:
        for held in self._held.values():
            rows = torch.stack([row for _, row in held]) if len(held) > 1 else held[0][1][None]
            self._done.append(([i for i, _ in held], slot_statistics(rows), fingerprints(rows)))
        self._held.clear()
        self._held_bytes = 0

    def rows(self) -> list[dict[str, float | int | str]]:
        """Read everything back, once: a line's fields a slot, in the order of the pass."""
        self._look()
        order = [index for indices, _, _ in self._done for index in indices]
        figures = torch.cat([done for _, done, _ in self._done]).tolist()
        marks = torch.cat([done for _, _, done in self._done]).tolist()
        found = dict(zip(order, zip(figures, marks, strict=True), strict=True))
        return [
            {
                "layer": layer,
                "slot": slot,
                **dict(zip(STATISTICS, found[index][0], strict=True)),
                "hash": f"{found[index][1] & 0xFFFFFFFF:08x}",
            }
            for index, (layer, slot) in enumerate(self._places)
        ]

    @property
    def shapes_sha256(self) -> str:
        """SHA-256 over `shapes`."""
        return hashlib.sha256("".join(self.shapes).encode()).hexdigest()

    def write(self, writer: TelemetryWriter) -> None:
        """Say a line a slot, in the order of the pass."""
        for row in self.rows():
            writer.slot(**row)  # type: ignore[arg-type]  # the fields of `slot` are in it
