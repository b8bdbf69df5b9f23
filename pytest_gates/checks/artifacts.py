"""`artifacts`: every finished epoch left a checkpoint that is whole and says what it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictStr

from pytest_gates.checks.base import NO_GPUS, Outcome, Positive, Refusal, RunCheck, Verdict
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.figures import several, short
from pytest_gates.checks.strictness import Compare, less, more_of
from pytest_gates.checks.window import ended
from pytest_gates.evidence import Artifact, Evidence
from pytest_gates.model.config import Fraction, PretrainRun, Run

METADATA_FIELDS = ("epoch", "train_loss", "val_loss", "train_ppl", "val_ppl",
                   "optimizer_state_sha256", "wall_seconds", "tokens_seen",
                   "grad_norm_max")  # fmt: skip
"""Required fields of an epoch's metadata, in the field's own words."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")

_METADATA = re.compile(r"checkpoints/(epoch-\d{3,})\.metadata\.json")


class Artifacts(RunCheck):
    """Checkpoints are there, their bytes have the hashes that were written, and nothing is missing.

    The files were hashed by the process outside after the run's end. Of a run that was killed only
    finished checkpoints count, and at least one must be there; every one must be whole.
    """

    kind: Literal["artifacts"]
    fields: Annotated[tuple[StrictStr, ...], Field(min_length=1)] = METADATA_FIELDS
    """Fields that each metadata file has, finite where they are numbers."""
    source_unchanged: StrictBool = False
    """The checkpoint that the run continued has the bytes still that it read."""
    blocked_share_below: Fraction | None = None
    """Largest share of the training's time in which it stood still for checkpoints."""
    host_memory_below: Positive | None = None
    """Most memory of the host, in times the bytes of the largest checkpoint."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "fields": more_of,
        "blocked_share_below": less,
        "host_memory_below": less,
    }

    def timed(self) -> bool:
        """Only how long the training stands still."""
        return self.blocked_share_below is not None

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that keep nothing, and sources of runs that continue none."""
        if not isinstance(run, PretrainRun) or run.checkpoint == "never":
            yield (), "the run keeps no checkpoint; give it `checkpoint: epoch`"
        elif self.source_unchanged and run.resume is None:
            yield ("source_unchanged",), "the run continues no other; give it `resume`"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        files = {one.path: one for one in evidence.artifacts}
        whole = {
            match.group(1): one.metadata
            for path, one in files.items()
            if (match := _METADATA.fullmatch(path))
        }
        wrong = [f"{stem}: {text}" for stem, said in whole.items()
                 for text in self._checkpoint(stem, said, files, evidence)]  # fmt: skip
        wrong += self._missing(whole, evidence)
        if self.source_unchanged:
            wrong += _changed(files, evidence)
        wrong += _costs(evidence, self.blocked_share_below, self.host_memory_below)
        tensors = sum(len(one.tensors or ()) for one in evidence.artifacts)
        text = f"{len(whole)} checkpoints of {tensors} tensors are whole"
        text += ", their source is unchanged" if self.source_unchanged else ""
        return Outcome(
            check="artifacts",
            verdict=Verdict.FAIL if wrong else Verdict.PASS,
            summary=(several(wrong) if wrong else text) + ended(evidence),
            figure=f"{len(whole)} checkpoints, {len(wrong)} faults",
            limit="0 faults",
            n=len(whole),
            detail=tuple(wrong[:10]),
        )

    def _missing(self, whole: Collection[str], evidence: Evidence) -> Iterator[str]:
        if evidence.status == "KILLED":
            if not whole:
                yield "the killed run left no finished checkpoint"
            return
        diverged = [event.detail.get("epoch") for event in evidence.main.events
                    if event.event == "diverged"]  # fmt: skip
        epochs = evidence.main.epochs.columns.get("epoch", ())
        finished = [int(epoch) for epoch in epochs
                    if isinstance(epoch, float) and epoch not in diverged]  # fmt: skip
        if not finished:
            yield f"no epoch was finished (the run ended {evidence.status})"
        for epoch in finished:
            if f"epoch-{epoch:03d}" not in whole:
                yield f"epoch {epoch} left no checkpoint"

    def _checkpoint(
        self, stem: str, said: Any, files: Mapping[str, Artifact], evidence: Evidence
    ) -> Iterator[str]:
        if not isinstance(said, dict):
            yield "its metadata is no JSON object"
            return
        absent = [name for name in self.fields if not _told(said.get(name))]
        if absent:
            yield f"its metadata lacks {', '.join(absent)}"
        written = said.get("files")
        names = (f"{stem}.safetensors", f"{stem}.optimizer.safetensors")
        if not isinstance(written, dict) or set(written) != set(names):
            yield "its metadata does not name its two files"
            return
        for name in names:
            found = files.get(f"checkpoints/{name}")
            if found is None:
                yield f"{name} is not there"
            elif not isinstance(written[name], dict) or found.sha256 != written[name].get("sha256"):
                yield f"{name} has {found.bytes} bytes and other ones than were written"
        yield from _state([files.get(f"checkpoints/{name}") for name in names], evidence)


