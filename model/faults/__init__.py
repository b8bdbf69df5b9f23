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
    StrayParameter,
    TiedWeights,
    UntiedWeights,
    WrongRopeBase,
)
from pytest_gates.model.faults.base import BaseFault, Injectable
from pytest_gates.model.faults.declared import DeterminismOff, OtherRegime, RegimeWins
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
    PlantedFact,
    PlantedMetric,
    StaleEvidence,
    TypedVerdict,
)
from pytest_gates.model.faults.guards import (
    ConfigMatchOff,
    DataEndOff,
    DivergenceOff,
    FalseDivergence,
    FinitenessOff,
    HashCheckOff,
)
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
    SummedAccumulation,
    UnnormalisedAccumulation,
)
from pytest_gates.model.faults.numbers import (
    ConstantField,
    CounterRestarts,
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
from pytest_gates.model.faults.rules import (
    CarelessWriteBack,
    LenientBudget,
    SloppyDeviceGrammar,
    WrongEnvironment,
)
from pytest_gates.model.faults.speed import (
    FusedAttentionOff,
    HiddenWork,
    MemoryLeak,
    SlowSide,
    SlowStep,
    SlowTail,
    SyncPerLayer,
)
from pytest_gates.model.faults.state import (
    Bf16Embedding,
    DoubleStep,
    MomentsLost,
    OptimizerDefaults,
    ResumeIgnored,
    SlowCheckpoint,
    VanishingGradient,
    WrongInitialisation,
)

FAMILIES: dict[str, tuple[type[BaseFault], ...]] = {
    "device": (
        SilentCpuFallback, DeviceRefusalOff, ContextOnly, WeightsOffloaded, OptimizerOnCpu,
    ),
    "speed and memory": (
        SlowStep, SlowTail, SlowSide, HiddenWork, SyncPerLayer, FusedAttentionOff, MemoryLeak,
    ),
    "learning": (
        FrozenWeights, LrZeroAfterWarmup, SchedulePerMicroBatch, SeedIgnored, SeedUnset,
        RepeatedBatch, LabelShift, LossInBits, ClipBySquaredNorm, UnnormalisedAccumulation,
        SummedAccumulation,
    ),
    "state": (
        WrongInitialisation, VanishingGradient, Bf16Embedding, OptimizerDefaults, DoubleStep,
        ResumeIgnored, MomentsLost, SlowCheckpoint,
    ),
    "declared settings": (DeterminismOff, OtherRegime, RegimeWins),
    "numbers told": (
        NanStep, NumberAfterNan, LossSpike, ScriptedLoss, Placeholder, DataRunsOut, MissingField,
        ConstantField, CounterRestarts, DoubledValidationLoss, ValidationOnTraining,
        DropoutInEvaluation,
    ),
    "guards": (
        FinitenessOff, DivergenceOff, FalseDivergence, DataEndOff, ConfigMatchOff, HashCheckOff,
    ),
    "forward path": (
        CausalLeak, WrongRopeBase, NonlinearRope, FeedForwardShift, BatchLeak, UntiedWeights,
        TiedWeights, StrayParameter, NanActivation, ExplodingActivation,
    ),
    "one slot of the path": (
        SwigluSlice, SwappedGateUp, UnmaskedAttention, KvHeadMissing, OutlierChannel,
        DetachedGate, FewerTokens,
    ),
    "rules and reports": (
        WrongEnvironment, SloppyDeviceGrammar, LenientBudget, CarelessWriteBack,
    ),
    "planted evidence": (
        EditedEvidence, StaleEvidence, ForeignConfiguration, ForeignGpu, PlantedFact,
        PlantedMetric, TypedVerdict,
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
    | SlowSide
    | HiddenWork
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
    | SummedAccumulation
    | WrongInitialisation
    | VanishingGradient
    | Bf16Embedding
    | OptimizerDefaults
    | DoubleStep
    | ResumeIgnored
    | MomentsLost
    | SlowCheckpoint
    | DeterminismOff
    | OtherRegime
    | RegimeWins
    | NanStep
    | NumberAfterNan
    | LossSpike
    | ScriptedLoss
    | Placeholder
    | DataRunsOut
    | MissingField
    | ConstantField
    | CounterRestarts
    | DoubledValidationLoss
    | ValidationOnTraining
    | DropoutInEvaluation
    | FinitenessOff
    | DivergenceOff
    | FalseDivergence
    | DataEndOff
    | ConfigMatchOff
    | HashCheckOff
    | CausalLeak
    | WrongRopeBase
    | NonlinearRope
    | FeedForwardShift
    | BatchLeak
    | UntiedWeights
    | TiedWeights
    | StrayParameter
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
    | LenientBudget
    | CarelessWriteBack
    | EditedEvidence
    | StaleEvidence
    | ForeignConfiguration
    | ForeignGpu
    | PlantedFact
    | PlantedMetric
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
