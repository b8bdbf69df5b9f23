"""The differentiable pieces of the fused step.

Gradients of weights are written straight into the flat gradient buffer; autograd carries only
the activations. Saved buffers that share storage with the gradients are kept as attributes, since
autograd would take every write into that storage for a change of all its views.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pytest_gates.model.fused import attention_kernels, kernels

aten = torch.ops.aten
_LOG2_E = math.log2(math.e)
ROWS = 64
"""Rows of a tile of attention."""
FILLED = 512
"""So many programs fill a GPU; with fewer, heads that share keys are not left to one program."""
TILE = 8
"""Rows that the norm's backward pass has in flight at once."""
FEW_ROWS = 4096
"""Below so many rows, programs of more than one tile would leave multiprocessors idle."""
BLOCK = 1024
VOCAB_BLOCK = 4096


class Linear(Function):
    """y = x W^T: N IN -> N OUT."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Save the input for the weight's gradient."""
        ctx.save_for_backward(x)
        ctx.weight, ctx.gradient = weight, gradient
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Both products; the weight's lands in the flat buffer."""
        (x,), dy = ctx.saved_tensors, grads[0]
        torch.mm(dy.t(), x, out=ctx.gradient)
        return dy @ ctx.weight, None, None


class AddLinear(Function):
    """y = residual + x W^T, rounded once: N OUT, N IN -> N OUT."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Save the input for the weight's gradient."""
        ctx.save_for_backward(x)
        ctx.weight, ctx.gradient = weight, gradient
        return torch.addmm(residual, x, weight.t())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Both products; the residual's gradient is what came in."""
        (x,), dy = ctx.saved_tensors, grads[0]
        torch.mm(dy.t(), x, out=ctx.gradient)
        return dy, dy @ ctx.weight, None, None


class Norm(Function):
    """RMSNorm, and the rows as they came: N C -> N C, N C.

    Both in one function, so that one pass backward adds up the gradients of both. The weight's
    gradient is left in `partials` (P C), a row a program of the backward kernel: one sum at the
    end of the step serves all norms.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, partials: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """One pass over the rows."""
        rows, width = x.shape
        normed, rstd = torch.empty_like(x), torch.empty(rows, device=x.device)
        kernels.norm_forward[(rows,)](x, weight, normed, rstd, eps, width, num_warps=4)
        ctx.save_for_backward(x, rstd)
        ctx.weight, ctx.partials = weight, partials
        ctx.set_materialize_grads(False)  # the last norm's rows go nowhere
        return x, normed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One pass over the rows."""
        grad_x, grad_normed = grads
        x, rstd = ctx.saved_tensors
        rows, width = x.shape
        out = torch.empty_like(x)
        add = grad_x is not None
        kernels.norm_backward[(ctx.partials.shape[0],)](
            grad_normed, x, ctx.weight, rstd, grad_x if add else grad_normed, out, ctx.partials,
            rows, width, _norm_rows(rows), TILE, add, num_warps=4,
        )  # fmt: skip
        return out, None, None, None


def _norm_rows(rows: int) -> int:
    return TILE if rows < FEW_ROWS else 2 * TILE


