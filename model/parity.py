"""A forward path beside its float64 oracle: how far each slot is off, and by whose fault.

Two passes of the path are compared. In the first it runs freely, and a slot's error holds what it
inherited. In the second each slot is replaced by the oracle's as soon as it is computed, so that
every slot is recomputed from the reference's inputs: what is left is the slot's own error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.oracle import Place, Weight, oracle
from pytest_gates.model.prompt import Input
from pytest_gates.model.slot_statistics import SlotStatistics


@dataclass(frozen=True)
class Reference:
    """The other side."""

    architecture: Architecture
    weight: Callable[[str], Tensor]
    """A parameter by its Hugging Face name, in whatever type it is kept."""
    fed: Input
    device: torch.device

    def slots(self) -> dict[Place, Tensor]:
        """Every slot of the oracle, in float64."""
        with torch.no_grad():
            return self._seen(self._double)

    def _seen(self, weight: Weight) -> dict[Place, Tensor]:
        tokens, positions = (
            torch.tensor(side, device=self.device) for side in (self.fed.tokens, self.fed.positions)
        )
        return oracle(self.architecture, weight, tokens, positions)

    def _double(self, name: str) -> Tensor:
        return self.weight(name).to(self.device, torch.float64)

    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the mean next-token loss, by parameter, in float64."""
        leaves: dict[str, Tensor] = {}

        def leaf(name: str) -> Tensor:
            if name not in leaves:
                leaves[name] = self._double(name).detach().requires_grad_()
            return leaves[name]

        logits = self._seen(leaf)[-1, "logits"][0]
        following = torch.tensor(self.fed.tokens[1:], device=self.device)
        torch.autograd.backward(F.cross_entropy(logits[:-1], following))
        found = {}
        for name, value in leaves.items():
            assert value.grad is not None, name
            found[name] = value.grad
        return found


class Distances:
    """An observer that measures each slot against the reference's."""

    def __init__(self, reference: Mapping[Place, Tensor]) -> None:
        self.reference = reference
        self._found: dict[Place, Tensor] = {}

    def __call__(self, layer: int, slot: str, activations: Tensor) -> Tensor | None:
        """Measure one slot; nothing waits for the device."""
        self._found[layer, slot] = relative_l2(activations, self.reference[layer, slot])
        return None

    def read(self) -> dict[Place, float]:
        """The relative L2 distance of each slot, read back at once."""
        values = torch.stack(list(self._found.values())).tolist()
        return dict(zip(self._found, values, strict=True))


class Forced(Distances):
    """The same, and puts the reference's slot in place of each."""

    def __call__(self, layer: int, slot: str, activations: Tensor) -> Tensor:
        """Measure one slot, and go on with the reference's."""
        super().__call__(layer, slot, activations)
        return self.reference[layer, slot].to(activations.dtype)

    def instead(self, layer: int) -> list[Tensor]:
        """The reference's slots of one block, for a pass that cannot ask while it runs."""
        return [value for (at, _), value in self.reference.items() if at == layer]


def relative_l2(value: Tensor, expected: Tensor) -> Tensor:
    """|value - expected| over |expected|, in float64: no sign and no permutation escapes it."""
    off = torch.linalg.vector_norm(value.double() - expected)
    size: Tensor = torch.linalg.vector_norm(expected)
    distance: Tensor = off / size.clamp_min(torch.finfo(torch.float64).tiny)
    return distance


def shape_difference(
    trace: SlotStatistics, reference: Mapping[Place, Tensor]
) -> tuple[str | None, str]:
    """The first slot whose shape differs, in words, and the hash of the reference's shapes."""
    lines = [f"{layer} {slot} {list(x.shape)}\n" for (layer, slot), x in reference.items()]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    own = trace.shapes
    for mine, theirs in zip(own, lines, strict=False):
        if mine != theirs:
            return f"{mine.strip()} against {theirs.strip()}", digest
    if len(own) != len(lines):
        return f"{len(own)} slots against {len(lines)}", digest
    return None, digest


def parameter_difference(
    mine: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]
) -> str | None:
    """The first parameter that one side alone has, or in another shape, in words; None: none is."""
    for name in {**mine, **theirs}:
        if name not in theirs:
            return f"{name} is the path's alone"
        if name not in mine:
            return f"{name} is the reference's alone"
        if mine[name] != theirs[name]:
            return f"{name} is {list(mine[name])} against {list(theirs[name])}"
    return None


@dataclass(frozen=True)
class Gradient:
    """One parameter's gradient against the reference's."""

    name: str
    ratio: float
    """Its norm over the reference's."""
    cosine: float
    rel_l2: float


def compare_gradients(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> list[Gradient]:
    """Gradients in the order a backward pass reaches them: from the logits to the embedding."""
    compared = []
    for name in reversed(list(found)):
        value, wanted = found[name].double(), expected[name]
        norms = torch.linalg.vector_norm(value), torch.linalg.vector_norm(wanted)
        figures = torch.stack(
            (
                norms[0] / norms[1],
                (value * wanted).sum() / (norms[0] * norms[1]).clamp_min(1e-300),
                relative_l2(value, wanted),
            )
        ).tolist()
        compared.append(Gradient(name, *figures))
    return compared
