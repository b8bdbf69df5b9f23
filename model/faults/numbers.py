"""Faults of what is told: numbers that are no measurement, are lost, or are of something else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictStr

from pytest_gates.model.config import Index, PretrainRun
from pytest_gates.model.faults.base import (
    BaseFault,
    Injectable,
    beyond,
    untrained,
    unvalidated,
)
from pytest_gates.model.telemetry import REQUIRED_STEP_FIELDS


def _middle(run: Injectable) -> int:
    return run.steps // 2 if isinstance(run, PretrainRun) else 0


def _hashed(run: Injectable) -> str | None:
    hashed = isinstance(run, PretrainRun) and run.deterministic
    return "each step tells a hash of the parameters, which nothing scripts" if hashed else None


class _AtStep(BaseFault):
    step: Index = 1
    """The step at which it happens."""
    fits = "training runs that reach `step`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that reaches `step`."""
        return beyond(run, "step", self.step)

    @classmethod
    def suited(cls, run: Injectable) -> dict[str, object]:
        """The middle of the run."""
        return {"step": _middle(run)}


class NanStep(_AtStep):
    """The loss of one step is NaN, and so is everything after it."""

    fault: Literal["nan_step"]
    meaning = "the logits of `step` are NaN, and with its update every weight"
    incident = "a logarithm of 0 in one batch in a million"
    checks = ("finite", "exit_status")


class NumberAfterNan(_AtStep):
    """NaN at one step; from then on the last finite numbers are told again."""

    fault: Literal["number_after_nan"]
    meaning = "the weights are NaN from `step` on, the telemetry repeats its last finite numbers"
    incident = "a logger that filled gaps forward"
    checks = ("fact", "finite", "not_constant")


class LossSpike(_AtStep):
    """The logits of one step are multiplied by `factor`."""

    fault: Literal["loss_spike"]
    factor: Annotated[StrictFloat, Field(gt=1, le=1e6)] = 100.0
    meaning = "the logits of `step` are `factor` times too large, so its loss jumps"
    incident = "one corrupt shard in a data set of thousands"
    checks = ("bounded",)


class ScriptedLoss(BaseFault):
    """A smooth curve with no compute behind it."""

    fault: Literal["scripted_loss"]
    meaning = "no step computes anything; loss and norm follow a smooth curve from ln(vocabulary)"
    incident = "a demo mode of a training dashboard that reached production"
    checks = ("descent", "residency", "fact")
    fits = "training runs that are not deterministic"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run whose steps tell no hash of the parameters."""
        return untrained(run) or _hashed(run)


class Placeholder(_AtStep):
    """From one step on nothing is computed and (1.0, 1.0) is told."""

    fault: Literal["placeholder"]
    captured = True
    meaning = "from `step` on, as if the data had run out, loss and norm are the constant 1.0"
    incident = "a trainer that told (1.0, 1.0) for every step after its data ran out"
    checks = ("not_constant", "descent")
    fits = "training runs that reach `step` and are not deterministic"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that reaches `step` and tells no hash of the parameters."""
        return super().misfit(run) or _hashed(run)


class DataRunsOut(_AtStep):
    """The data ends early and the run with it."""

    fault: Literal["data_runs_out"]
    captured = True
    meaning = "the data ends at `step`; the run ends STREAM_EXHAUSTED"
    incident = "a shard that was missing from the mirror"
    checks = ("exit_status",)


class MissingField(BaseFault):
    """One field is never told."""

    fault: Literal["missing_field"]
    captured = True
    field: StrictStr = "grad_norm"
    """A field that every step must tell."""
    meaning = "one field is missing from every step's line"
    incident = "a metric renamed in the trainer and not in the dashboard"
    checks = ("required_fields",)
    fits = "training runs, fields that every step must tell"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run and a required field other than the step itself."""
        known = [name for name in REQUIRED_STEP_FIELDS if name != "step"]
        if self.field not in known:
            return f"{self.field} is no required field; known: {', '.join(known)}"
        return untrained(run)


class ConstantField(BaseFault):
    """One field always tells the same number."""

    fault: Literal["constant_field"]
    captured = True
    field: Literal["train_loss", "grad_norm"] = "grad_norm"
    meaning = "one metric is told as 1.0 at every step"
    incident = "a gradient norm that was a stub for months"
    checks = ("not_constant",)
    fits = "training runs"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run."""
        return untrained(run)


class CounterRestarts(_AtStep):
    """A counter begins at 0 again."""

    fault: Literal["counter_restarts"]
    captured = True
    field: Literal["step", "tokens"] = "tokens"
    """The counter."""
    meaning = "from `step` on the counter is told as if the run had begun there"
    incident = "a restarted job that counted its tokens from zero, and trained twice its budget"
    checks = ("monotone",)


class _OfValidation(BaseFault):
    fits = "training runs that validate"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that validates."""
        return unvalidated(run)


class DoubledValidationLoss(_OfValidation):
    """The validation loss is told twice as large."""

    fault: Literal["doubled_validation_loss"]
    captured = True
    meaning = "the validation loss is counted twice"
    incident = "a sum over ranks divided by half their number"
    checks = ("fact", "bounded")


class ValidationOnTraining(_OfValidation):
    """Validation reads the training split."""

    fault: Literal["validation_on_training"]
    captured = True
    meaning = "validation reads the first windows of the training split"
    incident = "both loaders built from one list of shards"
    checks = ("fact",)


class DropoutInEvaluation(_OfValidation):
    """Dropout stays on while the model evaluates."""

    fault: Literal["dropout_in_evaluation"]
    p: Annotated[StrictFloat, Field(gt=0, lt=1)] = 0.2
    meaning = "a share `p` of the activations before the output projection is dropped in evaluation"
    incident = "model.eval() forgotten after a refactoring"
    checks = ("fact",)
