"""Effects of the faults in `faults.ranks`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pytest_gates.model.faults.ranks import (
    LocalGradients,
    SameShard,
    SlowCommunication,
    SummedGradients,
)
from pytest_gates.model.seams import Seams


def _slow(fault: SlowCommunication) -> Seams:
    def wait(_rank: int) -> bool:
        time.sleep(fault.ms / 1000)
        return True

    return Seams(reduces=wait)


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    SummedGradients: lambda _: Seams(gradient_divisor=lambda _ranks: 1.0),
    LocalGradients: lambda _: Seams(reduces=lambda _rank: False),
    SlowCommunication: _slow,
    SameShard: lambda _: Seams(rank_of_data=lambda _rank: 0),
}
