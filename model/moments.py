"""What an optimizer keeps beside its parameters, whoever does the update."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


class Moments(Protocol):
    """What an optimizer keeps beside its parameters; torch's own optimizers have it."""

    @property
    def state(self) -> MutableMapping[Any, Any]:
        """By parameter: `step`, `exp_avg` and `exp_avg_sq`."""


@dataclass(frozen=True)
class FlatMoments:
    """Moments that lie in flat buffers, whose update is a kernel.

    A torch optimizer would do as well, but to build one imports torch's compiler, 2 s on a host
    that has not done so.
    """

    state: dict[Tensor, dict[str, Tensor]] = field(default_factory=dict)
