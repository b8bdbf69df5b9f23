"""Two states of contracts, compared by meaning: what asks for more now, and what for less.

Nothing here reads text. A gate is its typed checks, the runs they look at, and its falsifiers; what
is not proven tighter counts as loosened, so that a tolerance is never widened silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pytest_gates.checks.base import Check
from pytest_gates.checks.strictness import Change
from pytest_gates.contract.models import Contract, Falsifier, Gate, check_kind
from pytest_gates.evidence import leaves, run_hash
from pytest_gates.model.config import PRESETS, Run

Detail = tuple[Change, str]


class GateState(StrEnum):
    """What became of a gate; the worst first."""

    REMOVED = "REMOVED"
    LOOSENED = "LOOSENED"
    CHANGED = "CHANGED"
    TIGHTENED = "TIGHTENED"
    ADDED = "ADDED"
    REJUDGED = "REJUDGED"


@dataclass(frozen=True)
class GateChange:
    """One gate that is not what it was."""

    contract: str
    gate: str
    file: str
    line: int
    """Where it stands now; for a removed one, where it stood."""
    state: GateState
    details: tuple[str, ...]
    waiver: str = ""
    """The waiver that covers a loosening."""

    @property
    def blocking(self) -> bool:
        """Whether it asks for less, and nobody has taken that upon himself."""
        return self.state in {GateState.REMOVED, GateState.LOOSENED} and not self.waiver


@dataclass(frozen=True)
class Bump:
    """The version that a contract's changes call for."""

    contract: str
    was: str
    now: str
    proposed: str


