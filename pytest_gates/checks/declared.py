"""What a run declares, whichever driver it has; None where it does not say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pytest_gates.checks.base import Refusal, Window
from pytest_gates.identity import remembered
from pytest_gates.model.config import (
    PRESETS,
    Architecture,
    CommandRun,
    DeclaredShape,
    ForwardRun,
    PretrainRun,
    RecordedRun,
    Run,
)
from pytest_gates.model.sources import Source, ToldField


@dataclass(frozen=True)
class Shape:
    """The declared sizes of a run."""

    device: str | None = None
    architecture: Architecture | None = None
    seq_len: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    pid: int | None = None
    shards: int = 1
    """Among how many ranks the state is divided."""
    other: DeclaredShape | None = None
    """What is declared of a model that no architecture block describes."""

    @property
    def census_bytes(self) -> int | None:
        """Fewest bytes that the declared training state, or a shard, needs on the device."""
        if self.architecture is None:
            state_mib = None if self.other is None else self.other.state_mib
            return None if state_mib is None else int(state_mib * 2**20)
        if self.shards == 1:
            return self.architecture.training_bytes
        return self.architecture.shard_bytes(self.shards)

    @property
    def vocab(self) -> int | None:
        """Size of the vocabulary."""
        if self.architecture is not None:
            return self.architecture.vocab
        return None if self.other is None else self.other.vocab

    @property
    def step_flops(self) -> int | None:
        """Fewest floating-point operations of one step."""
        if self.architecture is None and self.other is not None:
            gflop = self.other.step_gflop
            return None if gflop is None else int(gflop * 1e9)
        if self.architecture is None or self.seq_len is None or self.batch_size is None:
            return None
        return self.batch_size * self.seq_len * self.architecture.flops_per_token(self.seq_len)

    def absent(self, *names: str) -> list[str]:
        """Which of these the run does not declare."""
        model = self.architecture or (self.other and (self.other.step_gflop or self.census_bytes))
        said = {"model": model, "seq_len": self.seq_len, "batch_size": self.batch_size,
                "steps": self.steps, "device": self.device}  # fmt: skip
        if self.architecture is None and self.step_flops is not None:
            said |= {"seq_len": 0, "batch_size": 0}  # they are asked for a step's operations alone
        return [name for name in names if said[name] is None]


SHAPES_KEPT = 256


@remembered(SHAPES_KEPT)
def shape_of(run: Run) -> Shape:
    """What a run declares."""
    if isinstance(run, PretrainRun):
        shards = run.ranks if run.sharded else 1
        return Shape(
            run.device, run.architecture, run.seq_len, run.batch_size, run.steps, shards=shards
        )
    if isinstance(run, ForwardRun):
        repeat = run.decode.repeat if run.decode is not None else None
        return Shape(run.device, run.architecture, steps=repeat)
    if isinstance(run, RecordedRun):
        said = run.declares
        model = PRESETS[said.model] if isinstance(said.model, str) else said.model
        return Shape(
            said.device, model, said.seq_len, said.batch_size, said.steps, said.pid, other=said
        )
    if isinstance(run, CommandRun):
        shape = run.declares
        return Shape(
            run.device, run.architecture, shape.seq_len, shape.batch_size, shape.steps, other=shape
        )
    return Shape()


def traces(run: Run) -> bool:
    """Whether the run may tell of the slots of a forward pass."""
    if isinstance(run, RecordedRun):
        return any(file.format in {"trace-csv", "jsonl"} for file in run.files)
    if isinstance(run, CommandRun):  # published telemetry may hold slots
        return all(source.format == "jsonl" for source in run.telemetry)
    return isinstance(run, ForwardRun)


def first_unknown(run: Run, metric: str, steps: Window | None) -> Iterator[Refusal]:
    """Why a window must not begin at step 0: the metric is what a clock rose by since the last."""
    sources: Sequence[Source] = ()
    if isinstance(run, RecordedRun | CommandRun):
        sources = run.files if isinstance(run, RecordedRun) else run.telemetry
    told = [source.fields.get(metric) for source in sources]
    rises = any(isinstance(one, ToldField) and one.difference for one in told)
    if rises and (steps is None or steps[0] == 0):
        last = steps[1] if steps is not None else (shape_of(run).steps or 0) - 1
        window = f"[1, {last}]" if last > 0 else "[1, LAST]"
        text = f"{metric} is told by `difference: true`, so step 0 has none; write steps: {window}"
        yield ("steps",), text


def window_misfits(run: Run, steps: Window | None, key: str = "steps") -> Iterator[Refusal]:
    """Why a window over steps does not fit the run."""
    if isinstance(run, ForwardRun) and run.decode is not None:
        yield from _too_long(steps, run.decode.repeat, key)
        return
    if not isinstance(run, PretrainRun | RecordedRun | CommandRun):
        yield (), f"driver {run.driver} has no steps"
        return
    yield from _too_long(steps, shape_of(run).steps, key)


def _too_long(steps: Window | None, declared: int | None, key: str) -> Iterator[Refusal]:
    if steps is not None and declared is not None and steps[1] >= declared:
        text = f"window {list(steps)} is longer than the run"
        yield (key, 1), f"{text}: its {declared} steps are 0 to {declared - 1}"


def undeclared(run: Run, *names: str) -> Iterator[Refusal]:
    """Why a check that computes from the declared run cannot: a recording that says too little."""
    missing: Collection[str] = shape_of(run).absent(*names)
    if missing:
        yield (), f"the run must declare {', '.join(missing)}"
