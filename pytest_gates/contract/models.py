"""A contract as frozen data: what `load` makes of a file, and all that later stages see of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr

from pytest_gates.canonical import digest, text_digest
from pytest_gates.checks.base import Check, Verdict
from pytest_gates.errors import Place, one_line
from pytest_gates.evidence import run_hash
from pytest_gates.model.config import Run
from pytest_gates.model.faults import Fault
from pytest_gates.model.settings import Positive


class Block(BaseModel):
    """Base of the executable blocks of a contract: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _calendar_day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a day of the calendar, like 2026-12-31") from None
    return text


class Waiver(Block):
    """Why a known failure is tolerated, by whom, and until when."""

    reason: Annotated[StrictStr, Field(min_length=1)]
    owner: Annotated[StrictStr, Field(min_length=1)]
    until: Annotated[
        StrictStr, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_calendar_day)
    ]
    """Its last day, YYYY-MM-DD in UTC."""

    def expired(self, today: str) -> bool:
        """Whether its last day lies before `today`, YYYY-MM-DD."""
        return self.until < today

    def __str__(self) -> str:
        words = f"waived until {self.until} by {self.owner}: {self.reason}".split()
        return one_line(" ".join(words))


class GpuRow(Block):
    """A GPU that the program's own table does not know."""

    bf16_tflops: Positive
    """What a large bf16 matmul reaches, in TFLOP/s."""
    source: Annotated[StrictStr, Field(min_length=1)]
    """Where the figure comes from."""


class Expectation(Block):
    """What a falsifier must see of its gate."""

    verdict: Literal["fail", "blocked", "tampered", "unfounded"] = "fail"
    """A fault in the run must turn the gate to `fail`; planted evidence may not come that far."""
    check: StrictStr | None = None
    """Kind of the check that must go red; none for planted evidence."""
    where: dict[StrictStr, Any] = Field(default_factory=dict)
    """Fields of that check, where the gate has several of its kind: `{metric: grad_norm}`."""
    slot: StrictStr | None = None
    """The place that the check must name, not merely notice: `layer 3 ffn_swigl`, `final_norm`;
    of `same_input` `tokens`, `positions` or `shapes`."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A rule with its checks, and what the contract says of its verdict so far."""

    id: str
    place: Place
    rule: str
    run: str | None
    """Name of the gate's own run."""
    checks: tuple[Check, ...]
    runs: Mapping[str, Run]
    """Every run the gate draws on, resolved, by name."""
    repeats: Mapping[str, int]
    """Executions needed of each of `runs`."""
    requires: Mapping[str, Any]
    """Settings that evidence must have been made with, beyond what the run declares."""
    gpus: Mapping[str, float]
    """bf16 matmul ceilings, in TFLOP/s, of the GPUs that the contract adds."""
    claimed: str
    """The word in the contract's `verdict:`; empty if there is none."""
    basis: tuple[Mapping[str, Any], ...]
    """Our own `verdict_basis` entries."""
    discharge_status: str | None
    ship_blocking: bool
    if_fails: str = ""
    waiver: Waiver | None = None

    @property
    def prose(self) -> bool:
        """Whether there is nothing to execute."""
        return not self.checks

    @property
    def prior(self) -> Verdict:
        """The contract's verdict; a word that is none is read as pending."""
        try:
            return Verdict(self.claimed)
        except ValueError:
            return Verdict.PENDING

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the executable part: checks, runs, repetitions and requirements."""
        return digest(
            {
                "checks": [check.model_dump(mode="json", exclude_defaults=True) | {"kind": kind}
                           for check in self.checks for kind in [check_kind(check)]],
                "run": self.run,
                "runs": {name: run_hash(run) for name, run in self.runs.items()},
                "repeats": dict(self.repeats),
                "requires": dict(self.requires),
                "gpus": dict(self.gpus),
            }
        )  # fmt: skip

    def with_runs(self, runs: Mapping[str, Run]) -> Gate:
        """The same checks over other runs: a falsifier's shortened ones."""
        return replace(self, runs=runs)


@dataclass(frozen=True, kw_only=True)
class Falsifier:
    """An attempt to prove a gate wrong by sabotaging its run."""

    id: str
    place: Place
    rule: str
    binds_to: str
    gate: Gate | None
    """The gate over the falsifier's runs (shortened ones where it says so); None: prose."""
    fault: Fault | None
    expect: Expectation | None
    target: int | None
    """Index of the gate's check that must go red; None for planted evidence."""
    if_fails: str

    @property
    def prose(self) -> bool:
        """Whether there is nothing to execute."""
        return self.fault is None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the executable part."""
        assert self.gate and self.fault and self.expect
        return digest(
            {
                "gate": self.gate.hash,
                "fault": self.fault.model_dump(mode="json", exclude_defaults=True)
                | {"fault": self.fault.fault},
                "expect": self.expect.model_dump(mode="json", exclude_defaults=True),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One contract file."""

    file: str
    """Path as it is shown: relative to the project's root."""
    id: str
    text: str
    """The file's text as it was read; write-back compares against it."""
    runs: Mapping[str, Run]
    gpus: Mapping[str, GpuRow]
    items: tuple[Gate | Falsifier, ...]
    """Gates and falsifiers in file order."""

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.text)

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """The gates alone."""
        return tuple(item for item in self.items if isinstance(item, Gate))

    @cached_property
    def falsifiers(self) -> tuple[Falsifier, ...]:
        """The falsifiers alone."""
        return tuple(item for item in self.items if isinstance(item, Falsifier))

    def falsifiers_of(self, gate: str) -> tuple[Falsifier, ...]:
        """Those that can be executed against a gate."""
        return self._executable_by_gate.get(gate, ())

    @cached_property
    def _executable_by_gate(self) -> dict[str, tuple[Falsifier, ...]]:
        found: dict[str, tuple[Falsifier, ...]] = {}
        for one in self.falsifiers:
            if not one.prose:
                found[one.binds_to] = (*found.get(one.binds_to, ()), one)
        return found


def check_kind(check: Check) -> str:
    """The word that names a check in a contract."""
    word: str = check.kind  # type: ignore[attr-defined]  # each of the closed set has one
    return word
