"""The group that a run declares, joined by this process."""

from __future__ import annotations

import torch

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.parallel.group import ALONE, Group
from pytest_gates.model.parallel.place import Place
from pytest_gates.model.seams import Seams


def join(run: PretrainRun, place: Place | None, device: torch.device, seams: Seams) -> Group:
    """Join the other ranks of a run; a run of one process has none.

    Raises:
        RuntimeError: they did not come.
    """
    if place is None or run.launch is None:
        return ALONE
    if run.parallel == "fsdp":
        from pytest_gates.model.parallel.fsdp import FullyShardedDataParallel  # noqa: PLC0415

        return FullyShardedDataParallel(run, place, device, seams)
    from pytest_gates.model.parallel.ddp import DataParallel  # noqa: PLC0415

    return DataParallel(run, place, device, seams)
