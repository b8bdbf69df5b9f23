"""Checkpoints: model, optimizer, RNG and position, written beside the training, read before it.

An epoch's checkpoint is three files: `epoch-000.safetensors` (the parameters under their Hugging
Face names), `epoch-000.optimizer.safetensors` and `epoch-000.metadata.json`. The last is written
last and names the others with their hashes: where it is, the checkpoint is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gates.model.blocks import Buffers
from pytest_gates.model.moments import Moments
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.telemetry import RunRefusedError, encode_number
from pytest_gates.model.tensor_file import dtype_word, read_tensor, write_tensors
from pytest_gates.model.tensor_header import read_header

FORMAT = "pytest-gates/checkpoint/1"
METADATA = ".metadata.json"
FILES = 2
"""Files with tensors of a checkpoint: parameters, and the optimizer's state."""
ALIGNED = 256
"""Bytes to which a copy is aligned, as the device's own allocations are."""
SPARED = 0.9
"""Share of a device's memory that a waiting copy may fill."""
_GPU_GENERATOR = "rng.cuda"


@dataclass(frozen=True)
class Trained:
    """What a checkpoint is of, and what one is put into."""

    model: nn.Module
    optimizer: Moments
    device: torch.device


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's random generators."""
    states = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[_GPU_GENERATOR] = torch.cuda.get_rng_state(device)
    return states


class Checkpointer:
    """Writes checkpoints in a thread of its own, one at a time, while the training goes on.

    The state is copied on its device, which takes milliseconds; the copy is what is written. While
    one is being written the next waits as a copy too, where the device has the memory.
    """

    def __init__(self, folder: Path, device: torch.device, seams: Seams = CLEAN) -> None:
        """Make the folder, and the pinned memory, since to allocate it stops the device.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir()
        self._folder, self._device, self._seams = folder, device, seams
        on_gpu = device.type == "cuda"
        self._buffers = [Buffers(device) if on_gpu else None for _ in range(FILES)]
        # Until its metadata is on disk a run that ends must wait: an executor's threads are joined.
        self._thread = ThreadPoolExecutor(1)
        self._writing: deque[Future[dict[str, Any]]] = deque()
        self.blocked_s = 0.0
        """How long the training has stood still for checkpoints."""

    def save(self, trained: Trained, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Begin to write; returns the metadata of those that were finished meanwhile.

        Without memory for a copy the training stands still until all is written.

        Raises:
            OSError: an earlier one could not be written.
        """
        begun = time.perf_counter()
        state = state_of(trained)
        size = sum(tensor.nbytes for tensors in state for tensor in tensors.values())
        finished = []
        while self._writing and (self._writing[0].done() or not self._has_room(size)):
            finished.append(self._writing.popleft().result())
        self._seams.before_copy()
        try:
            copies = [copied(tensors) for tensors in state]
        except torch.OutOfMemoryError:
            finished += self.wait()
            copies = None
        generators, ready = rng_state(self._device), None
        if self._device.type == "cuda":
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's own
            ready.record(torch.cuda.current_stream(self._device))
        weights, moments = copies or state
        self._writing.append(
            self._thread.submit(self._write, (weights, moments | generators), ready, dict(metadata))
        )
        if copies is None:
            finished += self.wait()
        self.blocked_s += time.perf_counter() - begun
        return tuple(finished)

    def wait(self) -> tuple[dict[str, Any], ...]:
        """Wait for those that are being written; their metadata.

        Raises:
            OSError: one could not be written.
        """
        finished = tuple(one.result() for one in self._writing)
        self._writing.clear()
        return finished

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes more fit beside all that the training ever held at once."""
        if self._device.type != "cuda":
            return False
        free, total = torch.cuda.mem_get_info(self._device)
        others = total - free - torch.cuda.memory_reserved(self._device)
        return torch.cuda.max_memory_allocated(self._device) + others + size < SPARED * total

    def _write(
        self,
        contents: tuple[Mapping[str, Tensor], ...],
        ready: torch.cuda.Event | None,
        metadata: Mapping[str, Any],
    ) -> dict[str, Any]:
        stem = f"epoch-{metadata['epoch']:03d}"
        names = (f"{stem}.safetensors", f"{stem}.optimizer.safetensors")
        with ThreadPoolExecutor(FILES) as beside:
            written = [
                beside.submit(write_tensors, self._folder / name, tensors, buffers, ready)
                for name, tensors, buffers in zip(names, contents, self._buffers, strict=True)
            ]
        files = {name: one.result() for name, one in zip(names, written, strict=True)}
        sha256 = files[names[1]]["sha256"]
        return close(
            self._folder, stem, {**metadata, "optimizer_state_sha256": sha256, "files": files}
        )


def state_of(trained: Trained) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, and what the optimizer keeps beside each, by name; as they are, not copied."""
    weights = {name: p.detach() for name, p in trained.model.named_parameters()}
    moments = {
        f"{name}.{key}": value.detach()
        for name, p in trained.model.named_parameters()
        for key, value in sorted(trained.optimizer.state[p].items())
    }
    return weights, moments


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that lie in one allocation: hundreds of them would stop the device each time.

    Raises:
        torch.OutOfMemoryError: the device has no room for it.
    """
    starts, size = {}, 0
    for name, tensor in tensors.items():
        starts[name] = size
        size += -(-tensor.nbytes // ALIGNED) * ALIGNED
    device = next(iter(tensors.values())).device
    memory = torch.empty(size, dtype=torch.uint8, device=device)
    copies = {}
    for name, tensor in tensors.items():
        place = memory[starts[name] : starts[name] + tensor.nbytes]
        copies[name] = place.view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return copies


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
    sync_folder(path.parent)  # the data files' names must be on disk before this one's is
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Put the names of a folder's files on disk.

    Raises:
        OSError: it cannot be done.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
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


def restore(folder: Path, metadata: Mapping[str, Any], into: Trained, seams: Seams = CLEAN) -> int:
    """Put a verified checkpoint's state into model, optimizer and generators; counts its tensors.

    Raises:
        RunRefusedError: CONFIG_REFUSED, a tensor is missing, too many, or of another shape.
    """
    weights, state = sorted(metadata["files"], key=len)
    count = _load(folder / weights, dict(into.model.named_parameters()), seams)
    moments = make_moments(into)
    generators = rng_state(into.device)
    if _GPU_GENERATOR not in read_header(folder / state)[0]:
        # Made on a CPU. No step draws from the device's generator, so it is begun anew.
        generators.pop(_GPU_GENERATOR, None)
    count += _load(folder / state, {**moments, **generators}, seams, {_GPU_GENERATOR})
    set_rng_state(generators, into.device)
    return count


def set_rng_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Take up what `rng_state` gave; a generator of which there is nothing stays as it is."""
    torch.set_rng_state(states["rng.cpu"])
    if _GPU_GENERATOR in states:
        torch.cuda.set_rng_state(states[_GPU_GENERATOR], device)


def make_moments(of: Trained) -> dict[str, Tensor]:
    """Give an optimizer the state that its first step would make, empty; returns it by name."""
    moments: dict[str, Tensor] = {}
    for name, p in of.model.named_parameters():
        of.optimizer.state[p] = {
            "step": torch.zeros((), device=of.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        moments |= {f"{name}.{key}": value for key, value in of.optimizer.state[p].items()}
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
