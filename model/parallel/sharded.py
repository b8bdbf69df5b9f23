"""Checkpoints of sharded state through `torch.distributed.checkpoint`: every rank writes its own.

An epoch's checkpoint is two folders with a safetensors file a rank, `epoch-000.dcp` (parameters)
and `epoch-000.optimizer.dcp`, and `epoch-000.metadata.json`, which rank 0 writes last and which
names every file with its hash: where it is, the checkpoint is whole. All ranks must see one folder.
torch's own format would do as well, but its index is a pickle.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from pytest_gates.model import checkpoint
from pytest_gates.model.checkpoint import Trained
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import RunRefusedError

ENDINGS = (".dcp", ".optimizer.dcp")


class ShardedCheckpointer:
    """Writes checkpoints while the training waits."""

    def __init__(self, folder: Path, rank: int, seams: Seams) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(exist_ok=True)
        self._folder, self._rank = folder, rank
        self._seams = seams
        self._written: tuple[dict[str, Any], ...] = ()
        self.blocked_s = 0.0
        """How long the training has stood still for checkpoints."""

    def save(self, trained: Trained, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Write a checkpoint; returns the metadata of the one before.

        Raises:
            OSError: it could not be written.
        """
        begun = time.perf_counter()
        finished = self.wait()
        self._seams.before_copy()
        stem = f"epoch-{metadata['epoch']:03d}"
        folders = [self._folder / f"{stem}{ending}" for ending in ENDINGS]
        for folder, tensors in zip(folders, _state(trained), strict=True):
            save(
                tensors,
                storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            )
        if self._rank == 0:
            weights, optimizer = map(_hashed, folders)
            whole = {
                **metadata,
                "optimizer_state_sha256": _hash_of(optimizer),
                "files": {**weights, **optimizer},
            }
            self._written = (checkpoint.close(self._folder, stem, whole),)
        self.blocked_s += time.perf_counter() - begun
        return finished

    def wait(self) -> tuple[dict[str, Any], ...]:
        """The checkpoint that was written last, once."""
        written, self._written = self._written, ()
        return written


def restore(folder: Path, metadata: Mapping[str, Any], into: Trained, seams: Seams) -> int:
    """Put a verified checkpoint's state into model, optimizer and generators; counts its tensors.

    Raises:
        RunRefusedError: CONFIG_REFUSED, a tensor is missing or of another shape.
    """
    checkpoint.make_moments(into)
    weights, optimizer = _state(into)
    for name, tensors in zip(_folders(metadata), (weights, optimizer), strict=True):
        try:
            load(
                dict(seams.restored(tensors)),
                storage_reader=HuggingFaceStorageReader(str(folder / name)),
            )
        except (CheckpointException, ValueError) as error:
            cause = str(error).strip().splitlines()[-1]
            raise RunRefusedError("CONFIG_REFUSED", f"checkpoint {name}: {cause}") from None
    checkpoint.set_rng_state(optimizer, into.device)
    return len(weights) + len(optimizer)


def _folders(metadata: Mapping[str, Any]) -> list[str]:
    """Those of parameters and of the optimizer's state, as a checkpoint's metadata names them."""
    return sorted({name.partition("/")[0] for name in metadata["files"]}, key=len)


def _state(trained: Trained) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, and moments and generators, under the names that an unsharded one has."""
    weights, moments = checkpoint.state_of(trained)
    return weights, {**moments, **checkpoint.rng_state(trained.device)}


def _hashed(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of each file, by its name behind the folder's; the names are on disk then."""
    checkpoint.sync_folder(folder)
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[f"{folder.name}/{path.name}"] = {"sha256": digest, "bytes": path.stat().st_size}
    return found


def _hash_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over a line a file, as sha256sum(1) prints it."""
    lines = (f"{one['sha256']}  {name}\n" for name, one in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()
