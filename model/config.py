"""What a run is: architecture, data, optimizer and settings, as frozen typed models without torch.

The same models are the YAML form of ``runs:`` in a contract and the ``run.json`` that a run's
process reads, so a field is defined once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictStr, model_validator

from pytest_gates.model.architecture import (
    BYTES_VOCAB,
    PRESETS,
    TOKENIZER_GRAMMAR,
    Architecture,
    Data,
)
from pytest_gates.model.command import CommandRun
from pytest_gates.model.declared import (
    Declared,
    DeclaredHost,
    DeclaredShape,
    Executed,
    Host,
    Modelled,
    ModelName,
    architecture_of,
)
from pytest_gates.model.forward_settings import Against, Decode
from pytest_gates.model.launch import Launch
from pytest_gates.model.misfit import MisfitError
from pytest_gates.model.pretrain import PretrainRun, Resume
from pytest_gates.model.searches import (
    Causality,
    DeviceGrammarProperty,
    ModelProperty,
    RuleProperty,
)
from pytest_gates.model.settings import (
    Count,
    Fraction,
    Index,
    NotNegative,
    Positive,
    Settings,
)
from pytest_gates.model.sources import ProgramFile, RecordedFile, Source
from pytest_gates.model.training import Kill, NonFinite, Optimizer


class ForwardRun(Modelled):
    """One forward pass over a prompt, traced slot by slot, and what is asked of the path."""

    driver: Literal["forward"]
    model: ModelName | None = None
    """A preset's name, or an architecture block: random weights drawn from `seed`."""
    weights: StrictStr | None = None
    """Instead of `model`: a folder or file of safetensors, or a .gguf file, in the project."""
    tokenizer: StrictStr | None = None
    """A `tokenizer.json`, or `bytes`; left out: the one beside the weights, else bytes."""
    prompt: Annotated[StrictStr, Field(min_length=1, max_length=100_000)] = "def main():\n"
    """Text that is fed."""
    parameter_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type the parameters are held in: fp32, which `dtype` casts for each matmul, or bf16, which
    leaves no other type to the matmuls."""
    compiled: StrictBool = False
    """Whether torch.compile compiles each block, slots included."""
    properties: tuple[ModelProperty, ...] = ()
    """Properties to search for a counterexample."""
    sketch: StrictBool = False
    """Whether each slot leaves a sketch, by which `trace_parity` compares two runs."""
    against: Against | None = None
    """Compare each slot with a float64 reference that is fed beside it."""
    decode: Decode | None = None
    """Generate from the prompt, and time it."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.weights is None):
            raise ValueError("give either model or weights")
        if self.architecture is not None and self.tokenizer in {None, "bytes"}:
            _refuse_bytes(self.architecture.vocab)
        if (self.dtype, self.parameter_dtype) == ("fp32", "bf16"):
            raise MisfitError(
                "parameters held in bf16 are multiplied in bf16; `dtype: fp32` needs them in fp32",
                "parameter_dtype",
            )
        if self.compiled and self.properties:
            raise ValueError("properties are searched with many lengths; compiled is for one")
        return self

    @property
    def matmul_dtype(self) -> Literal["auto", "bf16", "fp32"]:
        """See `Modelled.matmul_dtype`: nothing casts parameters that are held in bf16."""
        return "bf16" if self.parameter_dtype == "bf16" else self.dtype

    @property
    def architecture(self) -> Architecture | None:
        """The declared architecture, a preset resolved; None where the weights tell it."""
        return None if self.model is None else architecture_of(self.model)


def _refuse_bytes(vocab: int) -> None:
    if vocab < BYTES_VOCAB:
        raise ValueError(
            f"a prompt of bytes needs a vocabulary of {BYTES_VOCAB}, the model has {vocab}"
        )


class ProbeRun(Executed):
    """No model at all: what the machine offers, and properties of the program's own rules."""

    driver: Literal["probe"]
    properties: tuple[RuleProperty, ...] = ()
    """Properties to search for a counterexample."""


class RecordedRun(Settings):
    """Files of a run that somebody made already. It never discharges more than PARTIAL."""

    driver: Literal["recorded"]
    files: Annotated[tuple[RecordedFile, ...], Field(min_length=1)]
    """What to read; one of them tells the steps."""
    declares: Declared = Declared()
    """What the files do not say of themselves."""


ExecutedRun = Annotated[PretrainRun | ForwardRun | ProbeRun, Field(discriminator="driver")]
"""A run of the program's own code, in a process of its own."""

Run = Annotated[
    PretrainRun | ForwardRun | ProbeRun | CommandRun | RecordedRun, Field(discriminator="driver")
]
"""Every run a contract can declare."""

LaunchedRun = PretrainRun | CommandRun
"""Runs that may declare `launch`, and have ranks then."""


def declared_launch(run: Run) -> Launch | None:
    """What a run declares of its ranks; None of a run that is one process."""
    return run.launch if isinstance(run, LaunchedRun) else None


class Request(Settings):
    """`run.json`: everything a run's process is told."""

    format: Literal[1] = 1
    run: ExecutedRun
    fault: dict[str, object] | None = None
    """The injected fault, resolved before anything is built; see `faults`."""
    repetition: Index = 0
    known: dict[str, tuple[dict[str, Any], ...]] = Field(default_factory=dict)
    """Counterexamples that earlier runs found, by property; they are tried first."""
    allocations_mib: tuple[Count, ...] = ()
    """Sizes to allocate on the device one after the other, for the witness to see (layer L3b)."""
    control: StrictStr | None = None
    """Folder through which the process outside acknowledges and holds."""
    visible: tuple[StrictStr, ...] = ()
    """UUIDs of the GPUs the run is pinned to; none: those that its environment shows."""
    root: StrictStr
    """The project's root, for shard paths."""
    cache: StrictStr
    """Folder for tokenised corpora."""
    resume_from: StrictStr | None = None
    """Folder of the checkpoints of the run that is resumed."""


__all__ = [
    "BYTES_VOCAB",
    "PRESETS",
    "TOKENIZER_GRAMMAR",
    "Against",
    "Architecture",
    "Causality",
    "CommandRun",
    "Count",
    "Data",
    "Declared",
    "DeclaredHost",
    "DeclaredShape",
    "Decode",
    "DeviceGrammarProperty",
    "ExecutedRun",
    "ForwardRun",
    "Fraction",
    "Host",
    "Index",
    "Kill",
    "Launch",
    "LaunchedRun",
    "ModelName",
    "ModelProperty",
    "NonFinite",
    "NotNegative",
    "Optimizer",
    "Positive",
    "PretrainRun",
    "ProbeRun",
    "ProgramFile",
    "RecordedFile",
    "RecordedRun",
    "Request",
    "Resume",
    "RuleProperty",
    "Run",
    "Settings",
    "Source",
    "architecture_of",
]
