"""The safetensors format, streamed: one chunk of one tensor is in host memory at a time.

Eight bytes of length (little-endian), a JSON header that names each tensor with type, shape and
offsets, then the bytes (github.com/huggingface/safetensors, README, "Format"). Nothing is
unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pytest_gates.model.tensor_header import LENGTH_BYTES

_CHUNK = 64 * 2**20
_WORDS: dict[torch.dtype, str] = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_TYPES = {word: dtype for dtype, word in _WORDS.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write the file through a temporary one beside it, fsynced; returns `sha256` and `bytes`.

    Raises:
        OSError: it cannot be written; nothing is left then.
    """
    draft = path.with_name(f".{path.name}.draft")
    hashed, size = hashlib.sha256(), 0
    try:
        with draft.open("wb") as file:
            for chunk in _chunks(tensors):
                hashed.update(chunk)
                size += len(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return {"sha256": hashed.hexdigest(), "bytes": size}


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _WORDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)  # tensors begin aligned
    yield len(text).to_bytes(LENGTH_BYTES, "little") + text
    for tensor in tensors.values():
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, len(flat), _CHUNK):
            yield flat[start : start + _CHUNK].cpu().numpy().data


def read_tensor(file: BinaryIO, entry: Mapping[str, Any], start: int, into: Tensor) -> None:
    """Copy one tensor of an open file into another of the same type and shape."""
    assert _TYPES[entry["dtype"]] == into.dtype
    assert tuple(entry["shape"]) == tuple(into.shape)
    first, last = entry["data_offsets"]
    file.seek(start + first)
    data = np.fromfile(file, np.uint8, last - first)
    flat = torch.from_numpy(data).view(into.dtype) if len(data) else torch.empty(0)
    with torch.no_grad():
        into.copy_(flat.reshape(into.shape))


def dtype_word(tensor: Tensor) -> str:
    """The format's name of a tensor's type."""
    return _WORDS[tensor.dtype]
