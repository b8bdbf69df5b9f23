"""Effects of the faults in `faults.ranks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_gates.model.faults.ranks import LocalGradients, SameShard, SummedGradients
from pytest_gates.model.seams import Seams

EFFECTS: dict[type, Callable[[Any], Seams]] = {
    SummedGradients: lambda _: Seams(gradient_divisor=lambda _ranks: 1.0),
    LocalGradients: lambda _: Seams(reduces=lambda _rank: False),
    SameShard: lambda _: Seams(rank_of_data=lambda _rank: 0),
}
