"""The forward path: one prompt through the model, seen slot by slot.

Statistics are computed on the device as the pass reaches each slot, and read back once at its
end, so that looking does not put a synchronisation into every layer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel

from pytest_gates.model.built import built, compute_dtype
from pytest_gates.model.config import ForwardRun, Request
from pytest_gates.model.control import Control
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.transformer import Observe, Transformer, attention_backend
from pytest_gates.model.writer import TelemetryWriter


def run(request: Request, device: torch.device, writer: TelemetryWriter, seams: Seams) -> None:
    """Feed the prompt and search the declared properties; a normal return is status COMPLETED.

    Raises:
        torch.OutOfMemoryError: the device's memory ran out.
    """
    declared = request.run
    assert isinstance(declared, ForwardRun)
    Control(request.control).show_allocations(request.allocations_mib, device, writer)
    model = built(declared, device, writer, seams).eval()
    dtype = compute_dtype(declared.dtype, device)
    backend = seams.attention(attention_backend(declared.architecture, device, dtype))
    writer.fact("attention_backend", backend.name)
    with sdpa_kernel(backend):
        path = ForwardPath(model, device, dtype)
        trace(path, list(declared.prompt.encode()), writer)
        if declared.properties:
            search_properties(path, declared, writer, request.known, seams)


class ForwardPath:
    """A model fed one sequence at a time, without gradients, in the run's compute type."""

    def __init__(self, model: Transformer, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model, device, dtype

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters by their names."""
        return dict(self._model.named_parameters())

    def __call__(self, tokens: Sequence[int], observe: Observe | None = None) -> Tensor:
        """Logits of shape (T, V), on the device, for T tokens."""
        return self.batch([tokens], observe)[0]

    @torch.no_grad()
    def batch(self, sequences: Sequence[Sequence[int]], observe: Observe | None = None) -> Tensor:
        """Logits of shape (B, T, V), on the device, for B sequences of one length T."""
        batch = torch.tensor(sequences, dtype=torch.int64, device=self._device)  # B T
        low = self._dtype != torch.float32
        with torch.autocast(self._device.type, self._dtype, enabled=low):
            logits: Tensor = self._model(batch, observe)  # B T V
        return logits


def trace(path: ForwardPath, tokens: list[int], writer: TelemetryWriter) -> None:
    """Feed one sequence, and say each slot's statistics and the facts of the pass.

    Facts: `tokens` (count), `tokens_sha256` and `positions_sha256` (as little-endian int64),
    `logits_sha256` (as little-endian float32, which holds bf16 exactly) and `prompt_loss`: the
    mean cross-entropy of each next token in nats, near ln(vocabulary) for a fresh model, and None
    for a single token, which has no next one.
    """
    slots = SlotStatistics()
    logits = path(tokens, slots).float()  # T V
    slots.write(writer)
    fed = torch.tensor(tokens)
    writer.fact("tokens", len(tokens))
    writer.fact("tokens_sha256", _sha256(fed))
    writer.fact("positions_sha256", _sha256(torch.arange(len(tokens))))
    writer.fact("logits_sha256", _sha256(logits))
    following = fed[1:].to(logits.device)
    loss = F.cross_entropy(logits[:-1], following).item() if len(tokens) > 1 else None
    writer.fact("prompt_loss", loss)


def search_properties(
    path: ForwardPath,
    declared: ForwardRun,
    writer: TelemetryWriter,
    known: Mapping[str, Sequence[dict[str, Any]]],
    seams: Seams = CLEAN,
) -> None:
    """Search each declared property of the path, beginning with what is known to have failed."""
    # hypothesis is imported only where a property is declared
    from pytest_gates.model.properties.of_models import OF_A_MODEL, Subject  # noqa: PLC0415
    from pytest_gates.model.properties.search import search  # noqa: PLC0415

    subject = Subject(
        declared.architecture, path, path.batch, path.weights, seams.rotary, seams.loss
    )
    for wanted in declared.properties:
        sought = OF_A_MODEL[wanted.name](wanted, subject)
        writer.property(**vars(search(wanted.name, sought, known.get(wanted.name, ()))))


STATISTICS = ("mean", "std", "rms", "abs_max", "zeros_pct", "non_finite")
"""What is said of each slot, in this order in `slot_statistics`."""


@torch.no_grad()
def slot_statistics(activations: Tensor) -> Tensor:
    """`STATISTICS` of all elements of one slot, as a float64 vector on the slot's own device.

    The standard deviation is that of the population. Sums are taken in float64, so that large
    activations do not overflow. A non-finite activation shows in the figures that it spoils.
    """
    x = activations.float()
    root_count = math.sqrt(x.numel())
    mean = x.mean(dtype=torch.float64)
    return torch.stack(
        (
            mean,
            torch.linalg.vector_norm(x - mean, dtype=torch.float64) / root_count,
            torch.linalg.vector_norm(x, dtype=torch.float64) / root_count,
            torch.linalg.vector_norm(x, ord=math.inf, dtype=torch.float64),
            (x == 0).sum().double() * (100 / x.numel()),
            (~x.isfinite()).sum().double(),
        )
    )


class SlotStatistics:
    """An observer of a forward pass: keeps a vector a slot on the device until it is asked."""

    def __init__(self) -> None:
        self._places: list[tuple[int, str]] = []
        self._vectors: list[Tensor] = []

    def __call__(self, layer: int, slot: str, activations: Tensor) -> None:
        """Look at one slot; nothing waits for the device."""
        self._places.append((layer, slot))
        self._vectors.append(slot_statistics(activations))

    def write(self, writer: TelemetryWriter) -> None:
        """Read everything back, once, and say a line a slot, in the order of the pass."""
        rows = torch.stack(self._vectors).tolist()
        for (layer, slot), row in zip(self._places, rows, strict=True):
            writer.slot(layer=layer, slot=slot, **dict(zip(STATISTICS, row, strict=True)))


def _sha256(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(
        plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes()
    ).hexdigest()
