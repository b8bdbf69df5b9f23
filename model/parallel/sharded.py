"""Checkpoints of sharded state through `torch.distributed.checkpoint`: every rank writes its own.

An epoch's checkpoint is the folder `epoch-000.dcp`, a safetensors file a rank, and
`epoch-000.metadata.json`, which rank 0 writes last and which names every file with its hash: where
it is, the checkpoint is whole. All ranks must see one folder. torch's own format would do as well,
but its index is a pickle.
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
        folder = self._folder / f"{stem}.dcp"
        save(
            _state(trained),
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        )
        if self._rank == 0:
            checkpoint.sync_folder(folder)
            files = _hashed(self._folder, f"{stem}.dcp")
            whole = checkpoint.close(self._folder, stem, {**metadata, "files": files})
            self._written = (whole,)
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
    state = _state(into)
    (stem,) = {name.partition("/")[0] for name in metadata["files"]}
    try:
        load(
            dict(seams.restored(state)), storage_reader=HuggingFaceStorageReader(str(folder / stem))
        )
    except (CheckpointException, ValueError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise RunRefusedError("CONFIG_REFUSED", f"checkpoint {stem}: {cause}") from None
    checkpoint.set_rng_state(state, into.device)
    return len(state)


def _state(trained: Trained) -> dict[str, Tensor]:
    """Parameters and moments under the names that an unsharded checkpoint has, and generators."""
    weights, moments = checkpoint.state_of(trained)
    return {**weights, **moments, **checkpoint.rng_state(trained.device)}


def _hashed(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((folder / name).iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[f"{name}/{path.name}"] = {"sha256": digest, "bytes": path.stat().st_size}
    return found
