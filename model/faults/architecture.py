"""Faults of the forward path: the same shapes, another function."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from pytest_gates.model.config import ForwardRun, Index, Positive, PretrainRun, ProbeRun
from pytest_gates.model.faults.base import BaseFault, Injectable, absent, modelless, unvalidated


class _OfTheModel(BaseFault):
    fits = "forward runs, and training runs that validate"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run that says what its model computes."""
        if isinstance(run, ForwardRun | ProbeRun):
            return modelless(run)
        return unvalidated(run)


class CausalLeak(_OfTheModel):
    """Attention of the first block sees a little of the next position."""

    fault: Literal["causal_leak"]
    share: Annotated[StrictFloat, Field(gt=0, le=1)] = 0.1
    meaning = "a `share` of the next position is added to each position before attention"
    incident = "a mask that was off by one"
    checks = ("property", "fact")


class WrongRopeBase(_OfTheModel):
    """Positions are rotated with another base."""

    fault: Literal["wrong_rope_base"]
    theta: Positive = 500_000.0
    meaning = "rotary tables are made with base `theta` instead of the declared one"
    incident = "a checkpoint of one model family run with the base of another"
    checks = ("property", "fact")

    def misfit(self, run: Injectable) -> str | None:
        """Fits where the declared base is another one."""
        why = super().misfit(run)
        if why is None and not isinstance(run, ProbeRun):
            shape = run.architecture
            same = shape is not None and float(shape.rope_theta) == float(self.theta)
            return f"the run declares rope_theta {self.theta} itself" if same else None
        return why


class FeedForwardShift(_OfTheModel):
    """The slice of the up projection is off by one."""

    fault: Literal["feed_forward_shift"]
    meaning = "the up projection's output is read one column further on"
    incident = "a fused gate and up matrix split one row too late"
    checks = ("property", "fact")


class NonlinearRope(BaseFault):
    """Angles grow with a power of the position."""

    fault: Literal["nonlinear_rope"]
    power: Annotated[StrictFloat, Field(gt=1, le=2)] = 1.05
    meaning = "rotary angles grow with position to the `power`, so distances mean nothing"
    incident = "a context extension that rescaled positions and not frequencies"
    checks = ("property",)
    fits = "forward runs"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a forward run."""
        return modelless(run) if isinstance(run, ForwardRun) else f"driver {run.driver}"


_OF_BATCHES = {"batch_invariance", "padding"}
"""Properties whose search feeds more than one sequence at once."""


class BatchLeak(BaseFault):
    """Each sequence sees a little of its batch."""

    fault: Literal["batch_leak"]
    share: Annotated[StrictFloat, Field(gt=0, le=1)] = 0.1
    meaning = "a `share` of the batch's mean is added to each sequence before attention"
    incident = "a batch normalisation left in by a port"
    checks = ("property",)
    fits = "forward runs that search a property of batches"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a forward run that feeds more than one sequence at once."""
        if not isinstance(run, ForwardRun):
            return f"driver {run.driver} searches no property of batches"
        batches = any(wanted.name in _OF_BATCHES for wanted in run.properties)
        return modelless(run) or (None if batches else "every pass has one sequence alone")


class UntiedWeights(BaseFault):
    """The output projection of a tied model is a copy of the embedding."""

    fault: Literal["untied_weights"]
    meaning = "a tied model gets an output projection of its own"
    incident = "a checkpoint loader that re-created the output projection after the tying"
    checks = ("fact",)
    fits = "runs whose model is tied"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run with a tied model."""
        why = modelless(run)
        if (
            why is None
            and not isinstance(run, ProbeRun)
            and not (run.architecture and run.architecture.tied)
        ):
            return "the run's model is not tied"
        return why


class TiedWeights(BaseFault):
    """The output projection of an untied model is the embedding."""

    fault: Literal["tied_weights"]
    meaning = "an untied model's output projection is its embedding's storage"
    incident = "a default of a model library, where a checkpoint said otherwise"
    checks = ("fact", "memory")
    fits = "runs whose model is untied"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run with an untied model."""
        why = modelless(run)
        if why is None and not isinstance(run, ProbeRun):
            untied = run.architecture is not None and not run.architecture.tied
            return None if untied else "the run's model is not untied"
        return why


class StrayParameter(BaseFault):
    """The model holds a parameter that its architecture does not give it."""

    fault: Literal["stray_parameter"]
    count: Annotated[StrictInt, Field(ge=1, le=100_000_000)] = 1_000_000
    """Its numbers."""
    meaning = "a parameter of `count` numbers, which nothing uses, is part of the model"
    incident = "a head of a former experiment, saved, moved and counted with each checkpoint"
    checks = ("fact", "memory")
    fits = "runs with a declared architecture and no statistics of parameters"

    def misfit(self, run: Injectable) -> str | None:
        """Fits where nothing needs a gradient of every parameter."""
        why = modelless(run)
        if why is not None or isinstance(run, ProbeRun):
            return why
        if run.architecture is None:
            return "the run's model is what its weights tell"
        if isinstance(run, PretrainRun) and (run.statistics or run.checkpoint != "never"):
            return "statistics and checkpoints hold every parameter to the architecture"
        return None


class _OfTheTrace(BaseFault):
    layer: Index = 0
    """Block in which it happens."""
    fits = "forward runs with that layer"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a forward run that has the layer."""
        if not isinstance(run, ForwardRun):
            return f"driver {run.driver} traces no slots"
        shape = run.architecture
        why = None if shape is None else absent("layer", self.layer, shape.layers)
        return why or modelless(run)


class NanActivation(_OfTheTrace):
    """One block's feed-forward output is NaN."""

    fault: Literal["nan_activation"]
    meaning = "the feed-forward output of block `layer` is NaN"
    incident = "an overflow in half precision, deep in the network"
    checks = ("bounded", "finite")


class ExplodingActivation(_OfTheTrace):
    """One block's feed-forward output is `factor` times too large."""

    fault: Literal["exploding_activation"]
    factor: Annotated[StrictFloat, Field(gt=1, le=1e12)] = 1e6
    meaning = "the feed-forward output of block `layer` is `factor` times too large"
    incident = "a feed-forward output 17 times the one of the layer before"
    checks = ("bounded", "property")