def _state(pair: list[Artifact | None], evidence: Evidence) -> Iterator[str]:
    weights, optimizer = (one.tensors if one is not None else None for one in pair)
    if weights is None or optimizer is None:
        yield "a file holds no tensors"
        return
    architecture = shape_of(evidence.run).architecture
    count = sum(_elements(word) for word in weights.values())
    if architecture is not None and count != architecture.parameters:
        yield f"{count:,} parameters, the model has {architecture.parameters:,}"
    lacking = [
        f"{name}.{moment}"
        for name, word in weights.items()
        for moment in MOMENTS
        if optimizer.get(f"{name}.{moment}") != (word if moment != "step" else "F32[]")
    ]
    if lacking:
        yield f"optimizer state lacks {several(lacking)}"


def _costs(
    evidence: Evidence, blocked_below: float | None, memory_below: float | None
) -> Iterator[str]:
    """What checkpoints cost beyond what they may: time of the training, memory of the host."""
    facts = evidence.main.facts
    if blocked_below is not None:
        blocked, whole = _number(facts.get("checkpoint_blocked_ms")), _training_ms(evidence)
        if blocked is None or whole is None:
            yield "the run does not say how long it trained and stood still for checkpoints"
        elif not blocked < blocked_below * whole:
            share, limit = 100 * blocked / whole, 100 * blocked_below
            yield f"the training stood still {short(share)} % of its time, limit {short(limit)} %"
    if memory_below is not None:
        held, largest = _number(facts.get("host_peak_mib")), _largest_mib(evidence)
        if held is None or largest is None:
            yield "the run does not say how much memory of the host it held, or left no checkpoint"
        elif not held < memory_below * largest:
            most = f"{short(memory_below)} times the checkpoint's {short(largest)} MiB"
            yield f"{short(held)} MiB of the host were held, limit {most}"


def _training_ms(evidence: Evidence) -> float | None:
    """From the first step's launch to the run's end, the last checkpoint on disk included."""
    at = {event.event: event.detail.get("at_ms") for event in evidence.main.events}
    begun, ended_at = _number(at.get("training_started")), _number(at.get("run_finished"))
    return None if begun is None or ended_at is None else ended_at - begun


def _number(value: object) -> float | None:
    """A number that somebody told, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _largest_mib(evidence: Evidence) -> float | None:
    sizes: dict[str, int] = {}
    for one in evidence.artifacts:
        if one.path.startswith("checkpoints/") and one.path.endswith(".safetensors"):
            stem = one.path.partition(".")[0]
            sizes[stem] = sizes.get(stem, 0) + one.bytes
    return max(sizes.values()) / 2**20 if sizes else None


def _elements(word: str) -> int:
    inner = word.partition("[")[2].removesuffix("]")
    return math.prod(int(size) for size in inner.split(",")) if inner else 1


def _told(value: object) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, int | float):
        return math.isfinite(value)
    return isinstance(value, str) and value not in {"", "NaN", "Infinity", "-Infinity"}


def _changed(files: Mapping[str, Artifact], evidence: Evidence) -> Iterator[str]:
    read = evidence.main.facts.get("resumed_files")
    if not isinstance(read, dict) or not read:
        yield "the run does not say which files it continued"
        return
    for name, sha256 in read.items():
        found = files.get(f"source/{name}")
        if found is None:
            yield f"the source's {name} is gone"
        elif found.sha256 != sha256:
            yield f"the source's {name} was changed"
