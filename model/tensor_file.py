"""The safetensors format, streamed: a few blocks are in host memory at a time.

Eight bytes of length (little-endian), a JSON header that names each tensor with type, shape and
offsets, then the bytes (github.com/huggingface/safetensors, README, "Format"). Nothing is
unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pytest_gates.model.blocks import BLOCK, BLOCKS, Block, Buffers, HashedFile, blocks
from pytest_gates.model.tensor_header import LENGTH_BYTES

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


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    buffers: Buffers | None = None,
    ready: torch.cuda.Event | None = None,
) -> dict[str, Any]:
    """Write the file through a temporary one beside it, fsynced; returns `sha256` and `bytes`.

    Args:
        path: the file.
        tensors: what it holds; they must not change meanwhile.
        buffers: what those of a GPU are copied through; None: they are in host memory.
        ready: the point from which on they hold what is to be written.

    Raises:
        OSError: it cannot be written; nothing is left then.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file, HashedFile(file) as hashed:
            with buffers.after(ready) if buffers is not None else nullcontext():
                size = BLOCK if buffers is None else buffers.size
                for index, block in enumerate(blocks(_pieces(tensors), size)):
                    at = index % BLOCKS
                    hashed.wait(at)
                    hashed.put(at, _in_place(block) if buffers is None else buffers.copy(at, block))
            digest = hashed.close()
            written = file.tell()
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return {"sha256": digest, "bytes": written}


def _in_place(block: list[Tensor]) -> Block:
    return Block([piece.numpy().data for piece in block])


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """The file's bytes: its header, then each tensor's, where that lies."""
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
    begin = bytearray(len(text).to_bytes(LENGTH_BYTES, "little") + text)
    yield torch.frombuffer(begin, dtype=torch.uint8)
    for tensor in tensors.values():
        yield tensor.detach().contiguous().reshape(-1).view(torch.uint8)


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
