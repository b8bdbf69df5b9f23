"""What a run's state is and where it lies: residency by device, and a hash of the parameters."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from pytest_gates.model.moments import Moments

Residency = dict[str, dict[str, int]]
"""Bytes by device, for `parameters`, `gradients` and `optimizer`."""


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or of a shard (a DTensor) the whole, for which all ranks must ask."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _own(tensor: Tensor) -> Tensor:
    """The tensor itself, or of a DTensor the shard that lies here."""
    local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def gradients_of(model: nn.Module) -> list[Tensor]:
    """Every gradient that a model's parameters hold."""
    return [p.grad for p in model.parameters() if p.grad is not None]


def residency(
    model: nn.Module, optimizer: Moments, gradients: Iterable[Tensor], *, counters: bool = True
) -> Residency:
    """Where parameters, gradients and optimizer state lie (layer L1); asks no device to wait.

    AdamW's step counters are state too, counted like the moments unless `counters` is false: torch
    itself keeps them on the host where an optimizer is neither fused nor capturable
    (torch.optim.AdamW, `capturable`), and no training left the GPU for that.
    """
    parameters = list(model.parameters())
    return {
        "parameters": _bytes_by_device(parameters),
        "gradients": _bytes_by_device(gradients),
        "optimizer": _bytes_by_device(
            value
            for state in optimizer.state.values()
            for name, value in state.items()
            if isinstance(value, Tensor) and (counters or name != "step")
        ),
    }


def devices(by_device: dict[str, int]) -> str:
    """The devices of one part of a residency; `cuda:0` if it lies on that alone."""
    return ",".join(sorted(by_device))


def parameter_sha256(model: nn.Module) -> str:
    """SHA-256 over a line a parameter, in the model's order: name, type, shape, SHA-256 of bytes.

    Copies the parameters to the host, one at a time a thread. Bytes are the machine's own order.
    """
    named = list(model.named_parameters())
    # Hashing gives up the interpreter's lock: 1.5 GB in 0.3 s on 8 cores instead of 1 to 3 s.
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        # Shards are gathered here, in one order on all ranks; the threads only hash.
        digests = list(pool.map(_tensor_sha256, (whole(p) for _, p in named)))
    lines = [
        f"{name} {p.dtype} {tuple(p.shape)} {digest}\n"
        for (name, p), digest in zip(named, digests, strict=True)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


CHECKSUM_BITS = 52
"""A double, and so a JSON number, holds every integer of so many bits."""


def checksum(model: nn.Module) -> Tensor:
    """A checksum of the parameters' bits, computed where they lie; an integer below 2^52.

    Bits are summed as integers, so the order of the sum, which a device may choose, has no effect.
    One flipped bit changes it; a permutation within one tensor does not, which `parameter_sha256`
    sees.
    """
    parameters = [p.detach() for p in model.parameters()]
    sums = torch.stack([whole(p).view(torch.int32).sum(dtype=torch.int64) for p in parameters])
    odd = torch.arange(1, 2 * len(parameters), 2, device=sums.device)
    return torch.remainder((sums * odd).sum(), 2**CHECKSUM_BITS)


_STAGED_BYTES = 2**24
"""What a thread copies from a device at once, through memory that the device can write itself."""


def _tensor_sha256(tensor: Tensor) -> str:
    plain = tensor.detach().contiguous().flatten().view(torch.uint8)
    if not plain.is_cuda:
        return hashlib.sha256(plain.numpy().data).hexdigest()
    staged = torch.empty(min(plain.numel(), _STAGED_BYTES), dtype=torch.uint8, pin_memory=True)
    digest = hashlib.sha256()
    for part in torch.split(plain, _STAGED_BYTES):
        own = staged[: part.numel()]
        own.copy_(part)
        digest.update(own.numpy().data)
    return digest.hexdigest()


def _bytes_by_device(tensors: Iterable[Tensor]) -> dict[str, int]:
    total: dict[str, int] = {}
    for tensor in map(_own, tensors):
        total[str(tensor.device)] = total.get(str(tensor.device), 0) + tensor.nbytes
    return total
