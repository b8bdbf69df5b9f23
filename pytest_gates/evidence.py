"""Evidence: what a run said of itself and what was measured from outside, and who it belongs to.

Evidence is plain data and knows no contract and no torch. Its files: see `evidence_store`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from pytest_gates.canonical import digest
from pytest_gates.identity import remembered
from pytest_gates.model.config import PRESETS, LaunchedRun, RecordedRun, Run, Settings
from pytest_gates.model.telemetry import STATUSES

SCHEMA = 1
"""Version of the meaning of a run's fields and defaults; part of every run's hash."""
DIFFERENCES_SHOWN = 3

FIELDS_THERE = "fields_there"
"""Fact of telemetry that was read from a program's own files: the names in each, by file."""
TELEMETRY_GAP = "telemetry_gap"
"""Fact of the same: why the telemetry is not all that the program should have told."""

run_adapter: TypeAdapter[Run] = TypeAdapter(Run)


@dataclass(frozen=True)
class Series:
    """Columns of equal length: what was said at each step, epoch, slot or parameter, in order."""

    columns: Mapping[str, tuple[float | str | None, ...]]
    """A value that was null or absent is None. `slot` and `name` hold names; all others numbers."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True)
class Event:
    """Something that happened once, with what was said about it."""

    event: str
    step: int | None
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class PropertyResult:
    """The outcome of a search for a counterexample."""

    name: str
    examples: int
    counterexample: Mapping[str, Any] | None


@dataclass(frozen=True)
class Telemetry:
    """What one rank said of itself."""

    steps: Series = Series({})
    epochs: Series = Series({})
    slots: Series = Series({})
    parameters: Series = Series({})
    events: tuple[Event, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, PropertyResult] = field(default_factory=dict)

    @functools.cached_property
    def step_rows(self) -> tuple[tuple[int, int], ...]:
        """(row, step) of each row of `steps` whose step is a finite number; many checks ask."""
        said = self.steps.columns.get("step", ())
        return tuple(
            (row, int(step))
            for row, step in enumerate(said)
            if isinstance(step, float | int) and math.isfinite(step)
        )

    @property
    def first_of_unbroken(self) -> int | None:
        """The first step, if every row has the step after the one before; else None."""
        said = self.steps.columns.get("step")
        return _first_of_unbroken(said) if said else None


UNBROKEN_KEPT = 64


@remembered(UNBROKEN_KEPT)
def _first_of_unbroken(said: tuple[float | str | None, ...]) -> int | None:
    first = said[0]
    if not isinstance(first, float | int) or not math.isfinite(first):
        return None
    first = int(first)
    return first if said == tuple(range(first, first + len(said))) else None


@dataclass(frozen=True)
class Gpu:
    """A GPU as the outside process found it."""

    name: str
    uuid: str | None
    memory_mib: int | None


@dataclass(frozen=True)
class HostInfo:
    """The machine, without its name, its users or its folders."""

    gpu: Gpu | None = None
    driver: str | None = None
    torch: str | None = None
    cuda: str | None = None
    python: str | None = None
    platform: str | None = None
    cpu_cores: int | None = None
    cpu_flops: float | None = None
    """Ceiling of the CPU in floating-point operations a second, from its cores and flags."""


@dataclass(frozen=True)
class Sample:
    """One look of the witness at the device and at the run's process on it."""

    at_ms: float
    """Milliseconds since the run's process was started."""
    pid: int | None
    """The process the sample is about; None: the device as a whole."""
    used_mib: float | None
    """Device memory of that process; None where NVML does not tell."""
    device_used_mib: float | None = None
    sm_util_pct: float | None = None
    util_pct: float | None = None
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    reasons: int | None = None
    """NVML's bit mask of clock event (throttle) reasons."""
    foreign_pids: int | None = None
    """Other processes with a context on the device."""


@dataclass(frozen=True)
class Allocation:
    """Layer L3b: a size the run was told to allocate, and what the witness saw of it."""

    told_mib: int
    seen_mib: float | None


@dataclass(frozen=True)
class Witness:
    """What the process outside the run measured."""

    samples: tuple[Sample, ...] = ()
    allocations: tuple[Allocation, ...] = ()
    unavailable: str | None = None
    """Why there are no samples."""
    gaps: Mapping[str, str] = field(default_factory=dict)
    """Why a field is None in every sample, by the field's name."""


@dataclass(frozen=True)
class Rank:
    """One process of a run of several, as the process outside found it."""

    pid: int | None
    """A child of the run's launcher; None: none was found under the PID that the rank told."""
    gpu: Gpu | None
    """The GPU that was watched for it."""
    witness: Witness


@dataclass(frozen=True)
class Artifact:
    """A file that a run left or read, as the process outside found it after the run's end."""

    path: str
    """Relative to the run's folder; `source/...` of a checkpoint that the run continued."""
    bytes: int
    sha256: str
    tensors: Mapping[str, str] | None = None
    """Of a safetensors file: type and shape by name, `F32[256,128]`."""
    metadata: Mapping[str, Any] | None = None
    """Of a JSON file: what it says."""


CONTAMINATING_REASONS = 0x08 | 0x20 | 0x40 | 0x80
"""Bits of `Sample.reasons` that say the hardware was held back: hardware slowdown, software
thermal, hardware thermal, hardware power brake (nvml.h, nvmlClocksEventReason*). SwPowerCap, 0x04,
is the normal state of a loaded GPU and none of them."""


