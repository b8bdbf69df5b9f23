"""Devices: the grammar, parsed before anything is allocated, and what a request becomes.

The grammar is the field's own (contract C-GPUTRAIN-BACKEND). Parsing needs no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

DEVICE_GRAMMAR = r"^(cpu|cuda(:[0-9]|:1[0-5])?|auto)$"
"""The language of device names. Match it in full: `$` alone would let a final newline through."""

_DEVICE = re.compile(r"cpu|cuda(?::([0-9]|1[0-5]))?|auto")


@dataclass(frozen=True)
class DeviceRequest:
    """A parsed device name."""

    kind: Literal["cpu", "cuda", "auto"]
    index: int = 0


def parse_device(name: str) -> DeviceRequest:
    r"""Parse a device name.

    Raises:
        ValueError: `name` is not in the grammar; `"cuda\n"`, `"CUDA"` and `"cuda:16"` are not.
    """
    match = _DEVICE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no device; expected cpu, cuda, cuda:0 to cuda:15, or auto")
    if name in {"cpu", "auto"}:
        return DeviceRequest("cpu" if name == "cpu" else "auto")
    return DeviceRequest("cuda", int(match.group(1) or 0))
