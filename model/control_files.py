"""Names in the control folder, by which a run and the process outside speak; without torch."""

from __future__ import annotations


def seen_file(index: int, rank: int) -> str:
    """The file that says that a told allocation of a rank was seen."""
    return f"seen-{index}" if rank == 0 else f"seen-{index}-of-rank-{rank}"
