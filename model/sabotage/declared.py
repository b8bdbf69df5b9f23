"""Effects of the faults in `faults.declared`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.faults.declared import DeterminismOff, OtherRegime, RegimeWins
from pytest_gates.model.seams import Seams
from pytest_gates.model.training import REGIMES, Regime


def _in_the_other(declared: PretrainRun) -> PretrainRun:
    assert declared.regime is not None
    (name,) = REGIMES.keys() - {declared.regime.name}
    return declared.model_copy(
        update={
            "regime": Regime.model_validate({"name": name, "sets": declared.regime.sets}),
            "target_val_loss": REGIMES[name]["target_val_loss"],
        }
    )


def _by_the_regime(declared: PretrainRun) -> PretrainRun:
    assert declared.regime is not None
    sets = REGIMES[declared.regime.name]
    optimizer = {"lr": sets["lr"], "warmup_steps": int(sets["warmup_steps"])}
    return declared.model_copy(
        update={
            "optimizer": declared.optimizer.model_copy(update=optimizer),
            "regime": declared.regime.model_copy(update={"sets": tuple(sets)}),
        }
    )


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    DeterminismOff: lambda _: Seams(deterministic=lambda _declared: False),
    OtherRegime: lambda _: Seams(configuration=_in_the_other),
    RegimeWins: lambda _: Seams(configuration=_by_the_regime),
}
