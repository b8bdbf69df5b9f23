"""The differentiable pieces of the fused step.

Gradients of weights are written straight into the flat gradient buffer (`gradients.py`); autograd
carries only the activations. Saved buffers that share storage with the gradients are kept as
attributes, since autograd would take every write into that storage for a change of all its views.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from triton.tools.tensor_descriptor import TensorDescriptor

from pytest_gates.model.fused import attention_kernels, kernels
from pytest_gates.model.fused.gradients import Gradient, Part

_LOG2_E = math.log2(math.e)
ROWS = 64
"""Rows of a tile of attention."""
FILLED = 512
"""So many programs fill a GPU; with fewer, heads that share keys are not left to one program."""
TILE = 8
"""Rows that the norm's backward pass has in flight at once."""
FEW_ROWS = 4096
"""Below so many rows, programs of more than one tile would leave multiprocessors idle."""
SWIGLU_TILE = 128, 128, 64, 4, 5
"""Rows and columns of a tile, its depth, tiles in a group, and loads under way: the best of 25."""
BLOCK = 1024
VOCAB_BLOCK = 4096
EMBED_ROWS, EMBED_COLUMNS = 8, 1024
"""Rows of one token that are summed at once, and columns of a program."""


class Linear(Function):
    """y = x W^T: N IN -> N OUT."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gradient: Gradient) -> Tensor:
        """Save the input for the weight's gradient."""
        ctx.save_for_backward(x)
        ctx.weight, ctx.gradient = weight, gradient
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Both products; the weight's lands in the flat buffer."""
        (x,), dy = ctx.saved_tensors, grads[0]
        ctx.gradient.take(dy, x)
        return dy @ ctx.weight, None, None


class AddLinear(Function):
    """residual += x W^T, rounded once: N OUT, N IN -> N OUT."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, x: Tensor, weight: Tensor, gradient: Gradient
    ) -> Tensor:
        """In place: a result of its own would begin as a copy. Saves the input."""
        ctx.save_for_backward(x)
        ctx.weight, ctx.gradient = weight, gradient
        ctx.mark_dirty(residual)
        return residual.addmm_(x, weight.t())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Both products; the residual's gradient is what came in."""
        (x,), dy = ctx.saved_tensors, grads[0]
        ctx.gradient.take(dy, x)
        return dy, dy @ ctx.weight, None, None


class Norm(Function):
    """RMSNorm, and a copy of the rows as they came: N C -> N C, N C.

    Both in one function, so that one pass backward adds up the gradients of both. The weight's
    gradient is left in `partials` (P C), a row a program of the backward kernel: one sum at the
    end of the step serves all norms. `normed` and `back` are where the result and the gradient of
    the rows belong, if they are parts of a stack.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        partials: Tensor,
        eps: float,
        normed: Part | None,
        back: Part | None,
    ) -> tuple[Tensor, Tensor]:
        """One pass over the rows."""
        rows, width = x.shape
        out = torch.empty_like(x) if normed is None else normed.inputs()
        copy, rstd = torch.empty_like(x), torch.empty(rows, device=x.device)
        kernels.norm_forward[(rows,)](x, weight, out, copy, rstd, eps, width, num_warps=4)
        ctx.save_for_backward(x, rstd)
        ctx.weight, ctx.partials, ctx.back = weight, partials, back
        ctx.set_materialize_grads(False)  # the last norm's rows go nowhere
        return copy, out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One pass over the rows."""
        grad_x, grad_normed = grads
        x, rstd = ctx.saved_tensors
        rows, width = x.shape
        out = torch.empty_like(x) if ctx.back is None else ctx.back.outputs()
        add = grad_x is not None
        kernels.norm_backward[(ctx.partials.shape[0],)](
            grad_normed, x, ctx.weight, rstd, grad_x if add else grad_normed, out, ctx.partials,
            rows, width, _norm_rows(rows), TILE, add, num_warps=4,
        )  # fmt: skip
        return out, None, None, None, None, None


def _norm_rows(rows: int) -> int:
    return TILE if rows < FEW_ROWS else 2 * TILE