@dataclass(frozen=True)
class Evidence:
    """One execution, as read back from its files, each verified against its hash."""

    id: str
    """SHA-256 of the manifest's bytes."""
    run: Run
    """The resolved run it was made by."""
    run_hash: str
    """Hash of what the contract declares; see `run_hash`."""
    fault: Mapping[str, Any] | None
    """The fault that was injected. `judge` never looks at it."""
    repetition: int
    host: HostInfo
    status: str
    """One of `model.telemetry.STATUSES`."""
    wall_ms: float | None
    """From the start of the process to its end, measured outside; None: recorded elsewhere."""
    pid: int | None
    run_folder: bool
    """Whether the run's process made its folder."""
    started: str | None
    """UTC, ISO 8601."""
    declared: bool
    """Configuration and host are declared, not observed (driver `recorded`)."""
    telemetry: tuple[Telemetry, ...]
    """One a rank."""
    witness: Witness
    ranks: tuple[Rank, ...] = ()
    """The processes of a run that declares `launch`; of any other, none."""
    artifacts: tuple[Artifact, ...] = ()
    """Checkpoints of the run; their bytes are not evidence, their hashes are."""
    reason: str | None = None
    """What the run or the worker said about an end that is not COMPLETED."""
    location: str = ""
    """Folder of the manifest, relative to the project's root."""
    group: str | None = None
    """Interleave group: executions that took turns on one device."""
    code: str | None = None
    """Revision of the project's code, where it is known."""
    notes: tuple[str, ...] = ()
    """What was left out when it was recorded or read, and why."""

    @property
    def main(self) -> Telemetry:
        """Telemetry of rank 0; empty if the run never said a word."""
        return self.telemetry[0] if self.telemetry else Telemetry()

    def of_rank(self, rank: int) -> Evidence:
        """The same execution as one rank saw it: its telemetry, process, GPU, share and end."""
        run = self.run
        assert isinstance(run, LaunchedRun)
        said = self.telemetry[rank] if rank < len(self.telemetry) else Telemetry()
        seen = self.ranks[rank] if rank < len(self.ranks) else Rank(None, None, UNWATCHED)
        return replace(
            self,
            run=run.of_rank(rank),
            host=replace(self.host, gpu=seen.gpu),
            status=rank_status(said),
            reason=None,
            pid=seen.pid,
            telemetry=(said,) if rank < len(self.telemetry) else (),
            witness=seen.witness,
        )


UNWATCHED = Witness(unavailable="the process was not found from outside")


def rank_status(said: Telemetry) -> str:
    """How one rank ended, by its own words; one that says nothing of it was ended by a signal."""
    for event in reversed(said.events):
        if event.event == "run_finished":
            return "COMPLETED"
        status = event.detail.get("status")
        if event.event == "rank_ended" and isinstance(status, str) and status in STATUSES:
            return status
    return "KILLED"


HASHES_KEPT = 4096


@remembered(HASHES_KEPT)
def run_hash(run: Run) -> str:
    """SHA-256 of what a contract declares of a run.

    Fields at their default are left out, so that a new field with a default orphans no evidence;
    changing a default is a new `SCHEMA`. A preset and the same architecture spelled out are two
    declarations and hash differently.
    """
    return _run_hash(run)


@functools.lru_cache(maxsize=HASHES_KEPT)
def _run_hash(run: Run) -> str:
    return digest({"schema": SCHEMA, "run": run.model_dump(mode="json", exclude_defaults=True)})


def difference(declared: Run, evidence: Evidence) -> str | None:
    """None if the evidence was made by the run a gate declares; else the first differences."""
    if run_hash(declared) == evidence.run_hash:
        return None
    has, wants = dict(leaves(_dump(evidence.run))), dict(leaves(_dump(declared)))
    if has["driver"] != wants["driver"]:
        has, wants = {"driver": has["driver"]}, {"driver": wants["driver"]}
    differences = [
        _differs(name, has.get(name), wants.get(name))
        for name in dict.fromkeys((*wants, *has))
        if has.get(name) != wants.get(name)
    ]
    if not differences:
        return f"evidence has run hash {evidence.run_hash}, the gate declares {run_hash(declared)}"
    return _listed(differences)


def unmet(requires: Mapping[str, Any], evidence: Evidence) -> str | None:
    """None if the evidence's run has what a gate requires of it; else the first differences.

    A recorded run is held to what it declares of the files. A preset equals its architecture.
    """
    if not requires:
        return None
    run = evidence.run
    has = dict(leaves(_resolved(_dump(run.declares if isinstance(run, RecordedRun) else run))))
    return _listed(
        [
            _differs(name, has.get(name), value)
            for name, value in leaves(_resolved(requires))
            if not _same(has.get(name), value)
        ]
    )


def _dump(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _resolved(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    preset = settings.get("model")
    if isinstance(preset, str) and preset in PRESETS:
        return {**settings, "model": _dump(PRESETS[preset])}
    return settings


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values, mappings taken apart."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def _same(has: Any, wants: Any) -> bool:
    # YAML's `true` is no 1, though Python's is.
    return bool(has == wants) and isinstance(has, bool) == isinstance(wants, bool)


def _differs(name: str, has: Any, wants: Any) -> str:
    said = f"evidence has no {name}" if has is None else f"evidence has {name} {_word(has)}"
    return f"{said}, the gate declares {'none' if wants is None else _word(wants)}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _listed(differences: list[str]) -> str | None:
    more = len(differences) - DIFFERENCES_SHOWN
    shown = differences[:DIFFERENCES_SHOWN] + ([f"and {more} more"] if more > 0 else [])
    return "; ".join(shown) or None
