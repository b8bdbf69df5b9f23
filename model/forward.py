"""The forward path: one prompt through the model, seen slot by slot.

Statistics are computed on the device as the pass reaches its slots, and read back once at its end,
so that looking does not put a synchronisation into every layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytest_gates.model.attention import Cache
from pytest_gates.model.built import assembled, compute_dtype, from_seed
from pytest_gates.model.clock import CudaClock
from pytest_gates.model.config import ForwardRun, Request
from pytest_gates.model.control import Control
from pytest_gates.model.oracle import Weight
from pytest_gates.model.parity import (
    Distances,
    Forced,
    Reference,
    compare_gradients,
    parameter_difference,
    shape_difference,
)
from pytest_gates.model.prompt import Fed, Input, fed, refuse_unfit
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.slot_statistics import SlotStatistics
from pytest_gates.model.slots import GRADIENT
from pytest_gates.model.transformer import Observe, Transformer, attention_backend
from pytest_gates.model.weights import Weights, open_weights, refused
from pytest_gates.model.writer import TelemetryWriter


def run(request: Request, device: torch.device, writer: TelemetryWriter, seams: Seams) -> None:
    """Trace the prompt, and whatever else is declared; a normal return is status COMPLETED.

    Fact, on CUDA: `peak_mib`, the most that tensors held at once.

    Raises:
        RunRefusedError: CONFIG_REFUSED, weights, tokenizer or prompt cannot serve.
        torch.OutOfMemoryError: the device's memory ran out.
    """
    declared, root = request.run, Path(request.root)
    assert isinstance(declared, ForwardRun)
    Control(request.control).show_allocations(request.allocations_mib, device, writer)
    weights = None if declared.weights is None else open_weights(root, declared.weights)
    shape = declared.architecture if weights is None else weights.architecture
    assert shape is not None
    prompt = fed(declared.prompt, declared.tokenizer, weights.tokenizer if weights else None, root)
    refuse_unfit(prompt, shape, declared.decode)
    model = assembled(declared, weights, device, writer, seams)
    say_prompt(prompt, writer)
    dtype = compute_dtype(declared.matmul_dtype, device)
    backend = seams.attention(attention_backend(shape, device, dtype))
    writer.fact("attention_backend", backend.name)
    path = ForwardPath(model, device, dtype, backend)
    if declared.compiled:
        from pytest_gates.model.compiled import CompiledBlocks  # noqa: PLC0415 - 0.8 s or more

        model.model.run_block = CompiledBlocks()
    tokens = seams.fed(prompt.tokens)
    given = Input(tokens, tuple(seams.positions(len(tokens))))
    seams.before_step(0)
    slots = look(path, given, writer, sketch=declared.sketch)
    if declared.against is None:
        slots.write(writer)
    else:
        other = _reference(declared, weights, prompt, root=root, device=device, writer=writer)
        compare(path, slots, given, other, writer)
        if declared.against.backward:
            compare_backward(path, given, other, writer)
    if declared.properties:
        search_properties(path, declared, writer, request.known, seams)
    if declared.decode is not None:
        from pytest_gates.model.decode import decode  # noqa: PLC0415 - only where declared

        decode(path, declared, tokens, writer, seams)
    if device.type == "cuda":
        writer.fact("peak_mib", CudaClock(device).peak_mib())


@dataclass(frozen=True)
class ForwardPath:
    """A model fed sequences of one length, in the run's compute type."""

    model: Transformer
    device: torch.device
    dtype: torch.dtype
    backend: SDPBackend | None = None

    def __call__(self, tokens: Sequence[int], observe: Observe | None = None) -> Tensor:
        """Logits of shape (T, V), on the device, for T tokens."""
        return self.batch([tokens], observe)[0]

    def feed(self, given: Input, observe: Observe | None = None) -> Tensor:
        """The same at the positions that are given."""
        return self.batch([given.tokens], observe, positions=self._at(given))[0]

    def _at(self, given: Input) -> Tensor:
        return torch.tensor(given.positions, device=self.device)

    @torch.no_grad()
    def batch(
        self,
        sequences: Sequence[Sequence[int]],
        observe: Observe | None = None,
        *,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits of shape (B, T, V), on the device; see `Transformer.forward`."""
        batch = torch.tensor(sequences, dtype=torch.int64, device=self.device)  # B T
        with self.context():
            logits: Tensor = self.model(
                batch, observe, positions=positions, valid=valid, cache=cache
            )
        return logits

    @contextmanager
    def context(self) -> Iterator[None]:
        """The compute type and attention kernel, around any pass."""
        kernel = nullcontext() if self.backend is None else sdpa_kernel(self.backend)
        with kernel, torch.autocast(self.device.type, self.dtype, enabled=self._casts):
            yield

    @cached_property
    def _casts(self) -> bool:
        """Whether there is anything to cast: not where parameters are of the compute type."""
        return self.dtype != torch.float32 and any(
            p.dtype != self.dtype for p in self.model.parameters()
        )

    def gradients(self, given: Input) -> dict[str, Tensor]:
        """Gradients of the mean next-token loss, by parameter, of one sequence."""
        batch = torch.tensor([given.tokens], dtype=torch.int64, device=self.device)
        self.model.zero_grad()
        with torch.enable_grad(), self.context():
            logits = self.model(batch, positions=self._at(given))[0]
        torch.autograd.backward(F.cross_entropy(logits[:-1].float(), batch[0, 1:]))
        # A parameter that the loss never reached has a gradient too: zero.
        found = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in self.model.named_parameters()
        }
        self.model.zero_grad()
        return found


def say_prompt(given: Fed, writer: TelemetryWriter, side: str = "") -> None:
    """Say what tokenised the prompt: `tokenizer`, `tokenizer_vocab` and `tokenizer_sha256`."""
    writer.fact(f"{side}tokenizer", given.tokenizer)
    writer.fact(f"{side}tokenizer_vocab", given.vocab)
    writer.fact(f"{side}tokenizer_sha256", given.sha256)


def look(
    path: ForwardPath, given: Input, writer: TelemetryWriter, *, sketch: bool = False
) -> SlotStatistics:
    """Feed one sequence under observation, and say the facts of the pass.

    Facts: `tokens` (count), `tokens_sha256` and `positions_sha256` (as little-endian int64),
    `shapes_sha256` (over each slot's shape), `logits_sha256` (as little-endian float32, which
    holds bf16 exactly) and `prompt_loss`: the mean cross-entropy of each next token in nats, near
    ln(vocabulary) for a fresh model, and None for a single token, which has no next one.
    """
    slots = SlotStatistics(sketch=sketch)
    tokens = given.tokens
    logits = path.feed(given, slots).float()  # T V
    _say_fed("", given, writer)
    writer.fact("shapes_sha256", slots.shapes_sha256)
    writer.fact("logits_sha256", _sha256(logits))
    following = torch.tensor(tokens)[1:].to(logits.device)
    loss = F.cross_entropy(logits[:-1], following).item() if len(tokens) > 1 else None
    writer.fact("prompt_loss", loss)
    return slots


def _say_fed(side: str, given: Input, writer: TelemetryWriter) -> None:
    writer.fact(f"{side}tokens", len(given.tokens))
    writer.fact(f"{side}tokens_sha256", _sha256(torch.tensor(given.tokens)))
    writer.fact(f"{side}positions_sha256", _sha256(torch.tensor(given.positions)))


def _reference(
    declared: ForwardRun,
    own: Weights | None,
    prompt: Fed,
    *,
    root: Path,
    device: torch.device,
    writer: TelemetryWriter,
) -> Reference:
    """The other side: weights and tokenizer of its own, or the run's, before any fault.

    Facts: what `say_prompt` says, and `reference_weight_types`.
    """
    against = declared.against
    assert against is not None
    weights = own if against.weights is None else open_weights(root, against.weights)
    beside = None if against.weights is None or weights is None else weights.tokenizer
    if against.tokenizer is None and beside is None:
        its_prompt = prompt
    else:
        its_prompt = fed(declared.prompt, against.tokenizer, beside, root)
    say_prompt(its_prompt, writer, "reference_")
    weight: Weight
    if weights is None:
        clean = from_seed(declared, device, declared.seed)
        shape, weight = clean.architecture, clean.get_parameter
    else:
        shape, weight = weights.architecture, weights.read
        writer.fact("reference_weight_types", ",".join(sorted(weights.types)))
    refuse_unfit(its_prompt, shape)
    if against.backward and len(its_prompt.tokens) == 1:
        raise refused("the prompt is a single token: no next one, no loss, and no gradients")
    return Reference(shape, weight, Input.of(its_prompt.tokens), device)


def compare(
    path: ForwardPath,
    slots: SlotStatistics,
    given: Input,
    reference: Reference,
    writer: TelemetryWriter,
) -> None:
    """Say each slot with its statistics and its distances from the reference's.

    Facts of the reference: `reference_tokens`, `reference_tokens_sha256`,
    `reference_positions_sha256`, `reference_shapes_sha256`, `reference_logits_sha256`, and
    `shape_difference`, the first in words. Where the inputs differ no distance is said: it would
    prove nothing.
    """
    expected = reference.slots()
    different, digest = shape_difference(slots, expected)
    _say_fed("reference_", reference.fed, writer)
    writer.fact("reference_shapes_sha256", digest)
    writer.fact("reference_logits_sha256", _sha256(expected[-1, "logits"].float()))
    writer.fact("shape_difference", different)
    if different is not None or given != reference.fed:
        slots.write(writer)
        return
    free, forced = Distances(expected), Forced(expected)
    path.feed(given, free)
    path.feed(given, forced)
    inherited, own = free.read(), forced.read()
    for row in slots.rows():
        place = (int(row["layer"]), str(row["slot"]))
        writer.slot(**row, rel_l2=inherited[place], own_rel_l2=own[place])  # type: ignore[arg-type]  # the fields of `slot` are in it


def compare_backward(
    path: ForwardPath, given: Input, reference: Reference, writer: TelemetryWriter
) -> None:
    """Say each parameter's gradient as a slot `grad <name>`, in the order of a backward pass.

    Fact: `parameter_difference`, the first in words; where there is one, nothing is compared.
    """
    if given != reference.fed:
        return
    mine = {name: tuple(one.shape) for name, one in path.model.named_parameters()}
    different = parameter_difference(mine, reference.architecture.shapes())
    writer.fact("parameter_difference", different)
    if different is not None:
        return
    found = path.gradients(given)
    slots = SlotStatistics()
    compared = compare_gradients(found, reference.gradients())
    for gradient in compared:
        parts = gradient.name.split(".")
        inside = parts[1] == "layers"
        name = ".".join(parts[3:] if inside else parts[-2:])
        slots(int(parts[2]) if inside else -1, GRADIENT + name, found[gradient.name])
    for row, gradient in zip(slots.rows(), compared, strict=True):
        writer.slot(
            **row,  # type: ignore[arg-type]  # the fields of `slot` are in it
            rel_l2=gradient.rel_l2,
            grad_ratio=gradient.ratio,
            grad_cosine=gradient.cosine,
        )


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
    from pytest_gates.model.properties.of_paths import OF_A_PATH  # noqa: PLC0415
    from pytest_gates.model.properties.search import search  # noqa: PLC0415

    weights = dict(path.model.named_parameters())
    shape = path.model.architecture
    subject = Subject(shape, path, path.batch, weights, seams.rotary, seams.loss)
    for wanted in declared.properties:
        of_a_path = OF_A_PATH.get(wanted.name)
        made = of_a_path(wanted, path) if of_a_path else OF_A_MODEL[wanted.name](wanted, subject)
        writer.property(**vars(search(wanted.name, made, known.get(wanted.name, ()))))


def _sha256(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(
        plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes()
    ).hexdigest()
