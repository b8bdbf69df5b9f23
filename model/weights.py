"""Real weights: what a checkpoint holds, whether it is what its own architecture asks for.

A format is a file that opens a `Weights`: `safetensors_weights`, `gguf_weights`. Tensors are read
from memory-mapped files one at a time, under the names of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from pydantic import ValidationError
from torch import Tensor

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.transformer import Transformer, empty

_SHOWN = 4
_MAGIC = b"GGUF"
_DERIVED = "rotary_emb.inv_freq"  # old Llama checkpoints keep a table that follows from rope_theta
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Weights:
    """An opened checkpoint; nothing of its tensors has been read."""

    place: str
    """The file or folder as it was named, for messages."""
    architecture: Architecture
    shapes: Mapping[str, tuple[int, ...]]
    """Every tensor that is there, by its Hugging Face name."""
    read: Callable[[str], Tensor]
    """A tensor by name, on the CPU."""
    types: frozenset[str]
    """How tensors are stored: `BF16`, `Q8_0`."""
    tokenizer: Path | None = None
    """The `tokenizer.json` beside it."""


def refused(reason: str) -> RunRefusedError:
    """The weights cannot serve."""
    return RunRefusedError("CONFIG_REFUSED", reason)


def open_weights(root: Path, location: str) -> Weights:
    """Open a folder of safetensors, one such file, or a .gguf file inside the project.

    Raises:
        RunRefusedError: CONFIG_REFUSED, with one line about what is wrong with it.
        OSError: a file cannot be read.
    """
    path = inside(root, location, "weights")
    if _is_gguf(path):
        from pytest_gates.model.gguf_weights import open_gguf  # noqa: PLC0415 - an extra

        weights = open_gguf(path, location)
    else:
        from pytest_gates.model.safetensors_weights import open_safetensors  # noqa: PLC0415

        weights = open_safetensors(path, location)
    _refuse_other_tensors(weights)
    return weights


def _is_gguf(path: Path) -> bool:
    """By its name or, since caches name files by their hash, by its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def inside(root: Path, location: str, what: str) -> Path:
    """A path beneath `root`, no symbolic link on the way; what a folder holds may be links."""
    relative = PurePosixPath(location)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise refused(f"{what} {location}: must lie inside the project")
    path = root
    for part in relative.parts:
        path /= part
        if path.is_symlink():
            raise refused(f"{what} {location}: {part} is a symbolic link")
    if not path.exists():
        raise refused(f"{what} {location}: there is no such file or folder")
    if not (path.is_file() or path.is_dir()):
        raise refused(f"{what} {location}: is neither a file nor a folder")
    return path


def misfit(error: ValidationError, names: Mapping[str, str]) -> str:
    """What does not fit of an architecture, in one line, by the name that the checkpoint uses."""
    found = error.errors()[0]
    field = str(found["loc"][0]) if found["loc"] else None
    return found["msg"] if field is None else f"{names.get(field, field)}: {found['msg']}"


def loaded(weights: Weights, device: torch.device, dtype: torch.dtype) -> Transformer:
    """The model with these weights, read tensor by tensor onto `device` as `dtype`."""
    model = empty(weights.architecture, device, dtype)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights.read(name))
    return model


def _refuse_other_tensors(weights: Weights) -> None:
    wanted, there = weights.architecture.shapes(), dict(weights.shapes)
    if weights.architecture.tied and _HEAD in there:
        _refuse_untied(weights)
        del there[_HEAD]
    missing = [name for name in wanted if name not in there]
    extra = [name for name in there if name not in wanted and not name.endswith(_DERIVED)]
    if missing or extra:
        parts = (("missing", missing), ("not known to the architecture", extra))
        raise refused(
            f"{weights.place}: " + "; ".join(_counted(*part) for part in parts if part[1])
        )
    for name, shape in _differing(wanted, there):
        raise refused(
            f"{weights.place}: {name} is {list(there[name])}, the architecture asks for "
            f"{list(shape)}"
        )


def _differing(
    wanted: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((name, shape) for name, shape in wanted.items() if there[name] != shape)


def _refuse_untied(weights: Weights) -> None:
    # Some writers store a tied projection twice; another one would silently be dropped.
    same = weights.shapes[_HEAD] == weights.shapes.get(_EMBEDDING)
    if not same or not torch.equal(weights.read(_HEAD), weights.read(_EMBEDDING)):
        raise refused(f"{weights.place}: says it is tied, but has an {_HEAD} of its own")


def _counted(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    tensors = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {tensors} {what}: {', '.join(names[:_SHOWN])}{more}"
