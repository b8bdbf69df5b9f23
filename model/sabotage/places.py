"""The place in a model that a fault names: of weights, nobody knows their layers before."""

from __future__ import annotations

from torch import nn

from pytest_gates.model.faults.base import absent
from pytest_gates.model.telemetry import RunRefusedError


def in_layer(model: nn.Module, layer: int, name: str) -> nn.Module:
    """A part of a layer, counted from 0.

    Raises:
        RunRefusedError: CONFIG_REFUSED, the model has no such layer.
    """
    refuse_absent("layer", layer, len(list(model.get_submodule("model.layers").children())))
    return model.get_submodule(f"model.layers.{layer}.{name}")


def refuse_absent(what: str, index: int, count: int) -> None:
    """Refuse a place that the model has not.

    Raises:
        RunRefusedError: CONFIG_REFUSED, the index lies beyond the count.
    """
    why = absent(what, index, count)
    if why is not None:
        raise RunRefusedError("CONFIG_REFUSED", f"the fault's {why}")
