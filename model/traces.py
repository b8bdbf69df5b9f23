"""How many graphs torch.compile made in this process, without importing it."""

from __future__ import annotations


class Traces:
    """How often blocks were traced in this process; each trace is a graph that is compiled."""

    count = 0


def compilations() -> int:
    """Graphs compiled in this process so far, guards that failed and new shapes among them."""
    return Traces.count
