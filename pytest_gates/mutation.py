"""Mutation testing of gates: every applicable fault into every run, and who turns red.

A fault is caught if a gate turns `fail` by it (or, for planted evidence, is not told to pass); a
crash, `blocked` and `inconclusive` never count. A declared falsifier says how its fault is best
injected into its gate; all others are injected with their typical parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pytest_gates.attacks import carry_out
from pytest_gates.canonical import digest
from pytest_gates.checks.base import Verdict
from pytest_gates.contract.falsifiers import carrying
from pytest_gates.contract.models import Contract, Gate
from pytest_gates.disk import write_durably
from pytest_gates.errors import GatesError
from pytest_gates.falsify import crashed, why
from pytest_gates.model.faults import FAULTS, BaseFault, Fault, Planted, misfit, out_of_reach
from pytest_gates.revision import code_revision
from pytest_gates.session import GatesSession
from pytest_gates.verdict import EVALUATOR, judge


class Fate(StrEnum):
    """What became of one fault at one gate."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    BLOCKED = "blocked"
    """Cannot be tried on this machine."""
    MISFIT = "not applicable"


@dataclass(frozen=True)
class Mutant:
    """One fault at one gate."""

    contract: Contract
    gate: Gate
    """Over the runs it is tried on: shortened where a falsifier says so."""
    name: str
    """The fault's name."""
    fault: Fault | None
    """None where it does not apply."""
    why_not: str = ""
    declared: bool = False
    """Whether a falsifier says that this gate catches this fault."""

    @cached_property
    def key(self) -> str:
        """What must be the same for an earlier result to hold."""
        assert self.fault is not None
        return digest(
            {
                "contract": self.contract.id,
                "id": self.gate.id,
                "gate": self.gate.hash,
                "fault": self.fault.model_dump(mode="json"),
                "evaluator": EVALUATOR,
                "code": code_revision(),
            }
        )


@dataclass(frozen=True)
class Trial:
    """A mutant and its fate."""

    mutant: Mutant
    fate: Fate
    reason: str

    @property
    def place(self) -> tuple[str, str]:
        """Contract and gate."""
        return self.mutant.contract.id, self.mutant.gate.id


def plan(contracts: Sequence[Contract]) -> list[Mutant]:
    """Every fault at every executable gate, in order; what does not apply says why."""
    return [
        _mutant(contract, gate, form)
        for contract in contracts
        for gate in contract.gates
        if not gate.prose
        for form in FAULTS
    ]


def _mutant(contract: Contract, gate: Gate, form: type[BaseFault]) -> Mutant:
    name: str = form.model_fields["fault"].annotation.__args__[0]  # type: ignore[union-attr]  # a Literal
    for falsifier in contract.falsifiers:
        declared = falsifier.fault
        if falsifier.binds_to == gate.id and declared is not None and declared.fault == name:
            assert falsifier.gate is not None
            return Mutant(contract, falsifier.gate, name, declared, declared=True)
    reasons = []
    for run in gate.runs.values():
        if (reason := out_of_reach(form, run)) is not None:
            reasons.append(reason)
            continue
        fault = form.typical(run)  # type: ignore[arg-type]  # planted evidence suits every run
        reason = misfit(fault, run) or fault.unseen(run)  # type: ignore[arg-type]  # as above
        if reason is None:
            # All are in the union.
            return Mutant(contract, carrying(gate, fault), name, fault)  # type: ignore[arg-type]
        reasons.append(reason)
    return Mutant(contract, gate, name, None, reasons[0] if reasons else "the gate has no run")


