"""Splices: contracts are generated twice, without and with an edit, and compared byte for byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gates.contract.basis import gate_basis
from pytest_gates.contract.nodes import Mapping, node_at, parse_document
from pytest_gates.writeback import ContractEdit, GateEdit, render

BASIS = ({"record": "ab" * 32, "measured": {"value": 45.1, "n": 80}, "host": "NVIDIA H200"},)
LINES = [
    f'- record: "{"ab" * 32}"',
    '  measured: {"value": 45.1, "n": 80}',
    '  host: "NVIDIA H200"',
]
WORD = st.sampled_from(["pending", "active", "fail", "inconclusive"])
TAIL = st.sampled_from(["", " ", "  # é → ─ 🙂", " #verdict: pass"])
PROSE = st.sampled_from(
    ["rule: a → b", "rule: >\n  verdict: pass\n\n  more", "rule: |\n  x\n", "# verdict: pass\nn: 1"]
)


@dataclass(frozen=True)
class GateText:
    name: str
    quote: str
    before: str
    tail: str
    status: str | None
    above: tuple[str, ...]
    below: tuple[str, ...]
    basis: str

    def lines(self, verdict: str | None) -> list[str]:
        word = self.before if verdict is None else verdict
        key = f"verdict: {self.quote}{word}{self.quote}".rstrip()
        lines = [f"id: {self.name}  # {self.name}", *self.above, f"{key}{self.tail}"]
        if self.basis == "ours" and verdict is None:
            lines += ["verdict_basis:", '- {record: "old"}  ', "- record: old", "  n: 1"]
        if verdict is not None:
            lines += ["verdict_basis:", *(f"  {line}" for line in LINES)]
        if self.basis == "prose":
            lines.append("verdict_basis: words" if verdict is None else "verdict_basis_note: words")
        if self.status is not None:
            new = '"NEW"' if self.status.startswith('"') else "NEW"
            lines.append(f"discharge_status: {self.status if verdict is None else new} # s")
        return [part for line in (*lines, *self.below) for part in line.split("\n")]


GATE = st.builds(
    GateText,
    name=st.just("G"),
    quote=st.sampled_from(["", "'", '"']),
    before=WORD,
    tail=TAIL,
    status=st.none() | st.sampled_from(["PENDING", '"x y"']),
    above=st.lists(PROSE.filter(lambda text: "rule" in text), max_size=1).map(tuple),
    below=st.lists(PROSE.filter(lambda text: "rule" not in text), max_size=1).map(tuple),
    basis=st.sampled_from(["", "", "ours", "prose"]),
)


@dataclass(frozen=True)
class ContractText:
    gates: tuple[GateText, ...]
    pad: str
    eol: str
    end: bool
    version: bool
    changelog: str

    def text(self, edited: frozenset[int]) -> str:
        lines = ["# ───── → 🙂", "---"]
        if self.version:
            lines += [f"version: {'1.3.0' if edited else '1.2.9'}  # v", "metadata:"]
            lines += [f"  version: '{'1.3.0' if edited else '1.2.9'}'", "  changelog:"]
            lines += ["  # newest first"]
            lines += ['  - "1.3.0 (d): x"'] if edited else []
            lines += [f"  - {self.changelog}", "other: [1, 2]"]
        lines += ["gates:", ""]
        for index, gate in enumerate(self.gates):
            own = gate.lines("pass" if index in edited else None)
            lines += [f"{self.pad}- {own[0]}"]
            lines += [f"{self.pad}  {line}" if line else "" for line in own[1:]]
            lines += [f"{self.pad}# after {gate.name}", ""]
        while not self.end and (not lines[-1] or lines[-1].lstrip().startswith("#")):
            lines.pop()
        return "\n".join([*lines, ""] if self.end else lines).replace("\n", self.eol)


CONTRACTS = st.builds(
    lambda gates, **rest: ContractText(
        tuple(replace(gate, name=f"G-{index}") for index, gate in enumerate(gates)), **rest
    ),
    gates=st.lists(GATE, min_size=1, max_size=4),
    pad=st.sampled_from(["", "  ", "    "]),
    eol=st.sampled_from(["\n", "\r\n"]),
    end=st.booleans(),
    version=st.booleans(),
    changelog=st.sampled_from(["one → two", '"one\n     two"', "'1.2.9'"]),
)


@settings(deadline=None)
@given(CONTRACTS, st.data())
def test_no_byte_outside_the_target_changes(contract: ContractText, data: st.DataObject) -> None:
    edited = frozenset(data.draw(st.sets(st.integers(0, len(contract.gates) - 1), min_size=1)))
    wanted = ContractEdit(
        tuple(GateEdit(f"G-{index}", "pass", BASIS, "NEW") for index in sorted(edited)),
        "{version} (d): x",
    )
    old, expected = contract.text(frozenset()), contract.text(edited)
    new = render(old, wanted, "c.yaml")
    assert new == expected
    assert render(new, wanted, "c.yaml") == new


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé→ 1e-5:#", max_size=5),
                                                                inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None)
@given(
    JSON,
    st.sampled_from(["  - id: G\n", "- {id: G}\n", "- {id: G, verdict: }", "- id: G\n  verdict:"]),
)
def test_a_basis_reads_back_as_it_was(value: Any, gate: str) -> None:
    basis = {"record": "r", "value": value, "1e-5": [value]}
    new = render(f"gates:\n{gate}", ContractEdit((GateEdit("G", "pass", (basis,)),)), "c.yaml")
    node = node_at(parse_document(new, "c.yaml"), ("gates", 0))
    assert isinstance(node, Mapping)
    assert repr(gate_basis(node)) == repr((basis,))
