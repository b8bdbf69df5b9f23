"""What the faults of the catalogue put into a run's seams. One family a file, as in `faults`."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_gates.model.faults import Planted, fault_adapter
from pytest_gates.model.sabotage import (
    architecture,
    declared,
    device,
    guards,
    learning,
    numbers,
    path,
    ranks,
    rules,
    speed,
    state,
)
from pytest_gates.model.seams import CLEAN, Seams

EFFECTS = {
    **device.EFFECTS,
    **speed.EFFECTS,
    **learning.EFFECTS,
    **state.EFFECTS,
    **declared.EFFECTS,
    **numbers.EFFECTS,
    **guards.EFFECTS,
    **architecture.EFFECTS,
    **path.EFFECTS,
    **rules.EFFECTS,
    **ranks.EFFECTS,
}
"""What each fault does, by its class: fault -> seams."""


def seams_for(fault: Mapping[str, object] | None) -> Seams:
    """The seams of a run with this fault; the neutral ones without.

    Raises:
        pydantic.ValidationError: the fault is not in the catalogue.
    """
    if fault is None:
        return CLEAN
    injected = fault_adapter.validate_python(dict(fault))
    assert not isinstance(injected, Planted), "attacks are carried out on evidence, not on runs"
    return EFFECTS[type(injected)](injected)
