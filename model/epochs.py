"""What a run's epochs decide, without torch: divergence, the target, and when to stop early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.training import ValidationLoss

LOSSES_AVERAGED = 100
"""Steps at the end of an epoch over which its training loss is averaged."""
DIVERGES_AT = 2.0
"""Times the epoch before's validation loss above which a run has diverged."""


@dataclass
class Epochs:
    """The epochs of one run so far."""

    run: PretrainRun
    length: int
    """Steps of an epoch."""
    val_losses: list[float] = field(default_factory=list)
    target_reached: bool = False
    losses: list[float] = field(default_factory=list)
    """Training losses of the running epoch."""
    grad_norm_max: float = 0.0

    @classmethod
    def of(cls, run: PretrainRun, steps_per_pass: int) -> Self:
        """The epochs of a run over data of so many steps a pass.

        Raises:
            RunRefusedError: CONFIG_REFUSED, they end before the run's steps do, with the numbers.
        """
        length = run.validate_every or (steps_per_pass if run.epochs is not None else run.steps)
        if length < 1:
            raise RunRefusedError(
                "CONFIG_REFUSED",
                f"a pass over the training split makes no batch of {run.batch_size} windows",
            )
        if run.epochs is not None and run.epochs * length < run.steps:
            raise RunRefusedError(
                "CONFIG_REFUSED",
                f"{run.epochs} epochs of {length} steps reach {run.epochs * length} steps, "
                f"the run asks for {run.steps}; it needs {math.ceil(run.steps / length)} epochs",
            )
        return cls(run, length)

    @property
    def number(self) -> int:
        """Index of the running epoch."""
        return len(self.val_losses)

    def ends_after(self, step: int) -> bool:
        """Whether the step is the last of its epoch; the run's last step always is."""
        return step == self.run.steps - 1 or (step + 1) % self.length == 0

    def saw(self, loss: float, grad_norm: float) -> None:
        """Count a step in."""
        self.losses.append(loss)
        self.grad_norm_max = max(self.grad_norm_max, grad_norm)

    def found(self, val_loss: float) -> float:
        """What a validation found; the stimulus `val_loss` finds something else."""
        stimulus = self.run.stimulus
        if not isinstance(stimulus, ValidationLoss) or stimulus.epoch != self.number:
            return val_loss
        if stimulus.value is not None:
            return float(stimulus.value)
        assert stimulus.times_previous is not None
        return self.val_losses[-1] * float(stimulus.times_previous)

    def divergence(self, val_loss: float) -> str | None:
        """Why this validation loss ends the run, or None; NaN is above every bound."""
        if not self.val_losses:
            cap = self.run.first_val_cap
            said = f"the first validation's bound of {cap:.6g}"
        else:
            cap = DIVERGES_AT * self.val_losses[-1]
            said = f"twice the epoch before's {self.val_losses[-1]:.6g}"
        if val_loss <= cap:
            return None
        return f"val_loss {val_loss:.6g} at epoch {self.number} is above {said}"

    def summary(self, val_loss: float, step: int) -> dict[str, float]:
        """The running epoch's figures, once it was validated after `step`."""
        last = self.losses[-LOSSES_AVERAGED:]
        train_loss = math.fsum(last) / len(last)
        return {
            "epoch": self.number,
            "step": step,
            "epoch_loss": train_loss,
            "val_loss": val_loss,
            "train_ppl": _perplexity(train_loss),
            "val_ppl": _perplexity(val_loss),
            "tokens_seen": (step + 1) * self.run.tokens_per_step,
            "grad_norm_max": self.grad_norm_max,
        }

    def close(self, val_loss: float) -> None:
        """End the running epoch."""
        self.val_losses.append(val_loss)
        self.losses, self.grad_norm_max = [], 0.0

    def reaches_target(self) -> bool:
        """Whether the epoch that was just closed is the first at the target."""
        target = self.run.target_val_loss
        if target is None or self.target_reached or self.val_losses[-1] > target:
            return False
        self.target_reached = True
        return True

    def patience_exhausted(self) -> str | None:
        """Why the run stops here, or None."""
        rule = self.run.early_stopping
        if rule is None or len(self.val_losses) < rule.min_epochs:
            return None
        best = min(range(len(self.val_losses)), key=self.val_losses.__getitem__)
        waited = len(self.val_losses) - 1 - best
        if waited < rule.patience:
            return None
        return f"{waited} epochs without a loss below {self.val_losses[best]:.6g} of epoch {best}"

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of them, between two epochs."""
        return {"val_losses": list(self.val_losses), "target_reached": self.target_reached}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self.val_losses = [float(loss) for loss in state["val_losses"]]
        self.target_reached = bool(state["target_reached"])


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < math.log(1e300) else math.inf
