"""Parity of two runs that never met: each has told a sketch of its slots, and these are compared.

Neither run can be fed the other's slots, so a slot's distance holds what it inherited. It is held
against what sound models make of that: the rounding of both sides, and the distances of the slots
that it was computed from, each times the most by which a sound model enlarged them.
"""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_gates.checks.slots import Slot
from pytest_gates.checks.tolerances import OWN_ERROR
from pytest_gates.errors import EvidenceError

BEFORE = "before "
"""Begins the name of a slot of the layer before; of the first layer the embedding's norm."""
INPUTS: dict[str, tuple[str, ...]] = {
    "attn_norm": (BEFORE + "residual_out",),
    "q": ("attn_norm",),
    "k": ("attn_norm",),
    "v": ("attn_norm",),
    "q_rope": ("q",),
    "k_rope": ("k",),
    "attn_out": ("q_rope", "k_rope", "v"),
    "attn_proj": ("attn_out",),
    "residual_mid": ("attn_proj", "attn_norm", BEFORE + "residual_out"),
    "ffn_norm": ("residual_mid",),
    "ffn_gate": ("ffn_norm",),
    "ffn_up": ("ffn_norm",),
    "ffn_silu": ("ffn_gate",),
    "ffn_swigl": ("ffn_silu", "ffn_up"),
    "ffn_out": ("ffn_swigl",),
    "residual_out": ("ffn_out", "residual_mid"),
    "final_norm": (BEFORE + "residual_out",),
    "logits": ("final_norm",),
}
"""What each slot is computed from."""
PASSED_ON, PASSED_ON_BY = 2.5, {"attn_out": 8.0, "ffn_swigl": 4.0}
"""Most by which a slot enlarges the distances of its inputs: more than twice what sound models
showed in benchmarks/calibrate_run_parity.py, 1.12, and 3.6 and 1.6 where a softmax or a product
does."""
ADDED_UP = 20.0
"""Times the coarsest slot's rounding of both sides that any distance may grow to: twice the 17
times that the same models showed of one side, and a margin for how well a sketch knows it."""


@dataclass(frozen=True)
class Parting:
    """The first slot whose distance is more than rounding and inheritance explain."""

    slot: Slot
    distance: float
    limit: float
    inherited: float
    """The largest distance of the slots that it was computed from."""
    eliminated: tuple[str, ...]
    """Slots before it, each within its limit."""


@dataclass(frozen=True)
class Compared:
    """Two runs, slot by slot."""

    parting: Parting | None
    distances: Mapping[str, float]
    """Relative L2, by place, up to the parting."""


def compare_sketches(
    slots: list[Slot], others: list[Slot], rounding: Mapping[str, float]
) -> Compared:
    """Hold each slot against the other run's, in the order of the pass.

    Args:
        slots: of the path.
        others: of the reference, at the same places.
        rounding: what number formats explain, by the slot's name, both sides together.

    Raises:
        EvidenceError: a sketch is none.
    """
    found: dict[tuple[int, str], float] = {}
    told: dict[str, float] = {}
    most = ADDED_UP * max(rounding.values())
    last = max((one.layer for one in slots), default=0)
    for mine, theirs in zip(slots, others, strict=True):
        distance = _distance(_values(mine), _values(theirs))
        inherited = max(_inherited(mine, found, last), default=0.0)
        own = rounding[mine.name]
        limit = own + PASSED_ON_BY.get(mine.name, PASSED_ON) * inherited
        limit = min(limit, most)
        if not distance <= limit:
            parting = Parting(mine, distance, limit, inherited, tuple(told))
            return Compared(parting, {**told, mine.at: distance})
        found[mine.layer, mine.name] = told[mine.at] = distance
    return Compared(None, told)


def rounding_of(*sides: tuple[str, ...]) -> dict[str, float]:
    """What the number formats of all sides explain of each slot; of a side the coarsest."""
    return {
        slot: sum(max(OWN_ERROR[key][slot] for key in keys) for keys in sides) for slot in INPUTS
    }


def places_difference(slots: list[Slot], others: list[Slot]) -> str | None:
    """The first slot that is another one, or of another size, in words; None: none is."""
    for mine, theirs in zip(slots, others, strict=False):
        sizes = _size(mine), _size(theirs)
        if (mine.at, sizes[0]) != (theirs.at, sizes[1]):
            return f"{mine.at} of {sizes[0]} elements against {theirs.at} of {sizes[1]}"
    if len(slots) != len(others):
        return f"{len(slots)} slots against {len(others)}"
    return None


def _inherited(slot: Slot, found: Mapping[tuple[int, str], float], last: int) -> Iterator[float]:
    for name in INPUTS[slot.name]:
        before = name.startswith(BEFORE)
        layer = slot.layer if slot.layer >= 0 or not before else last + 1
        at = (layer - 1, name.removeprefix(BEFORE)) if before else (layer, name)
        if at in found:
            yield found[at]


def _size(slot: Slot) -> str:
    return (slot.sketch or "?").partition(":")[0]


def _values(slot: Slot) -> array[float]:
    assert slot.sketch is not None
    try:
        values = array("d", base64.b64decode(slot.sketch.partition(":")[2], validate=True))
    except ValueError as error:
        raise EvidenceError(f"{slot.at}: no sketch: {error}") from None
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _distance(mine: Any, theirs: Any) -> float:
    off = math.hypot(*(a - b for a, b in zip(mine, theirs, strict=True)))
    size = math.hypot(*theirs)
    if off == 0:
        return 0.0
    return off / size if size else math.inf