def norm_programs(rows: int) -> int:
    """Programs of the norm's backward pass over so many rows."""
    return -(-rows // _norm_rows(rows))


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count


Shape = tuple[int, int, int, int, int]
"""B, T, H, K, D."""


class Attention(Function):
    """Rotate q and k in place and attend causally: N (H + 2 K) D -> N H D.

    `result` and `back` are where the result and the gradient belong, if they are parts of a stack.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        shape: Shape,
        result: Part | None = None,
        back: Part | None = None,
    ) -> Tensor:
        """Keep the rotated rows, the result, and a number a row."""
        B, T, H, K, D = shape
        block = 1 << (H + K - 1).bit_length()
        kernels.rotate_heads[(B * T,)](qkv, cos, sin, T, H + K, qkv.shape[1], D, block, num_warps=2)
        if result is None:
            out = torch.empty(B * T, H * D, dtype=qkv.dtype, device=qkv.device)
        else:
            out = result.inputs()
        lse = torch.empty(B, H, T, device=qkv.device)
        blocks, scale = -(-T // ROWS), _LOG2_E / math.sqrt(D)
        attention_kernels.attention_forward[(blocks * B * H,)](
            qkv, out, lse, T, scale, blocks, B * H, _processors(qkv), H, K, D, ROWS, ROWS,
            T % ROWS == 0, num_warps=4, num_stages=3,
        )  # fmt: skip
        # Not as attributes: a result that its own function holds is freed by the collector alone.
        ctx.save_for_backward(qkv, out, lse, cos, sin)
        ctx.shape, ctx.back = shape, back
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of q and k (rotated back) and v side by side, as `qkv` holds them."""
        (qkv, out, lse, cos, sin), (B, T, H, K, D) = ctx.saved_tensors, ctx.shape
        packed = torch.empty_like(qkv) if ctx.back is None else ctx.back.outputs()
        deltas = torch.empty_like(lse)
        root, whole, blocks = 1 / math.sqrt(D), T % ROWS == 0, -(-T // ROWS)
        scale, processors = _LOG2_E * root, _processors(qkv)
        many = blocks * B * K >= FILLED
        attention_kernels.attention_backward_queries[(blocks * B * H,)](
            qkv, out, grads[0], lse, deltas, packed, cos, sin, T, scale, root, blocks, B * H,
            processors, H, K, D, ROWS, ROWS, whole, num_warps=4, num_stages=2 if many else 3,
        )  # fmt: skip
        split, rows = (1, ROWS // 2) if many else (H // K, ROWS)
        parts = torch.empty(split, 2, B, T, K, D, device=qkv.device) if split > 1 else lse
        attention_kernels.attention_backward_keys[(blocks * B * K * split,)](
            qkv, grads[0], lse, deltas, packed, parts, cos, sin, T, scale, root, blocks,
            B * K * split, processors, H, K, D, rows, ROWS, split, whole, num_warps=4,
            num_stages=2 if split > 1 else 3, maxnreg=168,
        )  # fmt: skip
        if split > 1:
            attention_kernels.sum_key_gradients[(2 * blocks, B * K)](
                parts, packed, cos, sin, T, B * T * K * D, H, K, D, split, ROWS // 2
            )
        return packed, None, None, None, None, None


class AddSwiGlu(Function):
    """residual += (SiLU(gate) * up) W^T, rounded once: N C, N 2F -> N C."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, gate_up: Tensor, weight: Tensor, gradient: Gradient
    ) -> Tensor:
        """In place, as `AddLinear`. Gate and up side by side."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        x = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
        kernels.swiglu_forward[(rows, -(-width // BLOCK))](gate_up, x, width, BLOCK, num_warps=4)
        ctx.rest = gate_up, x, weight, gradient
        ctx.mark_dirty(residual)
        return residual.addmm_(x, weight.t())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """In place over gate and up; the gradient of their product is never written."""
        (gate_up, x, weight, gradient), dy = ctx.rest, grads[0]
        gradient.take(dy, x)
        (rows, width), hidden = x.shape, dy.shape[1]
        height, side, depth, group, stages = SWIGLU_TILE
        tiles = -(-rows // height) * -(-width // side)
        programs = min(tiles, _processors(dy))
        place = (rows, width), (2 * width, 1), (height, side)
        kernels.swiglu_backward[(programs,)](
            TensorDescriptor.from_tensor(dy, [height, depth]),
            TensorDescriptor.from_tensor(weight, [depth, side]),
            TensorDescriptor(gate_up, *map(list, place)),
            TensorDescriptor(gate_up[:, width:], *map(list, place)),
            rows, width, hidden, programs, height, side, depth, group,
            num_warps=8, num_stages=stages,
        )  # fmt: skip
        return dy, gate_up, None, None


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
        dy, (rows, width) = grads[0], grads[0].shape
        ordered, order = torch.sort(tokens.int(), stable=True)
        columns = min(EMBED_COLUMNS, width)
        ctx.gradient.zero_()
        kernels.embedding_backward[(rows, width // columns)](
            dy, ordered, order, ctx.gradient, rows, width, EMBED_ROWS, columns, num_warps=4
        )
        return torch.zeros_like(anchor), None, None, None
