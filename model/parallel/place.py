"""Which process of a run this one is, as its launcher says in the environment; without torch."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

LAUNCHER = "PYTEST_GATES_LAUNCHER"
"""Variable by which the launcher gives its PID and its start, for those it starts."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Place:
    """One process among those of a run."""

    rank: int
    local_rank: int
    """Among those of its node."""
    ranks: int
    launcher: int | None = None
    """PID of the launcher, where that is ours."""
    started_ns: int | None = None
    """`time.monotonic_ns()` at the start of the launcher: the witness's time line."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self | None:
        """The place that torchrun (or srun) gave this process; None: nobody did.

        torchrun sets RANK, LOCAL_RANK and WORLD_SIZE; srun sets SLURM_PROCID, SLURM_LOCALID and
        SLURM_NTASKS.
        """
        for names in (("RANK", "LOCAL_RANK", "WORLD_SIZE"),
                      ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")):  # fmt: skip
            if all(environ.get(name, "").isdecimal() for name in names):
                rank, local_rank, ranks = (int(environ[name]) for name in names)
                launcher, _, started = environ.get(LAUNCHER, "").partition(" ")
                if not started.isdecimal():
                    return cls(rank, local_rank, ranks)
                return cls(rank, local_rank, ranks, int(launcher), int(started))
        return None

    def die_with_launcher(self) -> None:
        """From now on this process is killed when its launcher ends, however that ends."""
        if self.launcher is None:
            return
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.launcher:  # it died before the line above could take effect
            os._exit(1)
