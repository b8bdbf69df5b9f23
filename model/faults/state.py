"""Faults of the state: weights as drawn, gradients, optimizer, and what a resumed run takes up."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.faults.base import BaseFault, Injectable, absent, untimed, untrained
from pytest_gates.model.settings import Index

BlockParameter = Literal[
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight",
    "mlp.down_proj.weight",
]  # fmt: skip


class _OfTraining(BaseFault):
    fits = "training runs"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run."""
        return untrained(run)


class WrongInitialisation(_OfTraining):
    """One matrix of every block is drawn with another scale."""

    fault: Literal["wrong_initialisation"]
    parameter: BlockParameter = "mlp.down_proj.weight"
    """Its name within the block."""
    factor: Annotated[StrictFloat, Field(gt=1, le=1000)] = 4.0
    meaning = "`parameter` is drawn `factor` times too large in every block"
    incident = "projections into the residual stream without their 1 / sqrt(2 layers)"
    checks = ("layer_statistics",)


class VanishingGradient(_OfTraining):
    """Gradients of one block, or of everything, are scaled down."""

    fault: Literal["vanishing_gradient"]
    factor: Annotated[StrictFloat, Field(ge=0, lt=1)] = 1e-3
    layer: Index | None = None
    """The block; every parameter of the model if left out."""
    meaning = "gradients of block `layer` (of all parameters) are multiplied by `factor`"
    incident = "a block left out of the backward pass by a detach in its cache"
    checks = ("layer_statistics", "bounded")

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that has the layer."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun) and self.layer is not None:
            return absent("layer", self.layer, run.architecture.layers)
        return why


class Bf16Embedding(_OfTraining):
    """The embedding has no fp32 master."""

    fault: Literal["bf16_embedding"]
    meaning = "the embedding and its gradient are kept in bf16"
    incident = "a wrapper that cast the largest tensor to save memory, and lost its small updates"
    checks = ("memory", "fact")
    fits = "training runs whose model is untied"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run whose embedding is no output projection too."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun) and run.architecture.tied:
            return "the run's model is tied: its output projection is the embedding"
        return why


class OptimizerDefaults(_OfTraining):
    """The optimizer is built with its library's defaults."""

    fault: Literal["optimizer_defaults"]
    meaning = "beta2 is 0.999 and weight decay 0.01, whatever is declared"
    incident = "a block of settings that was parsed, logged and never passed on"
    checks = ("fact",)

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that declares something else."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun):
            declared = (run.optimizer.beta2, run.optimizer.weight_decay)
            return "the run declares the defaults itself" if declared == (0.999, 0.01) else None
        return why


class DoubleStep(_OfTraining):
    """The optimizer steps twice with the same gradients."""

    fault: Literal["double_step"]
    meaning = "each update is carried out twice"
    incident = "scaler.step(optimizer) with the old optimizer.step() left in below it"
    checks = ("fact",)


class _OfResuming(BaseFault):
    fits = "training runs that continue another"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that continues another."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun) and run.resume is None:
            return "the run continues no other"
        return why


class ResumeIgnored(_OfResuming):
    """The run starts from scratch instead of continuing."""

    fault: Literal["resume_ignored"]
    captured = True
    meaning = "the setting `resume` is not looked at: the run begins at step 0"
    incident = "a resumed job that found no checkpoint folder, said so in a warning, and began anew"
    checks = ("event", "exit_status", "equal_runs")


class MomentsLost(_OfResuming):
    """The optimizer begins anew where the model continues."""

    fault: Literal["moments_lost"]
    captured = True
    meaning = "the checkpoint fills the parameters alone; both moments and their counters are 0"
    incident = "a checkpoint of the weights alone, and a bump in the loss after each restart"
    checks = ("fact", "equal_runs")


class SlowCheckpoint(BaseFault):
    """The training stands still for a checkpoint."""

    fault: Literal["slow_checkpoint"]
    captured = True
    ms: Annotated[StrictInt, Field(ge=1, le=60_000)] = 2000
    meaning = "the host waits `ms` milliseconds before a checkpoint's state is copied"
    incident = "a checkpoint written to a network file system in the training's own thread"
    checks = ("fact",)
    fits = "training runs that keep checkpoints; `mutate` injects it on CUDA alone"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that keeps checkpoints."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun) and run.checkpoint == "never":
            return "the run keeps no checkpoint"
        return why

    def unseen(self, run: Injectable) -> str | None:
        """See `untimed`."""
        return untimed(run)
