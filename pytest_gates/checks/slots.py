"""The slots of a trace, read from evidence: what the checks of the forward path look at."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pytest_gates.evidence import Evidence
from pytest_gates.model.config import ForwardRun, Run
from pytest_gates.model.slots import BLOCK_SLOTS, FINAL_SLOTS, GRADIENT
from pytest_gates.vocabulary import hint

_IN_A_LAYER = re.compile(r"layer (0|[1-9][0-9]{0,4}) (.+)")


@dataclass(frozen=True)
class Slot:
    """One place of a forward pass with what was said of it."""

    layer: int
    """-1 lies after the last block."""
    name: str
    figures: dict[str, float]
    """By metric; what was null is not in it."""
    sketch: str | None = None
    """As it was told, where the run was asked for it."""

    @property
    def at(self) -> str:
        """The place for people."""
        return f"layer {self.layer} {self.name}" if self.layer >= 0 else self.name

    @property
    def is_gradient(self) -> bool:
        """Whether it is of the backward pass."""
        return self.name.startswith(GRADIENT)

    @property
    def computed_by(self) -> str:
        """What tolerances are kept by: the slot's name, or the module whose gradient it is."""
        if not self.is_gradient:
            return self.name
        return self.name.removeprefix(GRADIENT).rpartition(".")[0].rpartition(".")[2]


def slots_of(evidence: Evidence) -> list[Slot]:
    """Every slot that was said, in the order of the pass."""
    columns = evidence.main.slots.columns
    found = []
    for row in range(len(evidence.main.slots)):
        said = {name: column[row] for name, column in columns.items()}
        figures = {
            name: float(value)
            for name, value in said.items()
            if name not in {"slot", "hash", "layer", "sketch"} and value is not None
        }
        layer = said["layer"]
        assert isinstance(layer, float)
        sketch = said.get("sketch")
        told = None if sketch is None else str(sketch)
        found.append(Slot(int(layer), str(said["slot"]), figures, told))
    return found


def place_misfit(slot: str, runs: Iterable[Run]) -> str | None:
    """Why no trace of these runs has the place `slot`, as `Slot.at` writes it, or None."""
    match = _IN_A_LAYER.fullmatch(slot)
    name = match.group(2) if match else slot
    known: Collection[str] = BLOCK_SLOTS if match else FINAL_SLOTS
    if not name.startswith(GRADIENT) and name not in known:
        if name in BLOCK_SLOTS:
            return f"slot `{slot}` lies in a layer: write `layer 0 {slot}`"
        return f"there is no slot `{slot}`; {hint(name, known)}"
    depths = [
        one.architecture.layers
        for one in runs
        if isinstance(one, ForwardRun) and one.architecture is not None
    ]
    if match and depths and int(match.group(1)) >= max(depths):
        return f"slot `{slot}` lies beyond the model's {max(depths)} layers"
    return None
