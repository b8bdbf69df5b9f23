"""`residency`: a training run truly lived on the GPU, shown layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from pytest_gates.checks.base import NO_GPUS, Outcome, Refusal, RunCheck, Verdict
from pytest_gates.checks.declared import shape_of, undeclared
from pytest_gates.checks.layers import (
    MIB,
    Finding,
    State,
    l0_resolved,
    l1_placed,
    l2_allocator,
    l3_witnessed,
    l3b_witnessed,
    l4_busy,
    l5_speed,
)
from pytest_gates.checks.strictness import Change, Compare
from pytest_gates.checks.window import ended, unfinished
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import CommandRun, PretrainRun, RecordedRun, Run, declared_launch

LayerName = Literal["L0", "L1", "L2", "L3", "L3b", "L4", "L5"]

LAYERS: dict[str, Callable[[Evidence, Mapping[str, float]], Finding]] = {
    "L0": l0_resolved,
    "L1": l1_placed,
    "L2": l2_allocator,
    "L3": l3_witnessed,
    "L3b": l3b_witnessed,
    "L4": l4_busy,
    "L5": l5_speed,
}


def _layers(value: object) -> object:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("expected a list of layers")
    for entry in value:
        names = entry if isinstance(entry, list | tuple) else [entry]
        unknown = [name for name in names if not isinstance(name, str) or name not in LAYERS]
        if unknown or not names:
            raise ValueError(
                f"unknown layer {unknown[0] if unknown else entry!r}; known: {', '.join(LAYERS)}"
            )
    return value


Layers = Annotated[
    tuple[LayerName | tuple[LayerName, ...], ...], Field(min_length=1), BeforeValidator(_layers)
]

_VERDICTS = {
    State.PROVEN: Verdict.PASS,
    State.REFUTED: Verdict.FAIL,
    State.UNAVAILABLE: Verdict.INCONCLUSIVE,
}


def _more_layers(was: Layers, now: Layers) -> Change:
    """Each group that was demanded follows from one that is: the same layers or fewer."""
    old, new = ([set(one) if isinstance(one, tuple) else {one} for one in many]
                for many in (was, now))  # fmt: skip
    follows = all(any(group <= before for group in new) for before in old)
    return Change.TIGHTENED if follows else Change.LOOSENED


class Residency(RunCheck):
    """Each required layer is proven; a refuted one fails, an unavailable one decides nothing.

    L0: the device asked for is the device resolved. L1: parameters, gradients and optimizer state
    are on it, before and after. L2: the allocator holds the census. L3: the process outside reads
    it under the run's PID. L3b: it sees sizes that the run was told to allocate. L4: the process
    keeps the device busy. L5: the speed is beyond the host's CPU and within the GPU's ceiling.
    """

    kind: Literal["residency"]
    require: Layers = (
        "L0", "L1", "L2", ("L3", "L3b"), "L5",
    )  # fmt: skip
    """Layers that must be proven; of a nested list, one."""
    floor: Literal["census"] = "census"
    """Least memory: that of the declared architecture's state, never what the run says."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {"require": _more_layers}

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that do not ask for CUDA, and recordings that do not declare their model."""
        if not isinstance(run, PretrainRun | RecordedRun | CommandRun):
            yield (), f"driver {run.driver} trains nothing that could reside anywhere"
            return
        if declared_launch(run) is not None and self.ranks is None:
            yield (), "the run has several processes; say whose: `ranks: all`"
        device = shape_of(run).device
        if device is not None and not device.startswith("cuda"):
            yield (), f"device {device}: residency needs an explicit cuda or cuda:N"
        yield from undeclared(run, "model", "device")

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        groups = [(one,) if isinstance(one, str) else one for one in self.require]
        named: dict[str, Finding] = {
            name: LAYERS[name](evidence, gpus) for group in groups for name in group
        }
        states = [_best(named, group) for group in groups]
        verdict = Verdict.worst([_VERDICTS[state] for state in states])
        proven = states.count(State.PROVEN)
        lines = tuple(f"{name} {found.state}: {found.reason}" for name, found in named.items())
        unmet = ["|".join(group) for group, state in zip(groups, states, strict=True)
                 if _VERDICTS[state] is verdict is not Verdict.PASS]  # fmt: skip
        early = unfinished(evidence)
        if verdict is Verdict.PASS and early is not None:
            verdict, unmet = Verdict.INCONCLUSIVE, [early]
        census = shape_of(evidence.run).census_bytes
        summary = f"{proven} of {len(groups)} layers proven"
        if unmet:
            reasons = [line for line in lines if line.split()[0] in "|".join(unmet).split("|")]
            summary += f"; {'; '.join(reasons or unmet)}"
        return Outcome(
            check="residency",
            verdict=verdict,
            summary=summary + (ended(evidence) if early is None else ""),
            figure=f"{proven} of {len(groups)} layers",
            limit=None if census is None else f">= {census / MIB:.0f} MiB",
            detail=lines,
        )


def _best(named: Mapping[str, Finding], group: tuple[str, ...]) -> State:
    """The state of a list of which one is enough."""
    states = {named[name].state for name in group}
    return next(state for state in State if state in states)
