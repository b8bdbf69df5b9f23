"""The `falsification_tests:` block: what is executable in it, and all that cannot work said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from pytest_gates.contract.models import Expectation, Falsifier, Gate, GpuRow, check_kind
from pytest_gates.contract.nodes import Mapping as MappingNode
from pytest_gates.contract.nodes import Node, Scalar, node_at
from pytest_gates.contract.runs import RunTable
from pytest_gates.contract.typed import Source, nearly
from pytest_gates.contract.words import FALSIFIER_KEYS, hint
from pytest_gates.model.config import Run
from pytest_gates.model.faults import FAULTS, BaseFault, Fault, Planted, misfit

Model = TypeVar("Model", bound=BaseModel)
FAULT_NAMES: dict[str, type[BaseFault]] = {
    type_.model_fields["fault"].annotation.__args__[0]: type_  # type: ignore[union-attr]  # a Literal
    for type_ in FAULTS
}
LISTED = "docs/faults.md and by `pytest-gates schema`"


class Typed(Protocol):
    """Types a block, or says what is wrong with it and answers None."""

    def __call__(self, model: type[Model], node: Node) -> Model | None:
        """The block at `node` as a `model`."""


@dataclass(frozen=True, kw_only=True)
class FalsifierLoader:
    """Loads the falsifiers of one contract, whose runs and gates are known."""

    source: Source
    table: RunTable
    gpus: Mapping[str, GpuRow]
    gates: Mapping[str, Gate]
    unsure: Collection[str] | None
    """Gates of which a check or run is not known, so that no more is said; None: all are such."""
    say: Callable[[Node, str], None]

    def load(
        self,
        nodes: list[MappingNode],
        misspelt: Callable[[MappingNode, tuple[str, ...]], set[str]],
        typed: Typed,
    ) -> list[Falsifier]:
        """The falsifiers in file order, prose among them."""
        seen: set[str] = set()
        found = []
        for index, node in enumerate(nodes):
            misspelt(node, FALSIFIER_KEYS)
            falsifier = self._falsifier(node, f"falsification_tests[{index}]", typed)
            if falsifier.id in seen or falsifier.id in self.gates:
                self.say(node_at(node, ("id",)), f"duplicate id `{falsifier.id}`")
            seen.add(falsifier.id)
            found.append(falsifier)
        return found

    def _falsifier(self, node: MappingNode, fallback: str, typed: Typed) -> Falsifier:
        inject, binds_to = node.get("inject"), _text(node, "binds_to")
        gate, fault, expect, target = None, None, None, None
        if inject is None:
            self._prose(node)
        else:
            fault = self._fault(inject, typed)
            expect = self._expect(node, typed)
            gate = self.gates.get(binds_to)
            if gate is not None:
                gate = self._shortened(node, gate)
                self._applies(node, gate, fault)
                gate = gate if fault is None else carrying(gate, fault)
                target = self._target(node, gate, fault, expect)
            else:
                self._unbound(node, binds_to)
        for one in self.source.unseen(node.get("id")):
            self.say(node_at(node, ("id",)), one.message)
        return Falsifier(
            id=_text(node, "id") or fallback,
            place=self.source.place(node),
            rule=" ".join((_text(node, "rule") or _text(node, "title")).split()),
            binds_to=binds_to,
            gate=gate,
            fault=fault,
            expect=expect,
            target=target,
            if_fails=" ".join(_text(node, "if_fails").split()),
        )

    def _unbound(self, node: MappingNode, binds_to: str) -> None:
        if not binds_to:
            text = "an executable falsifier needs `binds_to`, the id of a gate"
            missing = node, f"{text}; {hint('', self.gates)}"
            self.say(*(nearly(node, "binds_to") or missing))
        elif self.unsure is not None:
            text = f"there is no gate `{binds_to}`; {hint(binds_to, self.gates)}"
            self.say(node_at(node, ("binds_to",)), text)

    def _prose(self, node: MappingNode) -> None:
        """What expects a verdict was meant to be executed, be its `inject` misspelt or missing."""
        expect = node.get("expect")
        if isinstance(expect, MappingNode):
            text = "a falsifier with `expect` needs `inject: {fault: ...}`"
            self.say(*(nearly(node, "inject") or (expect, text)))

    def _fault(self, node: Node, typed: Typed) -> Fault | None:
        name = _text(node, "fault") if isinstance(node, MappingNode) else ""
        if name not in FAULT_NAMES:
            what = f"unknown fault `{name}`" if name else "`inject` needs a `fault`"
            unknown = node_at(node, ("fault",)), f"{what}; {hint(name, FAULT_NAMES, LISTED)}"
            self.say(*(nearly(node, "fault") or unknown))
            return None
        return typed(FAULT_NAMES[name], node)  # type: ignore[return-value]  # all are in the union

    def _expect(self, node: MappingNode, typed: Typed) -> Expectation | None:
        value = node.get("expect")
        if value is None:
            text = "an executable falsifier needs `expect: {verdict: fail, check: ...}`"
            self.say(*(nearly(node, "expect") or (node, text)))
            return None
        return typed(Expectation, value)

    def _shortened(self, node: MappingNode, gate: Gate) -> Gate:
        """The gate over the falsifier's shortened runs, if it shortens them."""
        shorten = node.get("shorten")
        if shorten is None:
            return gate
        runs = {name: self.table.shortened(name, shorten) for name in gate.runs}
        typed: dict[str, Run] = {name: run for name, run in runs.items() if run is not None}
        own = typed.get(gate.run) if gate.run else None
        gate = gate.with_runs(typed)
        for check in () if self._incomplete(gate) else gate.checks:
            for _, message in check.refusals(own, self.gpus, typed):
                kind = check_kind(check)
                self.say(shorten, f"the shortened run does not fit the gate: {kind}: {message}")
        return gate

    def _incomplete(self, gate: Gate) -> bool:
        """Whether it lacks a run or a check; whatever made it so has been told."""
        return self._unsure(gate) or len(gate.runs) < len(gate.repeats)

    def _applies(self, node: MappingNode, gate: Gate, fault: Fault | None) -> None:
        shorten = node.get("shorten")
        if shorten is not None and isinstance(fault, Planted):
            self.say(shorten, "planted evidence is that of the gate's own runs: nothing is shorter")
        if gate.prose and not self._unsure(gate):
            self.say(node_at(node, ("binds_to",)), f"gate `{gate.id}` has no checks to turn red")
        if fault is None or not gate.runs or self._incomplete(gate):
            return
        misfits = [misfit(fault, run) for run in gate.runs.values()]
        if all(misfits):
            at = node_at(node, ("inject", "fault"))
            self.say(at, f"the fault cannot apply: {misfits[0]}")

    def _target(
        self, node: MappingNode, gate: Gate, fault: Fault | None, expect: Expectation | None
    ) -> int | None:
        """Index of the check that must go red; None where none can be told."""
        if expect is None or fault is None or not gate.checks or self._unsure(gate):
            return None
        possible = fault.verdict if isinstance(fault, Planted) else "fail"
        if expect.verdict != possible:
            text = f"{fault.fault} turns a gate {possible}, never {expect.verdict}"
            self.say(node_at(node, ("expect", "verdict")), text)
            return None
        at = node_at(node, ("expect", "check"))
        if isinstance(fault, Planted) and possible != "fail":
            if expect.check is not None or expect.slot is not None:
                self.say(at, "planted evidence is found by the audit, not by a check")
            return None
        kinds = dict.fromkeys(check_kind(check) for check in gate.checks)
        if expect.check not in kinds:
            near = hint(str(expect.check), kinds)
            self.say(at, f"the gate has no check `{expect.check}`; {near}")
            return None
        matching = list(_matching(gate, expect.check, expect.where))
        if len(matching) == 1:
            self._slot(node, gate, matching[0], expect.slot)
            return matching[0]
        which = "none fits `where`" if not matching else "say which by `where: {...}`"
        count = sum(check_kind(check) == expect.check for check in gate.checks)
        self.say(at, f"the gate has {count} checks `{expect.check}`; {which}")
        return None

    def _unsure(self, gate: Gate) -> bool:
        return self.unsure is None or gate.id in self.unsure

    def _slot(self, node: MappingNode, gate: Gate, index: int, slot: str | None) -> None:
        check = gate.checks[index]
        misfit = None if slot is None else check.slot_misfit(slot, gate.runs)
        if misfit is not None:
            self.say(node_at(node, ("expect", "slot")), f"{check_kind(check)}: {misfit}")


def _matching(gate: Gate, kind: str, where: Mapping[str, Any]) -> Iterator[int]:
    for index, check in enumerate(gate.checks):
        fields = check.model_dump(mode="json")
        if check_kind(check) == kind and all(
            key in fields and fields[key] == value for key, value in where.items()
        ):
            yield index


def carrying(gate: Gate, fault: BaseFault) -> Gate:
    """The gate over its runs in the form that the fault is tried in, clean control included."""
    return gate.with_runs({name: fault.carrier(run) for name, run in gate.runs.items()})


def _text(node: MappingNode, key: str) -> str:
    value = node.get(key)
    return value.value.strip() if isinstance(value, Scalar) else ""
