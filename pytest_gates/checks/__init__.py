"""The closed set of checks: each a typed YAML form, refusals when loaded, a pure evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pytest_gates.checks.anatomy import Anatomy
from pytest_gates.checks.artifacts import Artifacts
from pytest_gates.checks.base import Check
from pytest_gates.checks.bounds import Bounded, Finite, NotConstant, RequiredFields
from pytest_gates.checks.budget import Budget
from pytest_gates.checks.descent import Descent
from pytest_gates.checks.equal_ranks import EqualRanks
from pytest_gates.checks.equal_runs import EqualRuns
from pytest_gates.checks.fact import Fact
from pytest_gates.checks.layer_statistics import LayerStatistics
from pytest_gates.checks.memory import Memory
from pytest_gates.checks.monotone import Monotone
from pytest_gates.checks.property import Property
from pytest_gates.checks.ratio_of_runs import RatioOfRuns
from pytest_gates.checks.residency import Residency
from pytest_gates.checks.schedule import Schedule
from pytest_gates.checks.status import EventCheck, ExitStatus
from pytest_gates.checks.trace_parity import SameInput, TraceParity
from pytest_gates.checks.trace_spike import TraceSpike

AnyCheck = Annotated[
    Budget
    | Descent
    | Bounded
    | Finite
    | RequiredFields
    | NotConstant
    | Residency
    | ExitStatus
    | EventCheck
    | Fact
    | EqualRuns
    | EqualRanks
    | Property
    | TraceSpike
    | TraceParity
    | SameInput
    | Anatomy
    | Artifacts
    | LayerStatistics
    | Memory
    | Monotone
    | RatioOfRuns
    | Schedule,
    Field(discriminator="kind"),
]
"""Any check, told apart by `kind`. A new one is a class in a file of its own, here and below."""

CHECKS: tuple[type[Check], ...] = (
    Budget,
    Descent,
    Bounded,
    Finite,
    RequiredFields,
    NotConstant,
    Residency,
    ExitStatus,
    EventCheck,
    Fact,
    EqualRuns,
    EqualRanks,
    Property,
    TraceSpike,
    TraceParity,
    SameInput,
    Anatomy,
    Artifacts,
    LayerStatistics,
    Memory,
    Monotone,
    RatioOfRuns,
    Schedule,
)

__all__ = ["CHECKS", "AnyCheck"]
