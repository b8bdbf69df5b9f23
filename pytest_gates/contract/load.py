"""From a file's text to a `Contract`: everything that is wrong with it is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from pytest_gates.checks import CHECKS
from pytest_gates.checks.base import Check, Need, Verdict
from pytest_gates.contract.basis import gate_basis
from pytest_gates.contract.falsifiers import FalsifierLoader
from pytest_gates.contract.guard import read_contract_text
from pytest_gates.contract.models import (
    Contract,
    Falsifier,
    Gate,
    GpuRow,
    Waiver,
    check_kind,
)
from pytest_gates.contract.nodes import Mapping as MappingNode
from pytest_gates.contract.nodes import Node, Scalar, Sequence, node_at, parse_document, to_data
from pytest_gates.contract.runs import SETTINGS, Caps, RunTable
from pytest_gates.contract.typed import (
    Source,
    build,
    found,
    locate_below,
    nearly,
    surprises,
    without,
)
from pytest_gates.contract.words import GATE_KEYS, TOP_KEYS, hint, misspelt, nearest, slip_of
from pytest_gates.errors import ContractError, Finding
from pytest_gates.model.config import Run

Model = TypeVar("Model", bound=BaseModel)

CHECK_KINDS: dict[str, type[Check]] = {
    type_.model_fields["kind"].annotation.__args__[0]: type_  # type: ignore[union-attr]  # a Literal
    for type_ in CHECKS
}


def load_contract(path: Path, file: str, caps: Caps) -> Contract:
    """Read and type one contract; `file` is how its path is shown.

    Raises:
        ContractError: with every finding, each at its place.
    """
    text = read_contract_text(path, file)
    return contract_from(text, file, caps)


def contract_from(text: str, file: str, caps: Caps) -> Contract:
    """The same from text that is at hand."""
    root = parse_document(text, file)
    return _Loader(root, text, file, caps).contract()


@dataclass
class _Loader:
    root: Node
    text: str
    file: str
    caps: Caps
    findings: list[Finding] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    """Gates whose checks and runs are not all known, for something was wrong with them."""
    without_runs: bool = False
    """The key `runs` is misspelt, so that no run is known."""

    def __post_init__(self) -> None:
        self.source = Source(self.file)

    def contract(self) -> Contract:
        if not isinstance(self.root, MappingNode):
            raise ContractError((self.source.finding(self.root, "a contract is a mapping"),))
        meant = self._misspelt(self.root, TOP_KEYS) | self._misnamed(self.root)
        self.without_runs = "runs" in meant
        self.gpus = self._gpus()
        self.table = RunTable(self._block("runs"), self.source, self.caps)
        gates: dict[str, Gate] = {}
        for index, node in enumerate(self._list("gates")):
            gate = self._gate(node, f"gates[{index}]")
            if gate.id in gates:
                self.unsure.add(gate.id)
                first = gates[gate.id].place.line
                text = f"duplicate id `{gate.id}`; it stands in line {first} already"
                self._say(node_at(node, ("id",)), text)
            gates[gate.id] = gate
        falsifiers = FalsifierLoader(
            source=self.source,
            table=self.table,
            gpus=self.gpus,
            gates=gates,
            unsure=None if "gates" in meant else self.unsure,
            say=self._say,
        ).load(self._list("falsification_tests"), self._misspelt, self._typed)
        self.findings.extend(self.table.findings)
        name = self._contract_id()
        if self.findings:
            raise ContractError(tuple(dict.fromkeys(self.findings)))
        declared: list[Gate | Falsifier] = [*gates.values(), *falsifiers]
        items = sorted(declared, key=lambda item: item.place)
        return Contract(
            file=self.file,
            id=name,
            text=self.text,
            runs=self.table.typed,
            gpus=self.gpus,
            items=tuple(items),
        )

    def _say(self, node: Node, message: str) -> None:
        self.findings.append(self.source.finding(node, message))

    def _misspelt(self, node: MappingNode, executable: tuple[str, ...]) -> set[str]:
        """Say each key that nearly spells an executable one; the keys that were meant."""
        meant = set()
        for key, _ in node.entries:
            near = misspelt(key.value, executable)
            if near is not None:
                self._say(key, f"unknown key `{key.value}`; did you mean `{near}`?")
                meant.add(near)
        return meant

    def _misnamed(self, root: MappingNode) -> set[str]:
        """Say each list whose entries are executable under a key that is not; what was meant."""
        meant: set[str] = set()
        for key, node in root.entries:
            if key.value not in TOP_KEYS and isinstance(node, Sequence):
                for name in sorted({belongs for item in node.items if (belongs := _belongs(item))}):
                    self._say(key, f"unknown key `{key.value}`; did you mean `{name}`?")
                    meant.add(name)
        return meant

    def _block(self, name: str) -> MappingNode | None:
        node = self.root.get(name) if isinstance(self.root, MappingNode) else None
        if node is None or isinstance(node, MappingNode):
            return node
        self._say(node, f"`{name}` must be a mapping of names")
        return None

    def _list(self, name: str) -> list[MappingNode]:
        node = self.root.get(name) if isinstance(self.root, MappingNode) else None
        if node is None:
            return []
        if not isinstance(node, Sequence):
            self._say(node, f"`{name}` must be a list")
            return []
        for item in node.items:
            if not isinstance(item, MappingNode):
                self._say(item, f"each of `{name}` must be a mapping")
        return [item for item in node.items if isinstance(item, MappingNode)]

    def _contract_id(self) -> str:
        for path in (("contract_id",), ("metadata", "id")):
            node = self.root
            for key in path:
                node = node.get(key) if isinstance(node, MappingNode) else None  # type: ignore[assignment]
            if isinstance(node, Scalar) and node.value:
                self.findings.extend(self.source.unseen(node))
                return node.value
        return Path(self.file).stem

    def _gpus(self) -> dict[str, GpuRow]:
        block = self._block("gpus")
        rows: dict[str, GpuRow] = {}
        for key, node in block.entries if block is not None else ():
            row = self._typed(GpuRow, node)
            if row is not None:
                rows[key.value] = row
        return rows

    def _typed(self, model: type[Model], node: Node) -> Model | None:
        odd = [self.source.finding(at, text) for at, text in surprises(node)]
        self.findings.extend(odd)
        data = to_data(node)
        if not isinstance(data, dict):
            self._say(node, f"expected a mapping{found(node)}")
            return None
        built = build(model, data, self.source, locate_below(node))
        if isinstance(built, tuple):
            self.findings.extend(without(built, odd))
            return None
        return None if odd else built

    def _text(self, node: MappingNode, key: str) -> str:
        value = node.get(key)
        return value.value.strip() if isinstance(value, Scalar) else ""

    # --- gates -------------------------------------------------------------------------------

    def _gate(self, node: MappingNode, fallback: str) -> Gate:
        meant = self._misspelt(node, GATE_KEYS)
        checks = self._checks(node)
        run = self._text(node, "run") or None
        listed = node.get("checks")
        lacking = listed is None and "checks" not in meant
        if lacking and (run or node.get("requires") is not None):
            at = node.get("run") or node.get("requires")
            assert at is not None
            text = "a gate with a `run` or `requires` needs `checks`"
            near = nearly(node, "checks")
            self._say(*(near or (at, text)))
            self.unsure.update([self._text(node, "id")] if near else [])
        fewer = isinstance(listed, Sequence) and len(checks) < len(listed.items)
        if fewer or "checks" in meant:
            self.unsure.add(self._text(node, "id"))
        if checks and self._text(node, "id") == "":
            self._say(node, "an executable gate needs an `id`")
        self.findings.extend(self.source.unseen(node.get("id")))
        repeats = self._repeats(node, run, checks)
        runs = {name: self.table.typed[name] for name in repeats if name in self.table.typed}
        if len(runs) == len(repeats) and (run in runs if run else "run" not in meant):
            self._refusals(node, checks, run, runs)
        return Gate(
            id=self._text(node, "id") or fallback,
            place=self.source.place(node),
            rule=" ".join(self._text(node, "rule").split()),
            run=run,
            checks=checks,
            runs=runs,
            repeats=repeats,
            requires=self._requires(node),
            gpus={name: float(row.bf16_tflops) for name, row in self.gpus.items()},
            claimed=self._claimed(node),
            basis=gate_basis(node),
            discharge_status=self._text(node, "discharge_status") or None,
            ship_blocking=self._flag(node, "ship_blocking"),
            waiver=self._waiver(node),
            if_fails=" ".join(self._text(node, "if_fails").split()),
        )

    def _claimed(self, node: MappingNode) -> str:
        """The word of the verdict. That of an executable gate is ours, so a slip in it is one."""
        word = self._text(node, "verdict")
        meant = slip_of(word, Verdict) if node.get("checks") is not None else None
        if meant is not None:
            at = node_at(node, ("verdict",))
            self._say(at, f"`{word}` is no verdict; did you mean `{meant}`?")
        return word

    def _flag(self, node: MappingNode, key: str) -> bool:
        value = node.get(key)
        data = to_data(value) if value is not None else False
        if value is not None and not isinstance(data, bool):
            self._say(value, f"`{key}` is true or false")
        return data is True

    def _waiver(self, node: MappingNode) -> Waiver | None:
        value = node.get("waiver")
        return self._typed(Waiver, value) if value is not None else None

    def _requires(self, node: MappingNode) -> dict[str, Any]:
        value = node.get("requires")
        if value is None:
            return {}
        if not isinstance(value, MappingNode):
            self._say(value, "`requires` must be a mapping of settings")
            return {}
        for key, _ in value.entries:
            if key.value.partition(".")[0] not in SETTINGS:
                near = nearest(key.value, SETTINGS)
                expected = f"did you mean `{near}`?" if near else "no run has such a setting"
                self._say(key, f"unknown key `{key.value}`; {expected}")
        data: dict[str, Any] = to_data(value)
        return data

    def _checks(self, node: MappingNode) -> tuple[Check, ...]:
        listed = node.get("checks")
        if listed is None:
            return ()
        if not isinstance(listed, Sequence) or not listed.items:
            self._say(listed, "`checks` must be a list of at least one check")
            return ()
        return tuple(check for item in listed.items if (check := self._check(item)) is not None)

    def _check(self, node: Node) -> Check | None:
        kind = self._text(node, "kind") if isinstance(node, MappingNode) else ""
        model = CHECK_KINDS.get(kind)
        if model is None:
            at = node_at(node, ("kind",))
            what = f"unknown check `{kind}`" if kind else "a check needs a `kind`"
            self._say(*(nearly(node, "kind") or (at, f"{what}; {hint(kind, CHECK_KINDS)}")))
            return None
        return self._typed(model, node)

    def _repeats(
        self, node: MappingNode, run: str | None, checks: tuple[Check, ...]
    ) -> dict[str, int]:
        """Executions needed of each run: the gate's own once, and what its checks name."""
        needs = [(Need(run), node_at(node, ("run",)))] if run else []
        for index, check in enumerate(checks):
            for need in check.needs():
                needs.append((need, node_at(node, ("checks", index, "of"))))
        repeats: dict[str, int] = {}
        for need, at in needs:
            if need.run not in self.table:
                text = f"there is no run `{need.run}`; {hint(need.run, self.table.names)}"
                self.unsure.add(self._text(node, "id"))
                if not self.without_runs:
                    self._say(at, text)
                continue
            repeats[need.run] = max(repeats.get(need.run, 1), need.repeat)
        return repeats

    def _refusals(
        self, node: MappingNode, checks: tuple[Check, ...], run: str | None, runs: Mapping[str, Run]
    ) -> None:
        own = runs.get(run) if run else None
        for index, check in enumerate(checks):
            for path, message in check.refusals(own, self.gpus, runs):
                self._say(
                    node_at(node, ("checks", index, *path)), f"{check_kind(check)}: {message}"
                )


def _belongs(item: Node) -> str | None:
    """The list that an entry was written for, by what is executable in it."""
    if not isinstance(item, MappingNode):
        return None
    inject, checks = item.get("inject"), item.get("checks")
    if isinstance(inject, MappingNode) and inject.get("fault") is not None:
        return "falsification_tests"
    listed = checks.items if isinstance(checks, Sequence) else ()
    kinds = [one.get("kind") for one in listed if isinstance(one, MappingNode)]
    return "gates" if any(kind is not None for kind in kinds) else None
