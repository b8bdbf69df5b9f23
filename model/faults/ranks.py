"""Faults of several processes: gradients that do not meet as they should, data read twice."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.faults.base import BaseFault, Injectable, untimed, untrained
from pytest_gates.model.settings import Positive


class _OfRanks(BaseFault):
    fits = "training runs of several ranks"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run of two ranks or more."""
        if (why := untrained(run)) is not None:
            return why
        return None if isinstance(run, PretrainRun) and run.ranks > 1 else "the run has one rank"


class SummedGradients(_OfRanks):
    """Gradients of the ranks are summed and never divided by their number."""

    fault: Literal["summed_gradients"]
    meaning = "gradients of the ranks are added up instead of averaged"
    incident = "a ring all-reduce whose division by the number of workers was missing"
    checks = ("fact", "equal_runs")


class _OfReplicas(_OfRanks):
    fits = "training runs of several ranks with `parallel: ddp`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits where every rank holds the whole state."""
        if (why := super().misfit(run)) is not None:
            return why
        sharded = isinstance(run, PretrainRun) and run.sharded
        return "gradients of shards meet inside of torch alone" if sharded else None


class LocalGradients(_OfReplicas):
    """Ranks keep their own gradients."""

    fault: Literal["local_gradients"]
    meaning = "no rank's gradients meet those of the others; each updates by its own"
    incident = "a model called past its wrapper, so that no hook ever fired"
    checks = ("equal_ranks", "fact")


class SlowCommunication(_OfReplicas):
    """Every bucket of gradients waits before it is sent."""

    fault: Literal["slow_communication"]
    ms: Annotated[Positive, Field(le=60_000)] = 20
    meaning = "each bucket of gradients waits `ms` before it is sent to the other ranks"
    incident = "two GPUs whose link had fallen back to the host's memory"
    checks = ("ratio_of_runs", "budget")
    fits = "training runs of several ranks with `parallel: ddp`; `mutate` injects it on CUDA alone"

    def unseen(self, run: Injectable) -> str | None:
        """See `untimed`."""
        return untimed(run)


class SameShard(_OfRanks):
    """Every rank reads the share of rank 0."""

    fault: Literal["same_shard"]
    meaning = "every rank trains on rank 0's share of each batch"
    incident = "a sampler that was never told its rank"
    checks = ("equal_ranks", "equal_runs")
