"""What is said of each slot: statistics and a fingerprint, computed on the slot's own device.

Slots of one shape are looked at together, so that a trace costs a few dozen kernels and not a dozen
a slot; they are read back once, at the end of the pass. On a GPU two kernels of our own look at
them (`slot_looks`), where Triton is there.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pytest_gates.model.sketch import sketches, told
from pytest_gates.model.triton_here import why_no_triton
from pytest_gates.model.writer import TelemetryWriter

STATISTICS = ("mean", "std", "rms", "abs_max", "kurtosis", "zeros_pct", "non_finite")
"""What is said of each slot, in this order in `slot_statistics`."""

_HELD_ON_CPU, _HELD_ON_CUDA = 2**19, 2**28
"""Bytes of activations that are held back to be looked at together: few enough for a CPU's cache,
many enough for a GPU to be busy for longer than it takes to ask."""
TINY = torch.finfo(torch.float32).tiny
"""What deviations are scaled by at least."""
_DOUBLE = 8
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
    scale = largest.clamp_min(TINY)
    mean = x.mean(1)
    squares = (x - mean[:, None]).div_(scale[:, None]).square_()
    second = squares.mean(1).double()
    fourth = squares.square_().mean(1).double()
    return figures(
        mean.double(),
        largest.double(),
        (second, fourth),
        zeros_pct=(count - slots.bool().sum(1, dtype=torch.int32)) * (100 / count),
        non_finite=(count - slots.isfinite().sum(1, dtype=torch.int32)).double(),
    )


def figures(
    mean: Tensor,
    largest: Tensor,
    powers: tuple[Tensor, Tensor],
    *,
    zeros_pct: Tensor,
    non_finite: Tensor,
) -> Tensor:
    """`STATISTICS` of N slots (N 7), of what was summed over each; float64, each N.

    `powers` are the means of the second and fourth power of deviations over the largest.
    """
    second, fourth = powers
    std = second.sqrt() * largest.clamp_min(TINY)
    kurtosis = fourth / second.square()
    said = (mean, std, torch.hypot(std, mean), largest, kurtosis, zeros_pct, non_finite)
    return torch.stack(said, dim=1)


_SMALLEST, _LARGEST = 1e-7, 1e8
"""Between them the largest activation lies whose powers a float holds, however many are summed."""
_NEAR_ZERO = 0.25
"""Square of the mean over the variance, up to which no digit worth having cancels."""


@torch.no_grad()
def quick_statistics(slots: Tensor) -> list[tuple[float, ...]] | None:
    """The same from sums of powers, which are read at once: for the CPU, where that is no wait.

    Half the passes of `slot_statistics`, but only good for activations that are finite, neither
    huge nor tiny, and not far from zero beside their spread: as good as all there are. None: not
    for these.
    """
    count = slots.shape[1]
    x = slots.float()
    powers = x.square()
    largest, least, second = powers.amax(1), powers.amin(1), powers.sum(1)
    third = torch.linalg.vecdot(powers, x)
    fourth = powers.square_().sum(1)
    sums = torch.stack((x.sum(1), second, third, fourth, largest, least), dim=1).tolist()
    zeros = [0] * len(slots)
    if not all(row[-1] for row in sums):
        zeros = (count - slots.bool().sum(1, dtype=torch.int32)).tolist()
    found = [_from_sums(row, count, none) for row, none in zip(sums, zeros, strict=True)]
    return None if None in found else found  # type: ignore[return-value]  # just seen


def _from_sums(sums: list[float], count: int, zeros: int) -> tuple[float, ...] | None:
    first, second, third, fourth, square, _ = sums
    largest = math.sqrt(square) if square >= 0 else math.nan  # of a float's square: exact
    if not _SMALLEST < largest < _LARGEST:
        return None
    mean, second, third, fourth = first / count, second / count, third / count, fourth / count
    shift = mean * mean
    variance = second - shift
    if not shift <= _NEAR_ZERO * variance:
        return None
    central = fourth - 4 * mean * third + 3 * shift * (2 * second - shift)
    kurtosis = central / (variance * variance)
    return (
        mean, math.sqrt(variance), math.sqrt(second), largest, kurtosis, 100 * zeros / count, 0.0
    )  # fmt: skip


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


_KEPT_BYTES = 2**24


@lru_cache(1)
def _keep_freed_memory() -> None:
    """Let the C library keep what a pass frees, for the next pass.

    What is held back for a look is freed in one piece, and glibc would hand the top of its heap
    back each time, to have it zeroed page by page at the next allocation: a thousand page faults a
    pass, about a fifth of what looking costs. Freeing a large block raises its threshold (to twice
    the block, mallopt(3): M_MMAP_THRESHOLD is dynamic); the block itself is never touched.
    """
    torch.empty(_KEPT_BYTES, dtype=torch.uint8)


def _by_kernels(slots: Tensor) -> bool:
    """A double has no kernel: its powers would be rounded to floats."""
    return slots.is_cuda and slots.element_size() < _DOUBLE and not why_no_triton()


def _looks() -> ModuleType:
    from pytest_gates.model import slot_looks  # noqa: PLC0415 - needs Triton

    return slot_looks


class SlotStatistics:
    """An observer of a forward pass: keeps a row a slot on the device until it is asked.

    With `sketch` each row holds what another run's can be compared by, see `model.sketch`.
    """

    def __init__(self, *, sketch: bool = False) -> None:
        _keep_freed_memory()
        self._sketches: list[Tensor] | None = [] if sketch else None
        self._places: list[tuple[int, str, torch.Size]] = []
        self._held: dict[tuple[int, torch.dtype], list[tuple[int, Tensor]]] = defaultdict(list)
        self._held_bytes = 0
        self._order: list[int] = []
        self._figures: list[Tensor | list[tuple[float, ...]]] = []
        self._marks: list[Tensor] = []
        self._looked: list[Any] = []  # `slot_looks.Looked`, on a GPU

    def __call__(self, layer: int, slot: str, activations: Tensor) -> None:
        """Look at one slot, now or together with later ones; nothing waits for the device."""
        row = activations.reshape(-1)
        self._held[row.numel(), row.dtype].append((len(self._places), row))
        self._places.append((layer, slot, activations.shape))
        self._held_bytes += row.nbytes
        if self._held_bytes > (_HELD_ON_CUDA if row.is_cuda else _HELD_ON_CPU):
            self._look()

    def _look(self) -> None:
        for held in self._held.values():
            places, rows = zip(*held, strict=True)
            slots = torch.stack(rows) if len(rows) > 1 else rows[0][None]
            self._order += places
            if self._sketches is not None:
                self._sketches.append(sketches(slots))
            if _by_kernels(slots):
                self._looked.append(_looks().look(slots))
                continue
            quick = quick_statistics(slots) if slots.device.type == "cpu" else None
            self._marks.append(fingerprints(slots))
            self._figures.append(slot_statistics(slots) if quick is None else quick)
        self._held.clear()
        self._held_bytes = 0

    def _read(self) -> tuple[list[Sequence[float]], list[int]]:
        """All figures and fingerprints in the order they were looked at; waits once."""
        if self._looked:
            assert not self._marks, "either all slots of a pass are doubles or none"
            together, marks = _looks().statistics(self._looked)
        else:
            marks = torch.cat(self._marks)
            if marks.device.type == "cpu":
                looked = (f.tolist() if isinstance(f, Tensor) else f for f in self._figures)
                return [row for rows in looked for row in rows], marks.tolist()
            together = torch.cat([f for f in self._figures if isinstance(f, Tensor)])
        table = torch.cat((together, marks.double()[:, None]), dim=1).tolist()
        return [row[:-1] for row in table], [int(row[-1]) for row in table]

    def rows(self) -> list[dict[str, float | int | str]]:
        """Read everything back, once: a line's fields a slot, in the order of the pass."""
        self._look()
        figures, marks = self._read()
        found = dict(zip(self._order, zip(figures, marks, strict=True), strict=True))
        sketched = self._sketched()
        return [
            {
                "layer": layer,
                "slot": slot,
                **dict(zip(STATISTICS, found[index][0], strict=True)),
                "hash": f"{found[index][1] & 0xFFFFFFFF:08x}",
                **({"sketch": told(shape.numel(), sketched[index])} if sketched else {}),
            }
            for index, (layer, slot, shape) in enumerate(self._places)
        ]

    def _sketched(self) -> dict[int, Tensor]:
        """The sketches by place, on the host; empty if none was asked for."""
        if self._sketches is None:
            return {}
        return dict(zip(self._order, torch.cat(self._sketches).cpu(), strict=True))

    @property
    def shapes(self) -> list[str]:
        """A line a slot: layer, name and shape."""
        return [f"{layer} {slot} {list(shape)}\n" for layer, slot, shape in self._places]

    @property
    def shapes_sha256(self) -> str:
        """SHA-256 over `shapes`."""
        return hashlib.sha256("".join(self.shapes).encode()).hexdigest()

    def write(self, writer: TelemetryWriter) -> None:
        """Say a line a slot, in the order of the pass."""
        for row in self.rows():
            writer.slot(**row)  # type: ignore[arg-type]  # the fields of `slot` are in it
