"""The differentiable pieces of the fused step.

Gradients of weights are written straight into the flat gradient buffer; autograd carries only
the activations. Saved buffers that share storage with the gradients are kept as attributes, since
autograd would take every write into that storage for a change of all its views.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pytest_gates.model.fused import kernels

aten = torch.ops.aten
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


class AddNorm(Function):
    """residual = x + delta; normed = RMSNorm(residual): N C, N C -> N C, N C.

    The weight's gradient is left in `partials` (P C), a row a program of the backward kernel: one
    sum at the end of the step serves all norms.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, partials: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """One pass over the rows."""
        rows, width = x.shape
        add = delta is not None
        residual = torch.empty_like(x) if add else x
        normed, rstd = torch.empty_like(x), torch.empty(rows, device=x.device)
        kernels.add_norm_forward[(rows,)](
            x, delta if add else x, weight, residual, normed, rstd, eps, width, add, num_warps=4
        )
        ctx.save_for_backward(residual, rstd)
        ctx.weight, ctx.partials, ctx.add = weight, partials, add
        return residual, normed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One pass over the rows."""
        grad_residual, grad_normed = grads
        residual, rstd = ctx.saved_tensors
        rows, width = residual.shape
        programs = ctx.partials.shape[0]
        grad_x = torch.empty_like(residual)
        add = grad_residual is not None
        kernels.add_norm_backward[(programs,)](
            grad_normed, residual, ctx.weight, rstd, grad_residual if add else grad_normed, grad_x,
            ctx.partials, rows, width, _norm_rows(rows), TILE, add,
            num_warps=4,
        )  # fmt: skip
        return grad_x, (grad_x if ctx.add else None), None, None, None


def _norm_rows(rows: int) -> int:
    return TILE if rows < FEW_ROWS else 2 * TILE


def norm_programs(rows: int) -> int:
    """Programs of the norm's backward pass over so many rows."""
    return -(-rows // _norm_rows(rows))


Shape = tuple[int, int, int, int, int]
"""B, T, H, K, D."""


def _rotated(qkv: Tensor, cos: Tensor, sin: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate q and k in place; q, k and v as B H T D, B K T D and B K T D."""
    B, T, H, K, D = shape
    heads, width = H + K, (H + 2 * K) * D
    block = 1 << (heads - 1).bit_length()
    kernels.rotate_heads[(B * T,)](qkv, cos, sin, T, heads, width, D, block, num_warps=2)
    parts = qkv.view(B, T, H + 2 * K, D).split((H, K, K), dim=2)
    q, k, v = (part.transpose(1, 2) for part in parts)
    return q, k, v


def _packed(grads: tuple[Tensor, ...], cos: Tensor, sin: Tensor, shape: Shape) -> Tensor:
    """Gradients of q, k (rotated back) and v side by side: N (H + 2 K) D."""
    B, T, H, K, D = shape
    packed = torch.empty(B * T, (H + 2 * K) * D, dtype=grads[0].dtype, device=grads[0].device)
    strides = [part.stride(axis) for part in grads for axis in (0, 2, 1)]
    kernels.pack_gradients[(B * T,)](*grads, packed, cos, sin, T, *strides, H, K, D, num_warps=2)
    return packed


class CudnnAttention(Function):
    """Rotate q and k in place and attend causally: N (H + 2 K) D -> N H D.

    The fastest there is on Hopper; its backward pass adds up in an order of its own each time.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, shape: Shape) -> Tensor:
        """Keep what the backward pass asks for."""
        q, k, v = _rotated(qkv, cos, sin, shape)
        out, lse, cq, ck, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, True, False
        )
        ctx.save_for_backward(q, k, v, out, lse, seed, offset, cos, sin)
        ctx.shape, ctx.rest = shape, (cq, ck, max_q, max_k)
        B, T, H, _, D = shape
        return out.transpose(1, 2).reshape(B * T, H * D)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The backward pass of cuDNN, then all three gradients packed in one pass."""
        B, T, H, _, D = ctx.shape
        q, k, v, out, lse, seed, offset, cos, sin = ctx.saved_tensors
        dy = grads[0].view(B, T, H, D).transpose(1, 2)
        found = aten._scaled_dot_product_cudnn_attention_backward(
            dy, q, k, v, out, lse, seed, offset, None, *ctx.rest, 0.0, True
        )
        return _packed(found, cos, sin, ctx.shape), None, None, None


class FlashAttention(Function):
    """The same by flash attention (arXiv:2307.08691), which has a deterministic backward pass."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, shape: Shape) -> Tensor:
        """Keep what the backward pass asks for."""
        q, k, v = _rotated(qkv, cos, sin, shape)
        out, lse, cq, ck, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, True, False
        )
        ctx.save_for_backward(q, k, v, out, lse, seed, offset, cos, sin)
        ctx.shape, ctx.rest = shape, (cq, ck, max_q, max_k)
        B, T, H, _, D = shape
        return out.transpose(1, 2).reshape(B * T, H * D)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Deterministic where torch is told to be; then the gradients packed in one pass."""
        B, T, H, _, D = ctx.shape
        q, k, v, out, lse, seed, offset, cos, sin = ctx.saved_tensors
        dy = grads[0].view(B, T, H, D).transpose(1, 2)
        found = aten._scaled_dot_product_flash_attention_backward(
            dy, q, k, v, out, lse, *ctx.rest, 0.0, True, seed, offset
        )
        return _packed(found, cos, sin, ctx.shape), None, None, None


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
