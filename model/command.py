"""The team's own program as a run: what is started, where, with what, and where it tells."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictInt, StrictStr, WithJsonSchema, model_validator

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.declared import DeclaredShape, Executed, architecture_of
from pytest_gates.model.launch import Launch
from pytest_gates.model.misfit import MisfitError
from pytest_gates.model.sources import Frozen, ProgramFile

OUT = "{out}"
"""Stands for the run's own folder, in arguments, environment values and paths of telemetry."""

OURS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTEST_GATES_")
"""Variables that only the driver sets: which device the program gets is no addition."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEVICE = r"^(cpu|cuda(:[0-9]|:1[0-5])?)$"


def variables(environment: dict[str, str]) -> Frozen:
    """Names that a contract may set, or a ValueError."""
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an environment variable")
        if name.startswith(OURS):
            raise ValueError(f"{name} is set by the driver; give the run its `device`")
        if "\0" in value:
            raise ValueError(f"{name}: a value cannot hold a NUL")
    return Frozen(environment)


def _words(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv[0].strip():
        raise ValueError("the program's name is empty")
    if any("\0" in word for word in argv):
        raise ValueError("an argument cannot hold a NUL")
    return argv


Variables = Annotated[
    dict[StrictStr, StrictStr],
    AfterValidator(variables),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]


class CommandRun(Executed):
    """A program of the team's own. pytest's configuration must allow the driver."""

    driver: Literal["command"]
    argv: Annotated[tuple[StrictStr, ...], Field(min_length=1), AfterValidator(_words)]
    """The program and its arguments, word by word; no shell reads them. `{out}` stands for the
    run's own folder. A name without a slash is looked up beside pytest's Python, then in PATH."""
    device: Annotated[StrictStr, Field(pattern=_DEVICE)]
    """The device it gets: `cpu` hides every GPU from it, `cuda[:N]` all others."""
    folder: StrictStr = "."
    """Working folder, relative to the project's root."""
    environment: Variables = Field(default_factory=Frozen)
    """Variables on top of pytest's own environment."""
    telemetry: tuple[ProgramFile, ...] = ()
    """What it writes; left out: what `pytest_gates.emit` writes into the run's own folder."""
    declares: DeclaredShape = DeclaredShape()
    """What it trains, for floors and windows."""
    threads: Annotated[StrictInt, Field(ge=1, le=256)] = 1
    """CPU threads it may use: OMP_NUM_THREADS, and its share of the machine's cores."""
    launch: Launch | None = None
    """Ranks of the program: torchrun starts it so many times, and `pytest_gates.emit` tells of
    each. `declares: {batch_size}` and `threads` are those of all ranks, and of one."""

    @model_validator(mode="after")
    def _no_second_setting(self) -> Self:
        if self.host.cuda == "hidden" and self.device == "cpu":
            raise ValueError("device cpu hides every GPU already; leave `host` out")
        return self

    @model_validator(mode="after")
    def _ranks_fit(self) -> Self:
        if self.launch is None:
            return self
        refusal = self.launch.device_refusal(self.device)
        if refusal is not None:
            raise MisfitError(refusal, "device")
        if self.telemetry:
            text = "ranks tell by `pytest_gates.emit`, a file each; leave `telemetry` out"
            raise MisfitError(text, "telemetry")
        batch = self.declares.batch_size
        refusal = None if batch is None else self.launch.batch_refusal(batch)
        if refusal is not None:
            raise MisfitError(refusal, "declares", "batch_size")
        return self

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return 1 if self.launch is None else self.launch.ranks

    def rank_device(self, rank: int) -> str:
        """The device that one rank of the run asks for: on CUDA, each of a node its own."""
        return self.device if self.launch is None else self.launch.device_of(rank, self.device)

    def of_rank(self, rank: int) -> Self:
        """The run as one of its ranks has it: its device, its share of the batch."""
        batch = self.declares.batch_size
        share = None if batch is None else batch // self.ranks
        declares = self.declares.model_copy(update={"batch_size": share})
        return self.model_copy(update={"device": self.rank_device(rank), "declares": declares})

    @property
    def architecture(self) -> Architecture | None:
        """The declared architecture, a preset resolved."""
        model = self.declares.model
        return None if model is None else architecture_of(model)
