"""The derived block of a contract: `verdict_basis` entries, rendered from records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pytest_gates.checks.base import Verdict
from pytest_gates.identity import remembered
from pytest_gates.ledger import Record
from pytest_gates.vocabulary import ACTIVE, DISCHARGE_STATUSES, FALSIFIED, PARTIAL, PENDING


def discharge_status(record: Record, *, armed: bool) -> str:
    """How far a record discharges its gate, in the field's own words.

    `ACTIVE_WITH_LIVE_EVIDENCE` needs evidence of a run of our own and a falsifier that has seen
    the gate red; declared evidence never gets beyond `PARTIAL_ALGORITHM_LEVEL`.
    """
    if record.verdict == Verdict.FAIL:
        return FALSIFIED
    if record.verdict != Verdict.PASS:
        return PENDING
    return ACTIVE if armed and not record.host.get("declared") else PARTIAL


def weakest(statuses: Collection[str]) -> str:
    """The discharge status of a gate with several current entries."""
    return next(status for status in DISCHARGE_STATUSES if status in statuses)


def basis_entry(record: Record, *, armed: bool) -> dict[str, Any]:
    """One entry of `verdict_basis`: everything in it is derived from the record."""
    return _derived(record) | {"discharge_status": discharge_status(record, armed=armed)}


ENTRIES_KEPT = 16


@remembered(ENTRIES_KEPT)
def _derived(record: Record) -> dict[str, Any]:
    """An entry, as far as it does not depend on other records.

    It is asked for several times in a row: does the claim hold, has the ledger moved on, what is
    to be written.
    """
    entry: dict[str, Any] = {
        "record": record.sha,
        "verdict": str(record.verdict),
        "run": record.run["name"],
        "measured": [_measured(observed) for observed in record.observed],
        "host": {key: value for key, value in record.host.items() if value},
        "evidence": sorted({f"{item['location']}/manifest.json" for item in record.evidence}),
        "date": record.time,
    }
    if record.attempts > 1:
        entry["attempts"] = record.attempts
    if record.reason:
        entry["reason"] = record.reason
    return entry


_MEASURED = ("check", "verdict", "figure", "limit", "headroom_pct", "window", "n", "interval")


def _measured(observed: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: observed.get(key) for key in _MEASURED}
    return {key: value for key, value in kept.items() if value is not None}


def same_entry(written: Mapping[str, Any], derived: Mapping[str, Any]) -> bool:
    """Whether a contract's entry says what its record says.

    The discharge status is left out: it moves when a falsifier is recorded later.
    """
    left_out = {"discharge_status": None}
    return {**written, **left_out} == {**derived, **left_out}


def worst_of(records: Sequence[Record]) -> Verdict:
    """The contract's verdict: the worst of the current entries."""
    return Verdict.worst([Verdict(record.verdict) for record in records])
