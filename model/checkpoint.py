"""Checkpoints: model, optimizer, RNG and position, written beside the training, read before it.

An epoch's checkpoint is three files: `epoch-000.safetensors` (the parameters under their Hugging
Face names), `epoch-000.optimizer.safetensors` and `epoch-000.metadata.json`. The last is written
last and names the others with their hashes: where it is, the checkpoint is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gates.model.moments import Moments
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.telemetry import RunRefusedError, encode_number
from pytest_gates.model.tensor_file import dtype_word, read_tensor, write_tensors
from pytest_gates.model.tensor_header import read_header

FORMAT = "pytest-gates/checkpoint/1"
METADATA = ".metadata.json"
_GPU_GENERATOR = "rng.cuda"


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's random generators."""
    states = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[_GPU_GENERATOR] = torch.cuda.get_rng_state(device)
    return states


class Checkpointer:
    """Writes checkpoints in a thread of its own, one at a time, while the training goes on."""

    def __init__(self, folder: Path, device: torch.device, seams: Seams = CLEAN) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir()
        self._folder, self._device, self._seams = folder, device, seams
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's own
        self._thread: threading.Thread | None = None
        self._written: dict[str, Any] | None = None
        self._error: BaseException | None = None
        self.blocked_s = 0.0
        """How long the training has stood still for checkpoints."""

    def save(
        self, model: nn.Module, optimizer: Moments, metadata: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Begin to write; returns the metadata of the one before, if that is finished now.

        The state is copied on its device, which takes milliseconds; the copy is what is written.

        Raises:
            OSError: an earlier one could not be written.
        """
        begun = time.perf_counter()
        finished = self.wait()
        self._seams.before_copy()
        with torch.no_grad():
            weights = {name: p.detach().clone() for name, p in model.named_parameters()}
            state = {
                f"{name}.{key}": value.detach().clone()
                for name, p in model.named_parameters()
                for key, value in sorted(optimizer.state[p].items())
            }
        state |= rng_state(self._device)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        # Until its metadata is on disk a run that ends must wait: the thread is no daemon.
        self._thread = threading.Thread(target=self._write, args=(weights, state, dict(metadata)))
        self._thread.start()
        self.blocked_s += time.perf_counter() - begun
        return finished

    def wait(self) -> dict[str, Any] | None:
        """Wait for the checkpoint that is being written; its metadata, or None if there is none.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error
        assert self._written is not None
        return self._written

    def _write(
        self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], metadata: dict[str, Any]
    ) -> None:
        stem = f"epoch-{metadata['epoch']:03d}"
        names = (f"{stem}.safetensors", f"{stem}.optimizer.safetensors")
        try:
            # On a stream of its own the copies to the host do not wait for the steps.
            with torch.cuda.stream(self._stream):
                files = {
                    name: write_tensors(self._folder / name, tensors)
                    for name, tensors in zip(names, (weights, state), strict=True)
                }
            whole = {
                **metadata,
                "optimizer_state_sha256": files[names[1]]["sha256"],
                "files": files,
            }
            self._written = close(self._folder, stem, whole)
        except BaseException as error:  # noqa: BLE001 - raised again in the training's thread
            self._error = error