def compare(old: Sequence[Contract], new: Sequence[Contract], today: str) -> tuple[GateChange, ...]:
    """Every gate that differs, by contract and gate.

    Args:
        old: The contracts as they were.
        new: The contracts as they are.
        today: YYYY-MM-DD; a waiver whose last day is over covers nothing.
    """
    before, after = _gates(old), _gates(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        change = _change(before.get(key), after.get(key), today)
        if change is not None:
            changes.append(change)
    return tuple(changes)


Placed = tuple[Contract, Gate]


def _gates(contracts: Sequence[Contract]) -> dict[tuple[str, str], Placed]:
    return {(one.id, gate.id): (one, gate) for one in contracts for gate in one.gates}


def _change(was: Placed | None, now: Placed | None, today: str) -> GateChange | None:
    here = now or was
    assert here is not None
    contract, gate = here
    covering = gate.waiver if gate.waiver and not gate.waiver.expired(today) else None
    waiver = str(covering) if covering else ""

    def told(state: GateState, *details: str) -> GateChange:
        place = gate.place
        return GateChange(contract.id, gate.id, place.file, place.line, state, details, waiver)

    if was is None:
        return told(GateState.ADDED, gate.rule)
    if now is None:
        # Only a waiver that the gate had before can cover that it is gone.
        return told(GateState.REMOVED, was[1].rule)
    details = list(_details(was, now))
    if details:
        order = list(Change)
        worst = min((change for change, _ in details), key=order.index)
        texts = (f"{change.lower()}: {text}" for change, text in details)
        return told(GateState(worst.value), *texts)
    if (was[1].claimed, was[1].basis) != (now[1].claimed, now[1].basis):
        return told(GateState.REJUDGED, f"{was[1].claimed or 'none'} -> {now[1].claimed or 'none'}")
    return None


def _details(was: Placed, now: Placed) -> Iterator[Detail]:
    old, new = was[1], now[1]
    if old.ship_blocking != new.ship_blocking:
        yield (
            _if(new.ship_blocking),
            f"ship_blocking {_yes(old.ship_blocking)} -> " + _yes(new.ship_blocking),
        )
    yield from _checks(old.checks, new.checks)
    yield from _runs(old, new)
    yield from _mapping("requires", old.requires, new.requires)
    yield from _mapping("gpus", old.gpus, new.gpus)
    yield from _falsifiers(was, now)
    if (old.waiver is None) != (new.waiver is None) or old.waiver != new.waiver:
        yield Change.CHANGED, f"waiver {old.waiver or 'none'} -> {new.waiver or 'none'}"
    if old.rule != new.rule:
        yield Change.CHANGED, f"rule {old.rule!r} -> {new.rule!r}"


def _if(tighter: bool) -> Change:
    return Change.TIGHTENED if tighter else Change.LOOSENED


def _yes(value: bool) -> str:
    return "true" if value else "false"


# --- checks ------------------------------------------------------------------------------------


def _checks(old: Sequence[Check], new: Sequence[Check]) -> Iterator[Detail]:
    """Pairs each check with the one that came of it; what has no pair was dropped or added."""
    left, gone = list(new), []
    for check in old:
        if check in left:
            left.remove(check)
        else:
            gone.append(check)
    for check in gone:
        rivals = [one for one in left if type(one) is type(check)]
        if not rivals:
            yield Change.LOOSENED, f"check {_named(check)} dropped"
            continue
        pair = min(rivals, key=lambda one: _distance(check, one))
        left.remove(pair)
        for changed in pair.changes_from(check):
            yield changed.change, f"{check_kind(check)}: {changed}"
    for check in left:
        yield Change.TIGHTENED, f"check {_named(check)} added"


def _distance(old: Check, new: Check) -> tuple[int, int]:
    changed = list(new.changes_from(old))
    loosened = sum(one.change is Change.LOOSENED for one in changed)
    return len(changed), loosened


def _named(check: Check) -> str:
    said = check.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    return " ".join([check_kind(check), *(f"{key}={value}" for key, value in said.items())])


# --- runs --------------------------------------------------------------------------------------

STRICTER_RUN = {"timeout_s": lambda was, now: now is not None and (was is None or now < was)}
"""Settings of a run whose change can be proven to ask for more; every other one counts as less."""


def _runs(old: Gate, new: Gate) -> Iterator[Detail]:
    hashes = {run_hash(run) for run in new.runs.values()}
    for name, run in old.runs.items():
        same_role = new.run if name == old.run else name
        now = new.runs.get(same_role or "")
        if run_hash(run) in hashes and (now is None or run_hash(now) == run_hash(run)):
            continue
        if now is None:
            yield Change.LOOSENED, f"run {name} is not executed any more"
            continue
        has, wants = dict(leaves(_dump(run))), dict(leaves(_dump(now)))
        for key in sorted(has.keys() | wants.keys()):
            before, after = has.get(key), wants.get(key)
            if before != after:
                proof = STRICTER_RUN.get(key)
                tighter = proof is not None and proof(before, after)
                yield _if(tighter), f"run {name}: {key} {_word(before)} -> {_word(after)}"


def _dump(run: Run) -> dict[str, Any]:
    data = run.model_dump(mode="json")
    if data.get("model") in PRESETS:
        data["model"] = PRESETS[data["model"]].model_dump(mode="json")
    return data


def _word(value: Any) -> str:
    return "none" if value is None else _yes(value) if isinstance(value, bool) else str(value)


def _mapping(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Detail]:
    """Demands by name: one more is tighter, another or none in its place is not."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            added = key not in old and name == "requires"
            yield _if(added), f"{name}.{key} {_word(old.get(key))} -> {_word(new.get(key))}"


# --- falsifiers --------------------------------------------------------------------------------


def _falsifiers(was: Placed, now: Placed) -> Iterator[Detail]:
    old, new = _bound(was), _bound(now)
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield Change.LOOSENED, f"falsifier {name} removed"
        elif name not in old:
            yield Change.TIGHTENED, f"falsifier {name} added"
        elif was[1].hash == now[1].hash and old[name].hash != new[name].hash:
            yield Change.LOOSENED, f"falsifier {name} is another attempt"


def _bound(placed: Placed) -> dict[str, Falsifier]:
    contract, gate = placed
    return {one.id: one for one in contract.falsifiers if one.binds_to == gate.id and not one.prose}


# --- versions ----------------------------------------------------------------------------------

_VERSION = re.compile(r'^version:\s*["\']?([0-9]+)\.([0-9]+)\.([0-9]+)', re.MULTILINE)


def bumps(
    old: Sequence[Contract], new: Sequence[Contract], changes: Sequence[GateChange]
) -> tuple[Bump, ...]:
    """The version each changed contract should have at least: less asked for is a new major one."""
    before, after = ({one.id: _version(one) for one in many} for many in (old, new))
    found = []
    for contract in dict.fromkeys(change.contract for change in changes):
        was = before.get(contract)
        if was is None:
            continue
        states = {one.state for one in changes if one.contract == contract}
        less = states & {GateState.REMOVED, GateState.LOOSENED}
        proposed = (was[0] + 1, 0, 0) if less else (was[0], was[1] + 1, 0)
        now = after.get(contract)
        found.append(Bump(contract, _spelt(was), _spelt(now), _spelt(proposed)))
    return tuple(found)


def _version(contract: Contract) -> tuple[int, int, int] | None:
    found = _VERSION.search(contract.text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _spelt(version: tuple[int, int, int] | None) -> str:
    return "none" if version is None else ".".join(map(str, version))
