"""The outcome of one gate or falsifier in one session, as plain data that can cross processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    binds_to: str = ""
    attack: bool = False
    """A falsifier that forged evidence: it shows nothing about the gate's own checks."""
    seen: str = ""
    """SHA-256 of the contract's text as it was judged."""
    proposed: Mapping[str, Any] | None = None
    """The record that `--gates-record never` would have appended, as JSON."""

    def to_json(self) -> dict[str, Any]:
        """JSON primitives only; xdist carries nothing else."""
        return vars(self) | {"status": str(self.status), "mode": str(self.mode),
                             "armed_by": list(self.armed_by)}  # fmt: skip

    @staticmethod
    def from_json(data: dict[str, Any]) -> Result:
        """The inverse of `to_json`."""
        return Result(**data | {"status": Status(data["status"]), "mode": Mode(data["mode"]),
                                "armed_by": tuple(data["armed_by"])})  # fmt: skip
