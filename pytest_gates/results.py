"""The outcome of one gate or falsifier in one session, as plain data that can cross processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal


class Status(StrEnum):
    """What the report says of an item."""

    PASS = "PASS"  # noqa: S105 - a verdict, no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    BLOCKED = "BLOCKED"
    ERROR = "ERROR"
    """A run could not be executed or its evidence not be kept or read: nothing was judged."""
    UNFOUNDED = "UNFOUNDED"
    """The contract claims a verdict that no record carries."""
    TAMPERED = "TAMPERED"
    """A record, its evidence or the basis is not what it was when it was recorded."""
    CAUGHT = "CAUGHT"
    """The falsifier's gate went red for the expected reason."""
    SURVIVED = "SURVIVED"
    """The falsifier's gate did not go red for the expected reason."""
    UNARMED = "UNARMED"
    """Strict mode: the gate passes but was never seen red."""


class Mode(StrEnum):
    """Where the evidence of this session's verdict came from."""

    LIVE = "LIVE"
    REPLAYED = "REPLAYED"
    DECLARED = "DECLARED"
    """From files that exist already; configuration and host are only declared."""
    NONE = "-"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the impact table, and what else a report needs."""

    kind: Literal["gate", "falsifier"]
    contract: str
    contract_id: str
    subject: str
    line: int
    status: Status
    mode: Mode = Mode.NONE
    prior: str = ""
    figure: str = ""
    limit: str = ""
    headroom_pct: float | None = None
    record: str = ""
    """Hash of the record that carries this verdict, new or old."""
    written: bool = False
    """Whether this session appended that record."""
    attempts: int = 0
    reason: str = ""
    """Why it is not green, in one line; or what must be known although it is."""
    report: str = ""
    """The failure report, in lines."""
    prose: bool = False
    red: bool = False
    """Whether pytest counts it as failed."""
    armed_by: tuple[str, ...] = ()
    """Falsifiers that have seen the gate red."""
    waiver: str = ""
    """The waiver of the gate, in one line: `waived until 2026-12-31 by owner: reason`."""
    waived: bool = False
    """The gate fails, and a waiver that still holds expects that: pytest's xfail. Of a falsifier:
    its gate does so without its fault, so that nothing can be learnt from it."""
    suspect: tuple[str, ...] = ()
    """What the verdict depends on and has changed since its record was made."""
    binds_to: str = ""
    control: str = ""
    """Verdict of a falsifier's gate without its fault, where both were judged."""
    attack: bool = False
    """A falsifier that forged evidence: it shows nothing about the gate's own checks."""
    seen: str = ""
    """SHA-256 of the contract's text as it was judged."""
    proposed: Mapping[str, Any] | None = None
    """The record that `--gates-record never` would have appended, as JSON."""
    observed: tuple[Mapping[str, Any], ...] = ()
    """What each check found, as JSON, in the order of the gate's checks."""
    evidence: tuple[str, ...] = ()
    """Folders of the evidence this was judged from, relative to the project's root."""

    @property
    def said(self) -> str:
        """The status, and whether a waiver expects it."""
        return f"{self.status} WAIVED" if self.waived else str(self.status)

    def to_json(self) -> dict[str, Any]:
        """JSON primitives only; xdist carries nothing else."""
        return vars(self) | {"status": str(self.status), "mode": str(self.mode),
                             "armed_by": list(self.armed_by),
                             "suspect": list(self.suspect),
                             "observed": list(self.observed),
                             "evidence": list(self.evidence)}  # fmt: skip

    @staticmethod
    def about(**said: Any) -> Result:
        """As the constructor, of which each of the thirty fields would cost a call."""
        return _of({**_DEFAULTS, **said})

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`."""
        return _of({**data, "status": Status(data["status"]), "mode": Mode(data["mode"]),
                    "armed_by": tuple(data["armed_by"]), "suspect": tuple(data["suspect"]),
                    "observed": tuple(data["observed"]),
                    "evidence": tuple(data["evidence"])})  # fmt: skip

    def changed(self, **now: Any) -> Result:
        """As `dataclasses.replace`, which initialises all thirty fields one by one."""
        return _of({**vars(self), **now})


_FIELDS = frozenset(one.name for one in fields(Result))
_DEFAULTS = {one.name: one.default for one in fields(Result) if one.default is not MISSING}


def _of(said: dict[str, Any]) -> Result:
    """A result of all of its fields; ten thousand gates have several each."""
    assert said.keys() == _FIELDS, said.keys() ^ _FIELDS
    made = object.__new__(Result)
    vars(made).update(said)
    return made


def armed_by_session(results: Sequence[Result]) -> list[Result]:
    """The results, gates that a falsifier of this session saw red with its name."""
    caught = {(one.contract, one.binds_to): one.subject
              for one in results if one.status is Status.CAUGHT and not one.attack}  # fmt: skip
    return [
        replace(one, armed_by=one.armed_by or (caught[one.contract, one.subject],))
        if (one.contract, one.subject) in caught
        else one
        for one in results
    ]