def close(folder: Path, stem: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Write a checkpoint's metadata, the last of its files; returns it in full.

    Raises:
        OSError: it cannot be written.
    """
    whole = {"format": FORMAT, **metadata}
    _write_text(folder / (stem + METADATA), _json(whole))
    return whole


def _json(metadata: Mapping[str, Any]) -> str:
    safe = {k: encode_number(v) if isinstance(v, float) else v for k, v in metadata.items()}
    return json.dumps(safe, indent=1, allow_nan=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    # The data files' names must be on disk before this one's is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
        draft.replace(path)
        os.fsync(folder)
    finally:
        os.close(folder)


def find(folder: Path, epoch: int | str) -> dict[str, Any]:
    """Metadata of a finished checkpoint: of that epoch, or of the `last` one.

    Raises:
        RunRefusedError: CONFIG_REFUSED, there is none, or it is not one of ours.
        OSError: it cannot be read.
    """
    found = sorted(folder.glob(f"epoch-*{METADATA}")) if folder.is_dir() else []
    if isinstance(epoch, int):
        found = [path for path in found if path.name == f"epoch-{epoch:03d}{METADATA}"]
    if not found:
        which = f"of epoch {epoch}" if isinstance(epoch, int) else "that is finished"
        raise RunRefusedError("CONFIG_REFUSED", f"the run to resume left no checkpoint {which}")
    path = found[-1]
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise RunRefusedError("CONFIG_REFUSED", f"checkpoint {path.name}: it is no {FORMAT}")
    return metadata


def refuse(why: str | None) -> None:
    """End the run before its first step, if there is a reason.

    Raises:
        RunRefusedError: CONFIG_REFUSED, with the reason.
    """
    if why is not None:
        raise RunRefusedError("CONFIG_REFUSED", why)


def elsewhere(metadata: Mapping[str, Any], position: Mapping[str, Any]) -> str | None:
    """How the data that the checkpoint's run read differs from the continuing run's, or None."""
    made = metadata["position"]
    says = [
        f"{key} {made.get(key)}, the run has {value}"
        for key, value in position.items()
        if made.get(key) != value
    ]
    return f"the checkpoint was made with {'; '.join(says)}" if says else None


def verify(folder: Path, metadata: Mapping[str, Any], seams: Seams = CLEAN) -> dict[str, str]:
    """Hold every file of a checkpoint against its metadata; returns their hashes.

    Raises:
        RunRefusedError: CONFIG_REFUSED, one is missing, cut short or changed, with the numbers.
    """
    hashes = {}
    for name, said in metadata["files"].items():
        path = folder / name
        if not path.is_file():
            raise RunRefusedError("CONFIG_REFUSED", f"checkpoint {name}: there is no such file")
        size = path.stat().st_size
        if size != said["bytes"]:
            raise RunRefusedError(
                "CONFIG_REFUSED",
                f"checkpoint {name}: has {size} bytes, its metadata tells {said['bytes']}",
            )
        with path.open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        changed = None
        if hashes[name] != said["sha256"]:
            changed = (
                f"checkpoint {name}: SHA-256 is {hashes[name][:10]}…, its metadata tells "
                f"{said['sha256'][:10]}…: the file was changed"
            )
        refuse(seams.hash_check(changed))
    return hashes


def restore(
    folder: Path,
    metadata: Mapping[str, Any],
    model: nn.Module,
    optimizer: Moments,
    device: torch.device,
    *,
    seams: Seams = CLEAN,
) -> int:
    """Put a verified checkpoint's state into model, optimizer and generators; counts its tensors.

    Raises:
        RunRefusedError: CONFIG_REFUSED, a tensor is missing, too many, or of another shape.
    """
    weights, state = sorted(metadata["files"], key=len)
    count = _load(folder / weights, dict(model.named_parameters()), seams)
    moments = make_moments(model, optimizer, device)
    generators = rng_state(device)
    if _GPU_GENERATOR not in read_header(folder / state)[0]:
        # Made on a CPU. No step draws from the device's generator, so it is begun anew.
        generators.pop(_GPU_GENERATOR, None)
    count += _load(folder / state, {**moments, **generators}, seams, {_GPU_GENERATOR})
    torch.set_rng_state(generators["rng.cpu"])
    if _GPU_GENERATOR in generators:
        torch.cuda.set_rng_state(generators[_GPU_GENERATOR], device)
    return count


def make_moments(model: nn.Module, optimizer: Moments, device: torch.device) -> dict[str, Tensor]:
    """Give an optimizer the state that its first step would make, empty; returns it by name."""
    moments: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        optimizer.state[p] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        moments |= {f"{name}.{key}": value for key, value in optimizer.state[p].items()}
    return moments


def _load(
    path: Path,
    into: Mapping[str, Tensor],
    seams: Seams,
    ignored: Collection[str] = frozenset(),
) -> int:
    """Read every tensor; the file may have the `ignored` ones too."""
    header, start = read_header(path)
    header = {name: entry for name, entry in header.items() if name in into or name not in ignored}
    refuse(seams.config_match(_misfit(path.name, header, into)))
    filled = {
        name: tensor
        for name, tensor in seams.restored(into).items()
        if name in header and _shape_misfit(header[name], tensor) is None
    }
    with path.open("rb") as file:
        for name, tensor in filled.items():
            read_tensor(file, header[name], start, tensor)
    return len(filled)


def _misfit(file: str, header: Mapping[str, Any], into: Mapping[str, Tensor]) -> str | None:
    """How the tensors of a file differ from those that are to be filled, or None."""
    for names, what in ((into.keys() - header, "lacks"), (header.keys() - into.keys(), "has")):
        if names:
            return (
                f"checkpoint {file} {what} {len(names)} tensors beside the run's {len(into)}, "
                f"{min(names)} for one"
            )
    for name, tensor in into.items():
        different = _shape_misfit(header[name], tensor)
        if different is not None:
            return f"checkpoint {file}: {name} is {different}"
    return None


def _shape_misfit(entry: Mapping[str, Any], tensor: Tensor) -> str | None:
    if entry["shape"] == list(tensor.shape) and entry["dtype"] == dtype_word(tensor):
        return None
    ours = f"{dtype_word(tensor)} {list(tensor.shape)}"
    return f"{entry['dtype']} {entry['shape']}, the run's is {ours}"


def flip_a_bit(path: Path) -> None:
    """Change one bit of a file's last byte, as a bad disk does: its length stays.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
