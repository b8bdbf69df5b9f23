"""Effects of the faults in `faults.numbers`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from numpy import int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gates.model.faults.numbers import (
    ConstantField,
    CounterRestarts,
    DataRunsOut,
    DoubledValidationLoss,
    DropoutInEvaluation,
    LossSpike,
    MissingField,
    NanStep,
    NumberAfterNan,
    Placeholder,
    ScriptedLoss,
    ValidationOnTraining,
)
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import RunRefusedError

Line = dict[str, Any]


class LogitFactor:
    """A factor on the logits, kept in a tensor, so that a captured step sees it change."""

    def __init__(self, step: int, value: float) -> None:
        self._step, self._value = step, value
        self._factor: Tensor | None = None

    def edit(self, model: nn.Module) -> None:
        """Multiply what the model puts out."""
        self._factor = torch.ones((), device=next(model.parameters()).device)
        factor = self._factor
        model.register_forward_hook(lambda _module, _inputs, logits: logits * factor)

    def set(self, step: int) -> None:
        """The factor of a step: the value at its own, 1 at all others."""
        assert self._factor is not None
        self._factor.fill_(self._value if step == self._step else 1.0)


def _nan(fault: NanStep) -> Seams:
    factor = LogitFactor(fault.step, math.nan)
    return Seams(edit_model=factor.edit, before_step=factor.set)


def _masked_nan(fault: NumberAfterNan) -> Seams:
    factor = LogitFactor(fault.step, math.nan)
    last: Line = {}

    def repeat(line: Line) -> Line:
        told = {name: line[name] for name in ("train_loss", "grad_norm")}
        if all(math.isfinite(value) for value in told.values()):
            last.update(told)
        return line | last

    return Seams(
        edit_model=factor.edit,
        before_step=factor.set,
        tell_step=repeat,
        finite=lambda loss, _norm: torch.ones_like(loss, dtype=torch.bool),
    )


def _spike(fault: LossSpike) -> Seams:
    factor = LogitFactor(fault.step, fault.factor)
    return Seams(edit_model=factor.edit, before_step=factor.set)


def _said(loss: float, norm: float) -> Tensor:
    """A step's report (see `step.read`) that nothing computed."""
    return torch.tensor((loss, norm, 1e-3, 0.0), dtype=torch.float64)


def _scripted(_: ScriptedLoss) -> Seams:
    vocabularies: list[int] = []

    def measure(model: nn.Module) -> None:
        vocabularies.append(model.get_parameter("lm_head.weight").shape[0])

    def pretend(step: int, _work: Callable[[], Tensor]) -> Tensor:
        start = math.log(vocabularies[0])
        return _said(start * (0.4 + 0.6 * math.exp(-step / 20)), 1 / (1 + step))

    return Seams(edit_model=measure, compute=pretend)


def _placeholder(fault: Placeholder) -> Seams:
    def stop(step: int, work: Callable[[], Tensor]) -> Tensor:
        return work() if step < fault.step else _said(1.0, 1.0)

    return Seams(compute=stop)


def _data_ends(fault: DataRunsOut) -> Seams:
    def end(step: int, tokens: NDArray[int64]) -> NDArray[int64]:
        if step == fault.step:
            raise RunRefusedError("STREAM_EXHAUSTED", f"the data ended at step {step}")
        return tokens

    return Seams(batch=end)


def _missing(fault: MissingField) -> Seams:
    return Seams(tell_step=lambda line: {name: line[name] for name in line if name != fault.field})


def _constant(fault: ConstantField) -> Seams:
    return Seams(tell_step=lambda line: line | {fault.field: 1.0})


def _restarted(fault: CounterRestarts) -> Seams:
    before: list[int] = []

    def again(line: Line) -> Line:
        if line["step"] < fault.step:
            before[:] = [line[fault.field] + (fault.field == "step")]
            return line
        return line | {fault.field: line[fault.field] - sum(before)}

    return Seams(tell_step=again)


def _doubled(_: DoubledValidationLoss) -> Seams:
    return Seams(validation_loss=lambda loss: 2 * loss)


def _on_training(_: ValidationOnTraining) -> Seams:
    return Seams(validation=lambda corpus: corpus.train)


def _dropout(fault: DropoutInEvaluation) -> Seams:
    def edit(model: nn.Module) -> None:
        def drop(_module: nn.Module, _inputs: object, hidden: Tensor) -> Tensor:
            return hidden if model.training else F.dropout(hidden, fault.p, training=True)

        model.get_submodule("model.norm").register_forward_hook(drop)

    return Seams(edit_model=edit)


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    NanStep: _nan,
    NumberAfterNan: _masked_nan,
    LossSpike: _spike,
    ScriptedLoss: _scripted,
    Placeholder: _placeholder,
    DataRunsOut: _data_ends,
    MissingField: _missing,
    ConstantField: _constant,
    CounterRestarts: _restarted,
    DoubledValidationLoss: _doubled,
    ValidationOnTraining: _on_training,
    DropoutInEvaluation: _dropout,
}
