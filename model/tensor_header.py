"""The header of a safetensors file, read without torch: which tensors it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_gates.model.telemetry import RunRefusedError

LENGTH_BYTES = 8
_HEADER_LIMIT = 100_000_000  # the reference implementation's own

Header = dict[str, dict[str, Any]]
"""By the tensor's name: `dtype`, `shape`, `data_offsets`."""


def read_header(path: Path) -> tuple[Header, int]:
    """The header, and where the tensors' bytes begin.

    Raises:
        RunRefusedError: CONFIG_REFUSED, it is no such file or is cut short, with the numbers.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, _HEADER_LIMIT):
            raise _refused(path, f"{size} bytes are no safetensors file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
        except (ValueError, AttributeError, LookupError, TypeError):
            raise _refused(path, "its header is no safetensors header") from None
    start = LENGTH_BYTES + length
    needed = start + max(ends, default=0)
    if size != needed:
        raise _refused(path, f"has {size} bytes, its header tells {needed}: it is cut short")
    return header, start


def _refused(path: Path, what: str) -> RunRefusedError:
    return RunRefusedError("CONFIG_REFUSED", f"checkpoint {path.name}: {what}")
