"""The forward path: one prompt through the model, seen slot by slot.

Statistics are computed on the device as the pass reaches each slot, and read back once at its
end, so that looking does not put a synchronisation into every layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel

from pytest_gates.model.built import built, compute_dtype
from pytest_gates.model.config import ForwardRun, Request
from pytest_gates.model.control import Control
from pytest_gates.model.seams import Seams
from pytest_gates.model.slot_statistics import SlotStatistics
from pytest_gates.model.transformer import Observe, Transformer, attention_backend
from pytest_gates.model.writer import TelemetryWriter


def run(request: Request, device: torch.device, writer: TelemetryWriter, _seams: Seams) -> None:
    """Feed the prompt and search the declared properties; a normal return is status COMPLETED.

    A pass has no seam of its own: the device, the only one, is resolved by now.

    Raises:
        torch.OutOfMemoryError: the device's memory ran out.
    """
    declared = request.run
    assert isinstance(declared, ForwardRun)
    Control(request.control).show_allocations(request.allocations_mib, device, writer)
    model = built(declared, device, writer).eval()
    dtype = compute_dtype(declared.dtype, device)
    backend = attention_backend(declared.architecture, device, dtype)
    writer.fact("attention_backend", backend.name)
    with sdpa_kernel(backend):
        path = ForwardPath(model, device, dtype)
        trace(path, list(declared.prompt.encode()), writer)
        if declared.properties:
            search_properties(path, declared, writer)


class ForwardPath:
    """A model fed one sequence at a time, without gradients, in the run's compute type."""

    def __init__(self, model: Transformer, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model, device, dtype

    @torch.no_grad()
    def __call__(self, tokens: Sequence[int], observe: Observe | None = None) -> Tensor:
        """Logits of shape (T, V), on the device, for T tokens."""
        batch = torch.tensor([tokens], dtype=torch.int64, device=self._device)  # 1 T
        low = self._dtype != torch.float32
        with torch.autocast(self._device.type, self._dtype, enabled=low):
            logits: Tensor = self._model(batch, observe)  # 1 T V
        return logits[0]


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
    writer.fact("shapes_sha256", slots.shapes_sha256)
    writer.fact("logits_sha256", _sha256(logits))
    following = fed[1:].to(logits.device)
    loss = F.cross_entropy(logits[:-1], following).item() if len(tokens) > 1 else None
    writer.fact("prompt_loss", loss)


def search_properties(path: ForwardPath, declared: ForwardRun, writer: TelemetryWriter) -> None:
    """Search each declared property of the path for a counterexample."""
    from pytest_gates.model import properties  # noqa: PLC0415 - hypothesis: only where declared

    for wanted in declared.properties:
        sought = properties.OF_A_MODEL[wanted.name](wanted, path, declared.architecture.vocab)
        writer.property(**vars(properties.search(wanted.name, sought)))


def _sha256(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(
        plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes()
    ).hexdigest()
