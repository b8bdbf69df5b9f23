"""Effects of the faults in `faults.guards`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pytest_gates.model.faults.guards import (
    ConfigMatchOff,
    DataEndOff,
    DivergenceOff,
    FalseDivergence,
    FinitenessOff,
    HashCheckOff,
)
from pytest_gates.model.seams import Seams

EFFECTS: dict[type, Callable[[Any], Seams]] = {
    FinitenessOff: lambda _: Seams(
        finite=lambda loss, _norm: torch.ones_like(loss, dtype=torch.bool)
    ),
    DivergenceOff: lambda _: Seams(divergence=lambda _why: None),
    FalseDivergence: lambda _: Seams(divergence=lambda _why: "the guard was told to end the run"),
    DataEndOff: lambda _: Seams(halt=lambda _declared: False),
    ConfigMatchOff: lambda _: Seams(config_match=lambda _why: None),
    HashCheckOff: lambda _: Seams(hash_check=lambda _why: None),
}
