"""What a contract declares of a run that the program cannot know: device, model, sizes, machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from pytest_gates.model.architecture import PRESETS, Architecture
from pytest_gates.model.device import DEVICE_GRAMMAR
from pytest_gates.model.settings import Count, Index, Positive, Settings


class Host(Settings):
    """What the run's process may see of the machine."""

    cuda: Literal["any", "hidden", "visible"] = "any"
    """`hidden` hides every CUDA device from the process; `visible` needs at least one."""


class Executed(Settings):
    """What every run that is executed in a process of its own declares."""

    host: Host = Host()
    """Conditions of the machine."""
    timeout_s: Positive | None = None
    """Seconds after which the run is ended with status TIMEOUT."""


DeviceName = Annotated[StrictStr, Field(pattern=DEVICE_GRAMMAR)]


def _known(model: str | Architecture) -> str | Architecture:
    if isinstance(model, str) and model not in PRESETS:
        raise ValueError(f"unknown model {model!r}; presets are {', '.join(PRESETS)}")
    return model


ModelName = Annotated[StrictStr | Architecture, AfterValidator(_known)]
"""A preset's name, or an architecture block."""


def architecture_of(model: str | Architecture) -> Architecture:
    """The architecture itself, a preset resolved."""
    return PRESETS[model] if isinstance(model, str) else model


class Modelled(Executed):
    """A run of the program's own model."""

    device: DeviceName
    """`cpu`, `cuda`, `cuda:0` to `cuda:15`, or `auto`."""
    seed: Index = 0
    """Seed of every random generator of the run."""
    threads: Annotated[StrictInt, Field(ge=1, le=256)] = 1
    """CPU threads of torch."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 matmuls over fp32 masters on CUDA, fp32 on the CPU."""
    deterministic: StrictBool = False
    """Only deterministic kernels, at some cost in speed."""

    @property
    def matmul_dtype(self) -> Literal["auto", "bf16", "fp32"]:
        """What the matmuls are computed in, `auto` left to the device."""
        return self.dtype


class DeclaredShape(Settings):
    """What is trained, and in what sizes: what floors and windows are computed from."""

    model: ModelName | None = None
    """A preset's name, or an architecture block, where the model is a Llama."""
    seq_len: Count | None = None
    batch_size: Count | None = None
    steps: Count | None = None
    seed: Index | None = None
    dtype: StrictStr | None = None
    vocab: Count | None = None
    """Vocabulary of a model that no architecture block describes."""
    step_gflop: Positive | None = None
    """Fewest floating-point operations of one of its steps, in 10^9."""
    state_mib: Positive | None = None
    """Fewest MiB that its parameters and optimizer state take."""


class DeclaredHost(Settings):
    """The machine a recording is said to come from."""

    gpu: StrictStr | None = None
    driver: StrictStr | None = None
    torch: StrictStr | None = None


class Declared(DeclaredShape):
    """The configuration a recording is said to come from. Reports call it DECLARED."""

    device: DeviceName | None = None
    pid: Index | None = None
    """Process id of the run, to be found among the samples."""
    host: DeclaredHost = DeclaredHost()