class Memory:
    """Fates kept between two calls, so that a run that was stopped goes on where it was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fates: dict[str, tuple[str, str]] = {}
        try:
            self._fates = {
                key: (str(fate), str(reason))
                for key, (fate, reason) in json.loads(path.read_text(encoding="utf-8")).items()
                if fate in (Fate.CAUGHT, Fate.SURVIVED)
            }
        except (OSError, ValueError, AttributeError, TypeError):  # none, or half written
            self._fates = {}

    def of(self, mutant: Mutant) -> Trial | None:
        """The fate of a mutant that was tried before."""
        known = self._fates.get(mutant.key)
        return None if known is None else Trial(mutant, Fate(known[0]), known[1])

    def keep(self, trial: Trial) -> None:
        """Keep a fate, for good."""
        self._fates[trial.mutant.key] = (str(trial.fate), trial.reason)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        write_durably(self._path, json.dumps(self._fates).encode())


def trials(
    mutants: Sequence[Mutant],
    memory: Memory,
    attempts: Callable[[Sequence[Mutant]], Iterator[tuple[int, Trial]]],
    ended: Callable[[Mutant], None],
) -> list[Trial]:
    """The trial of each mutant; what was tried before is not tried again.

    Args:
        mutants: those of a plan.
        memory: the fates of earlier calls, to which each new one is added as soon as it is known.
        attempts: tries mutants; each trial with the place of its mutant, in any order.
        ended: told of each mutant that has a fate and could be tried.
    """
    found: dict[int, Trial] = {}
    due = []
    for place, mutant in enumerate(mutants):
        if mutant.fault is None:
            found[place] = Trial(mutant, Fate.MISFIT, mutant.why_not)
        elif (known := memory.of(mutant)) is not None:
            found[place] = known
            ended(mutant)
        else:
            due.append(place)
    for place, trial in attempts([mutants[place] for place in due]):
        if trial.fate in (Fate.CAUGHT, Fate.SURVIVED):
            memory.keep(trial)
        found[due[place]] = trial
        ended(trial.mutant)
    return [found[place] for place in range(len(mutants))]


def until_caught(
    mutants: Sequence[Mutant], tried: Callable[[Sequence[Mutant]], Iterable[Trial]]
) -> Iterator[Trial]:
    """Try each fault at one gate after the other, and no further once it is caught.

    Gates with a falsifier of the fault come first. Enough for the score: it asks for one gate. All
    faults that are not caught yet are tried together, each at its next gate.
    """
    waiting: dict[str, list[Mutant]] = {}
    for mutant in sorted(mutants, key=lambda one: not one.declared):
        waiting.setdefault(mutant.name, []).append(mutant)
    order = dict.fromkeys(mutant.name for mutant in mutants)
    while any(waiting.values()):
        for trial in tried([waiting[name].pop(0) for name in order if waiting[name]]):
            yield trial
            if trial.fate is Fate.CAUGHT:
                waiting[trial.mutant.name].clear()


def attempt(mutant: Mutant, session: GatesSession) -> Trial:
    """Inject a mutant's fault and judge its gate, beside the clean control."""
    fault, gate = mutant.fault, mutant.gate
    assert fault is not None
    obstacle = session.obstacle(gate)
    if obstacle is not None:
        return Trial(mutant, Fate.BLOCKED, obstacle)
    try:
        clean = session.evidence_of(gate)
        control = judge(gate, clean)
        if control.verdict is not Verdict.PASS:
            text = f"without the fault the gate is {control.verdict}: {why(control)}"
            return Trial(mutant, Fate.BLOCKED, text)
        if isinstance(fault, Planted):
            noticed = carry_out(fault, mutant.contract, gate, clean, session.settings)
            unseen = noticed.verdict == Verdict.PASS
            return Trial(mutant, Fate.SURVIVED if unseen else Fate.CAUGHT, noticed.reason)
        sabotaged = session.evidence_of(gate, fault)
    except GatesError as error:
        return Trial(mutant, Fate.BLOCKED, str(error))
    broken, judgement = crashed(sabotaged), judge(gate, sabotaged)
    if broken is not None:
        return Trial(mutant, Fate.SURVIVED, broken)
    red = judgement.verdict is Verdict.FAIL
    return Trial(mutant, Fate.CAUGHT if red else Fate.SURVIVED, why(judgement))


@dataclass(frozen=True)
class Score:
    """What the trials come to."""

    by_fault: Mapping[str, Fate]
    """A fault is caught if any gate caught it, and survives if it was tried and none did."""
    blind: tuple[str, ...]
    """Gates at which every fault that was injected into their runs survived."""

    @property
    def caught(self) -> int:
        """Faults that some gate caught."""
        return sum(fate is Fate.CAUGHT for fate in self.by_fault.values())

    @property
    def tried(self) -> int:
        """Faults that were injected at least once: the denominator."""
        return self.caught + len(self.survivors)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Faults that no gate caught."""
        return tuple(name for name, fate in self.by_fault.items() if fate is Fate.SURVIVED)


def scored(tried: Sequence[Trial], *, blindness: bool = True) -> Score:
    """The score of the trials: the best fate of each fault, and the gates that saw nothing.

    Which gates are blind is known only where every fault was tried at them.
    """
    order = list(Fate)
    by_fault: dict[str, Fate] = {}
    injected: dict[str, list[Fate]] = {}
    for trial in tried:
        name = trial.mutant.name
        by_fault[name] = min(by_fault.get(name, Fate.MISFIT), trial.fate, key=order.index)
        counted = trial.fate in (Fate.CAUGHT, Fate.SURVIVED)
        if counted and not isinstance(trial.mutant.fault, Planted):
            injected.setdefault(trial.mutant.gate.id, []).append(trial.fate)
    blind = tuple(gate for gate, fates in injected.items() if Fate.CAUGHT not in fates)
    return Score(by_fault, blind if blindness else ())
