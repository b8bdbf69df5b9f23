"""The slots of a trace, read from evidence: what the checks of the forward path look at."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gates.evidence import Evidence


@dataclass(frozen=True)
class Slot:
    """One place of a forward pass with what was said of it."""

    layer: int
    """-1 lies after the last block."""
    name: str
    figures: dict[str, float]
    """By metric; what was null is not in it."""

    @property
    def at(self) -> str:
        """The place for people."""
        return f"layer {self.layer} {self.name}" if self.layer >= 0 else self.name


def slots_of(evidence: Evidence) -> list[Slot]:
    """Every slot that was said, in the order of the pass."""
    columns = evidence.main.slots.columns
    found = []
    for row in range(len(evidence.main.slots)):
        said = {name: column[row] for name, column in columns.items()}
        figures = {
            name: float(value)
            for name, value in said.items()
            if name not in {"slot", "hash", "layer"} and value is not None
        }
        layer = said["layer"]
        assert isinstance(layer, float)
        found.append(Slot(int(layer), str(said["slot"]), figures))
    return found