def norm_programs(rows: int) -> int:
    """Programs of the norm's backward pass over so many rows."""
    return -(-rows // _norm_rows(rows))


Shape = tuple[int, int, int, int, int]
"""B, T, H, K, D."""


class Attention(Function):
    """Rotate q and k in place and attend causally: N (H + 2 K) D -> N H D."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, shape: Shape) -> Tensor:
        """Keep the rotated rows, the result, and a number a row."""
        B, T, H, K, D = shape
        block = 1 << (H + K - 1).bit_length()
        kernels.rotate_heads[(B * T,)](qkv, cos, sin, T, H + K, qkv.shape[1], D, block, num_warps=2)
        out = torch.empty(B * T, H * D, dtype=qkv.dtype, device=qkv.device)
        lse = torch.empty(B, H, T, device=qkv.device)
        attention_kernels.attention_forward[(-(-T // ROWS), B * H)](
            qkv, out, lse, T, _LOG2_E / math.sqrt(D), H, K, D, ROWS, ROWS, T % ROWS == 0,
            num_warps=4, num_stages=3,
        )  # fmt: skip
        # Not as attributes: a result that its own function holds is freed by the collector alone.
        ctx.save_for_backward(qkv, out, lse, cos, sin)
        ctx.shape = shape
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of q and k (rotated back) and v side by side, as `qkv` holds them."""
        (qkv, out, lse, cos, sin), (B, T, H, K, D) = ctx.saved_tensors, ctx.shape
        packed, deltas = torch.empty_like(qkv), torch.empty_like(lse)
        root, whole, blocks = 1 / math.sqrt(D), T % ROWS == 0, -(-T // ROWS)
        scale = _LOG2_E * root
        attention_kernels.attention_backward_queries[(blocks, B * H)](
            qkv, out, grads[0], lse, deltas, packed, cos, sin, T, scale, root, H, K, D, ROWS, ROWS,
            whole, num_warps=4, num_stages=2,
        )  # fmt: skip
        split, rows = (1, ROWS // 2) if blocks * B * K >= FILLED else (H // K, ROWS)
        parts = torch.empty(split, 2, B, T, K, D, device=qkv.device) if split > 1 else lse
        attention_kernels.attention_backward_keys[(blocks, B * K * split)](
            qkv, grads[0], lse, deltas, packed, parts, cos, sin, T, scale, root, H, K, D, rows,
            ROWS, split, whole, num_warps=4, num_stages=2 if split > 1 else 3, maxnreg=168,
        )  # fmt: skip
        if split > 1:
            attention_kernels.sum_key_gradients[(2 * blocks, B * K)](
                parts, packed, cos, sin, T, B * T * K * D, H, K, D, split, ROWS // 2
            )
        return packed, None, None, None


class SwiGlu(Function):
    """SiLU(gate) * up: N 2F -> N F."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        """Gate and up side by side."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
        kernels.swiglu_forward[(rows, -(-width // BLOCK))](gate_up, out, width, BLOCK, num_warps=4)
        ctx.gate_up = gate_up
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """In place over the values of the forward pass."""
        gate_up, dy = ctx.gate_up, grads[0]
        rows, width = dy.shape
        kernels.swiglu_backward[(rows, -(-width // BLOCK))](dy, gate_up, width, BLOCK, num_warps=4)
        return gate_up


class HeadLoss(Function):
    """Mean cross-entropy over a padded vocabulary: N C -> scalar."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gradient: Tensor, targets: Tensor, vocab: int
    ) -> Tensor:
        """The logits' gradient replaces the logits at once: they are never written in fp32."""
        logits = x @ weight.t()  # N VP
        rows, padded = logits.shape
        losses = torch.empty(rows, device=x.device)
        kernels.cross_entropy[(rows,)](
            logits, targets, losses, vocab, padded, 1.0 / rows, VOCAB_BLOCK, num_warps=8
        )
        ctx.save_for_backward(x)
        ctx.rest = weight, gradient, logits
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, *_grads: Any) -> Any:
        """Both products of the output projection."""
        (x,) = ctx.saved_tensors
        weight, gradient, dlogits = ctx.rest
        torch.mm(dlogits.t(), x, out=gradient)
        return dlogits @ weight, None, None, None, None


class Embed(Function):
    """Look up: N -> N C. `anchor` is a scalar that gives autograd something to start from."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, tokens: Tensor, weight: Tensor, gradient: Tensor
    ) -> Tensor:
        """Rows of the embedding."""
        ctx.save_for_backward(tokens, anchor)
        ctx.gradient = gradient
        return weight[tokens]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Sorted by token, so that equal inputs give equal bytes."""
        tokens, anchor = ctx.saved_tensors
        rows = ctx.gradient.shape[0]
        ctx.gradient.copy_(aten.embedding_dense_backward(grads[0], tokens, rows, -1, False))
        return torch.zeros_like(anchor), None, None, None
