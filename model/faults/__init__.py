"""The fault catalogue, without torch: what each sabotage does, where it comes from, where it fits.

A fault takes effect through the public seams of the trainer and the forward path (see `seams` and
`sabotage`); an attack (`Planted`) acts on copies of evidence, records and contract instead.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from pytest_gates.model.faults.architecture import (
    BatchLeak,
    CausalLeak,
    ExplodingActivation,
    FeedForwardShift,
    NanActivation,
    NonlinearRope,
    TiedWeights,
    UntiedWeights,
    WrongRopeBase,
)
from pytest_gates.model.faults.base import BaseFault, Injectable
from pytest_gates.model.faults.device import (
    ContextOnly,
    DeviceRefusalOff,
    OptimizerOnCpu,
    SilentCpuFallback,
    WeightsOffloaded,
)
from pytest_gates.model.faults.evidence import (
    DeletedRecord,
    EditedEvidence,
    ForeignConfiguration,
    ForeignGpu,
    LoosenedContract,
    Planted,
    StaleEvidence,
    TypedVerdict,
)
from pytest_gates.model.faults.guards import DataEndOff, DivergenceOff, FinitenessOff
from pytest_gates.model.faults.learning import (
    ClipBySquaredNorm,
    FrozenWeights,
    LabelShift,
    LossInBits,
    LrZeroAfterWarmup,
    RepeatedBatch,
    SchedulePerMicroBatch,
    SeedIgnored,
    SeedUnset,
    UnnormalisedAccumulation,
)
from pytest_gates.model.faults.numbers import (
    ConstantField,
    DataRunsOut,
    DoubledValidationLoss,
    DropoutInEvaluation,
    LossSpike,
    MissingField,
    NanStep,
    NumberAfterNan,
    Placeholder,
    ScriptedLoss,
    ValidationOnTraining,
)
from pytest_gates.model.faults.path import (
    DetachedGate,
    FewerTokens,
    KvHeadMissing,
    OutlierChannel,
    SwappedGateUp,
    SwigluSlice,
    UnmaskedAttention,
)
from pytest_gates.model.faults.ranks import LocalGradients, SameShard, SummedGradients
from pytest_gates.model.faults.rules import SloppyDeviceGrammar, WrongEnvironment
from pytest_gates.model.faults.speed import (
    FusedAttentionOff,
    MemoryLeak,
    SlowStep,
    SlowTail,
    SyncPerLayer,
)

FAMILIES: dict[str, tuple[type[BaseFault], ...]] = {
    "device": (
        SilentCpuFallback, DeviceRefusalOff, ContextOnly, WeightsOffloaded, OptimizerOnCpu,
    ),
    "speed and memory": (SlowStep, SlowTail, SyncPerLayer, FusedAttentionOff, MemoryLeak),
    "learning": (
        FrozenWeights, LrZeroAfterWarmup, SchedulePerMicroBatch, SeedIgnored, SeedUnset,
        RepeatedBatch, LabelShift, LossInBits, ClipBySquaredNorm, UnnormalisedAccumulation,
    ),
    "numbers told": (
        NanStep, NumberAfterNan, LossSpike, ScriptedLoss, Placeholder, DataRunsOut, MissingField,
        ConstantField, DoubledValidationLoss, ValidationOnTraining, DropoutInEvaluation,
    ),
    "guards": (FinitenessOff, DivergenceOff, DataEndOff),
    "forward path": (
        CausalLeak, WrongRopeBase, NonlinearRope, FeedForwardShift, BatchLeak, UntiedWeights,
        TiedWeights, NanActivation, ExplodingActivation,
    ),
    "one slot of the path": (
        SwigluSlice, SwappedGateUp, UnmaskedAttention, KvHeadMissing, OutlierChannel,
        DetachedGate, FewerTokens,
    ),
    "several processes": (SummedGradients, LocalGradients, SameShard),
    "rules and reports": (WrongEnvironment, SloppyDeviceGrammar),
    "planted evidence": (
        EditedEvidence, StaleEvidence, ForeignConfiguration, ForeignGpu, TypedVerdict,
        DeletedRecord, LoosenedContract,
    ),
}  # fmt: skip
"""Every fault by its family; a new one is a class in the family's file, a line here and below, an
effect in `sabotage` (or in `pytest_gates.attacks` for a planted one), and a test."""

FAULTS: tuple[type[BaseFault], ...] = tuple(fault for many in FAMILIES.values() for fault in many)

Fault = Annotated[
    SilentCpuFallback
    | DeviceRefusalOff
    | ContextOnly
    | WeightsOffloaded
    | OptimizerOnCpu
    | SlowStep
    | SlowTail
    | SyncPerLayer
    | FusedAttentionOff
    | MemoryLeak
    | FrozenWeights
    | LrZeroAfterWarmup
    | SchedulePerMicroBatch
    | SeedIgnored
    | SeedUnset
    | RepeatedBatch
    | LabelShift
    | LossInBits
    | ClipBySquaredNorm
    | UnnormalisedAccumulation
    | NanStep
    | NumberAfterNan
    | LossSpike
    | ScriptedLoss
    | Placeholder
    | DataRunsOut
    | MissingField
    | ConstantField
    | DoubledValidationLoss
    | ValidationOnTraining
    | DropoutInEvaluation
    | FinitenessOff
    | DivergenceOff
    | DataEndOff
    | CausalLeak
    | WrongRopeBase
    | NonlinearRope
    | FeedForwardShift
    | BatchLeak
    | UntiedWeights
    | TiedWeights
    | NanActivation
    | ExplodingActivation
    | SwigluSlice
    | SwappedGateUp
    | UnmaskedAttention
    | KvHeadMissing
    | OutlierChannel
    | DetachedGate
    | FewerTokens
    | WrongEnvironment
    | SloppyDeviceGrammar
    | SummedGradients
    | LocalGradients
    | SameShard
    | EditedEvidence
    | StaleEvidence
    | ForeignConfiguration
    | ForeignGpu
    | TypedVerdict
    | DeletedRecord
    | LoosenedContract,
    Field(discriminator="fault"),
]
"""Any fault, told apart by `fault`."""

fault_adapter: TypeAdapter[Fault] = TypeAdapter(Fault)

__all__ = [
    "FAMILIES",
    "FAULTS",
    "BaseFault",
    "Fault",
    "Injectable",
    "Planted",
    "SilentCpuFallback",
    "SlowStep",
    "fault_adapter",
]
