"""The fault catalogue, without torch: what each sabotage does, where it comes from, where it fits.

A fault takes effect through the public seams of the trainer and the forward path (see `seams` and
`sabotage`); an attack (`Planted`) acts on copies of evidence, records and contract instead.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from pytest_gates.model.config import CommandRun, RecordedRun, Run
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
    ShiftedPositions,
    SwappedGateUp,
    SwigluSlice,
    UnmaskedAttention,
)
from pytest_gates.model.faults.program import (
    HiddenDevices,
    KilledProgram,
    OfProgram,
    OtherEnvironment,
    PlantedTelemetry,
    SlowProgram,
)
from pytest_gates.model.faults.ranks import (
    LocalGradients,
    SameShard,
    SlowCommunication,
    SummedGradients,
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
        DetachedGate, FewerTokens, ShiftedPositions,
    ),
    "several processes": (SummedGradients, LocalGradients, SlowCommunication, SameShard),
    "rules and reports": (
        WrongEnvironment, SloppyDeviceGrammar, LenientBudget, CarelessWriteBack,
    ),
    "the team's own program": (
        HiddenDevices, OtherEnvironment, SlowProgram, KilledProgram, PlantedTelemetry,
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
    | ShiftedPositions
    | WrongEnvironment
    | SloppyDeviceGrammar
    | SummedGradients
    | LocalGradients
    | SlowCommunication
    | SameShard
    | HiddenDevices
    | OtherEnvironment
    | SlowProgram
    | KilledProgram
    | PlantedTelemetry
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


def misfit(fault: BaseFault, run: Run) -> str | None:
    """Why a fault cannot apply to a run of any driver, or None."""
    foreign = out_of_reach(type(fault), run)
    if foreign is not None:
        return foreign
    return fault.misfit(run)  # type: ignore[arg-type]  # planted evidence asks no run for more


def out_of_reach(form: type[BaseFault], run: Run) -> str | None:
    """Why no fault of a form could ever reach a run, whatever its parameters, or None."""
    if isinstance(run, RecordedRun) and not issubclass(form, Planted):
        return "recorded runs execute nothing"
    if isinstance(run, CommandRun) and not issubclass(form, OfProgram | Planted):
        return "the fault works inside the built-in trainer; a program of the team's is not ours"
    return None


__all__ = [
    "FAMILIES",
    "FAULTS",
    "BaseFault",
    "Fault",
    "Injectable",
    "OfProgram",
    "Planted",
    "SilentCpuFallback",
    "SlowStep",
    "fault_adapter",
    "misfit",
    "out_of_reach",
]
