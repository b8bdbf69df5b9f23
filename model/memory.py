"""What a training run needs of a device's memory, estimated beforehand; without torch."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gates.model.config import PretrainRun

FP32, BF16 = 4, 2
MOMENTS = 2
LANES = 128
"""A fused step pads the vocabulary to a multiple of this, or its products run at half speed."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what they hold. All but the activations are exact; those are an upper bound."""

    parameters: int
    gradients: int
    optimizer: int
    """The two moments of AdamW (arXiv:1711.05101), without its step counters."""
    activations: int
    logits: int
    casts: int
    """bf16 copies of the matrices that autocast keeps during a step."""

    @property
    def total(self) -> int:
        """Upper bound of all tensors at once."""
        return sum(vars(self).values())


def memory_estimate(run: PretrainRun, *, bf16: bool, fused: bool = False) -> MemoryEstimate:
    """Estimate from the declared run, and from the step that it took.

    A fused step holds its gradients in bf16, those of the padded vocabulary included.

    Kept for the backward pass of a token in a block, after arXiv:2205.05198, section 4.1, for this
    model: the two norms' inputs and outputs, q, k, v before and after rotation, what attention
    gives and its projection's input, and gate, up, silu and product of the feed-forward layer. The
    norms and residuals are fp32, the rest is of the compute type; rotation needs as much again
    for its halves. Attention keeps no T x T matrix (a fused kernel).
    """
    shape, size = run.architecture, BF16 if bf16 else FP32
    parameters = FP32 * shape.parameters
    tokens = max(run.micro_sizes) * run.seq_len
    grouped = shape.kv_heads * shape.head_dim
    residual = 6 * shape.hidden * FP32 + 2 * shape.hidden * size
    attention = (4 * (shape.hidden + grouped) + grouped + 2 * shape.hidden) * size
    repeated = 2 * (shape.hidden - grouped) * size  # keys and values of every query head
    forward = 5 * shape.intermediate * size
    layer = residual + attention + repeated + forward
    # Logits, their fp32 softmax, and the gradients of both live at the same time.
    logits = tokens * shape.vocab * (2 * size + 3 * FP32)
    padding = -shape.vocab % LANES * shape.hidden
    return MemoryEstimate(
        parameters=parameters,
        gradients=BF16 * (shape.parameters + padding) if fused else parameters,
        optimizer=MOMENTS * parameters,
        activations=tokens * shape.layers * layer,
        logits=logits,
        casts=BF16 * shape.parameters if bf16 else 0,
    )
