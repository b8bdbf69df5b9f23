"""The public seams of a run: the places where a fault, and nothing else, can reach in.

Seams are chosen before anything is built. A clean run goes through the same calls with the
neutral ones, so that a sabotaged run and its clean control differ in the fault alone. What the
catalogue's faults put here is in `sabotage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from numpy import int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from pytest_gates.model.attention import rotary_tables
from pytest_gates.model.config import Host, Optimizer, PretrainRun
from pytest_gates.model.data import Corpus, Stream
from pytest_gates.model.device import DeviceRequest, parse_device
from pytest_gates.model.loss import next_token_loss
from pytest_gates.model.resolve import environment, resolve
from pytest_gates.model.schedule import learning_rate

Decide = Callable[[int, int, Fraction, Fraction], str]
"""A budget's rule: (samples, bad ones, their rate at the limit, alpha) -> verdict."""
Render = Callable[[str, str, str], str]
"""Write-back: (a contract's text, id of a gate, its verdict) -> the new text."""


def _nothing(_: object) -> None:
    """A neutral seam that only watches."""


_CLIP_EPS = 1e-6
"""What `torch.nn.utils.clip_grad_norm_` adds to the norm before it divides."""


def _clip(parameters: Iterable[Tensor], largest: float) -> Tensor:
    """As `torch.nn.utils.clip_grad_norm_`, which multiplies by 1 where nothing is to be clipped."""
    parameters = list(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    # To look at the norm costs nothing on the CPU, and a wait elsewhere.
    if norm.is_cpu and norm + _CLIP_EPS <= largest:
        return norm
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm, foreach=True)
    return norm


@dataclass(frozen=True, kw_only=True)
class Seams:
    """What a run asks at the places a fault may take over; the defaults are the clean run."""

    resolve_device: Callable[[str, Host], torch.device] = resolve
    """What a device request becomes."""
    compute_device: Callable[[torch.device], torch.device] = lambda device: device
    """Where the resolved device's work is done."""
    environment: Callable[[], dict[str, Any]] = environment
    """What the machine offers, as a probe says it."""
    parse_device: Callable[[str], DeviceRequest] = parse_device
    """The device grammar, as a probe searches it."""
    seed: Callable[[int], int] = lambda seed: seed
    """The seed of every generator."""
    deterministic: Callable[[bool], bool] = lambda declared: declared
    """Whether only deterministic kernels are allowed."""
    configuration: Callable[[PretrainRun], PretrainRun] = lambda declared: declared
    """A training run's settings, as the trainer takes them up."""
    validation: Callable[[Corpus], tuple[Stream, ...]] = lambda corpus: corpus.validation
    """The split that validation reads."""
    budget_rule: Callable[[Decide], Decide] = lambda decide: decide
    """What decides a budget, given the program's own rule, as a probe searches it."""
    write_back: Callable[[Render], Render] = lambda render: render
    """What edits a contract, given the program's own write-back, as a probe searches it."""
    edit_model: Callable[[nn.Module], None] = _nothing
    """Called once with the model as built, before anything is said of it."""
    fed: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda tokens: tokens
    """The tokens a forward path is fed, given those of the prompt."""
    positions: Callable[[int], Sequence[int]] = range
    """The positions of so many tokens, as a forward path is fed them."""
    edit_optimizer: Callable[[torch.optim.Optimizer], None] = _nothing
    """Called once with the optimizer as built."""
    attention: Callable[[SDPBackend], SDPBackend] = lambda backend: backend
    """The attention kernel, given the one that was chosen."""
    rotary: Callable[[int, int, float, Tensor], tuple[Tensor, Tensor]] = rotary_tables
    """Tables of RoPE: (positions, width of a head, base, like)."""
    loss: Callable[[Tensor, Tensor], Tensor] = next_token_loss
    """Mean loss in nats of logits B T V against targets B T."""
    before_step: Callable[[int], None] = _nothing
    """Called on the host before a step is launched."""
    after_step: Callable[[int], None] = _nothing
    """Called on the host after a step was launched."""
    batch: Callable[[int, NDArray[int64]], NDArray[int64]] = lambda _, tokens: tokens
    """The tokens of a step, B (T + 1), given those that were dealt."""
    learning_rate: Callable[[int, int, Optimizer], float] = learning_rate
    """The learning rate of a step: (step, steps, settings)."""
    clip: Callable[[Iterable[Tensor], float], Tensor] = _clip
    """Scales gradients to a largest norm and returns the norm before."""
    compute: Callable[[int, Callable[[], Tensor]], Tensor] = lambda _, work: work()
    """Carries a step out: its result is loss, gradient norm, learning rate."""
    tell_step: Callable[[dict[str, Any]], dict[str, Any]] = lambda line: line
    """A step's line, as it is told."""
    validation_loss: Callable[[float], float] = lambda loss: loss
    """The validation loss, as it is told."""
    finite: Callable[[Tensor, Tensor], Tensor] = lambda loss, norm: (
        torch.isfinite(loss) & torch.isfinite(norm)
    )
    """The trainer's own guard, on the device: whether loss and norm of a step are finite."""
    weigh: Callable[[int, Sequence[int]], float] = lambda part, parts: part / sum(parts)
    """What a micro-batch of so many sequences counts, beside the sizes of all."""
    rank_of_data: Callable[[int], int] = lambda rank: rank
    """Whose share of a batch a rank reads, of several ranks."""
    gradient_divisor: Callable[[int], float] = float
    """What the sum of so many ranks' gradients is divided by."""
    reduces: Callable[[int], bool] = lambda rank: True
    """Whether a rank's gradients meet those of the others (`ddp`)."""
    divergence: Callable[[str | None], str | None] = lambda why: why
    """The trainer's own guard: why a validation loss ends the run, or None."""
    halt: Callable[[bool], bool] = lambda declared: declared
    """The trainer's own guard: whether the run ends where its data does."""
    config_match: Callable[[str | None], str | None] = lambda why: why
    """The trainer's own guard: why a checkpoint is not of such a run, or None."""
    hash_check: Callable[[str | None], str | None] = lambda why: why
    """The trainer's own guard: why a checkpoint's bytes are not those written, or None."""
    restored: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda state: state
    """The tensors that a checkpoint fills, by name, given all of the run's."""
    before_copy: Callable[[], None] = lambda: None
    """Called on the host before a checkpoint's state is copied."""

    @property
    def within_step(self) -> tuple[str, ...]:
        """Seams that are taken over and lie in model, loss, backward pass, clip or update.

        A fused step, which is captured once, goes through none of these.
        """
        return tuple(name for name in _WITHIN if getattr(self, name) is not getattr(CLEAN, name))


_WITHIN = (
    "edit_model", "edit_optimizer", "attention", "rotary", "loss", "clip", "finite", "weigh",
)  # fmt: skip

CLEAN = Seams()
"""The neutral seams."""
