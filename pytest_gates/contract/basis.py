"""The basis of a gate's verdict: which of what stands there was written by the program."""

from __future__ import annotations

from typing import Any

from pytest_gates.contract.nodes import Mapping, Node, Scalar, Sequence, to_data
from pytest_gates.contract.scalars import kind

BASIS = "verdict_basis"


def gate_basis(gate: Mapping) -> tuple[dict[str, Any], ...]:
    """The entries that write-back left in a gate; none if people wrote the basis, or nobody."""
    value = gate.get(BASIS)
    return tuple(to_data(value)) if isinstance(value, Sequence) and is_ours(value) else ()


def is_ours(value: Node) -> bool:
    """Whether a basis was written by write-back, or nobody wrote one yet."""
    if isinstance(value, Sequence):
        return all(
            isinstance(item, Mapping) and item.get("record") is not None for item in value.items
        )
    return isinstance(value, Scalar) and kind(value.value, value.style) == "null"
