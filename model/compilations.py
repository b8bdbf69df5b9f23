"""How many graphs torch.compile made in this process, counted without importing it."""

from __future__ import annotations


class Compilations:
    """How often blocks were traced in this process; each time a graph is compiled."""

    count = 0


def compilations() -> int:
    """Graphs compiled in this process so far, guards that failed and new shapes among them."""
    return Compilations.count
