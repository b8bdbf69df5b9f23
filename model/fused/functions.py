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
from triton.experimental.gluon.language import NVMMASharedLayout, bfloat16
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from pytest_gates.model.fused import (
    attention_kernels,
    feed_forward_kernels,
    kernels,
    loss_kernels,
)
from pytest_gates.model.fused.gradients import Gradient, Part
from pytest_gates.model.fused.launch import launch

_LOG2_E = math.log2(math.e)
ROWS = 64
"""Rows of a tile of attention."""
FILLED = 512
"""So many programs fill a GPU; with fewer, heads that share keys are not left to one program."""
TILE = 2
"""Rows that a program of the norm's backward pass takes at once."""
NORMING = 2
"""Programs of it on a multiprocessor."""
SWIGLU_ROWS, HALF, SWIGLU_DEPTH = 128, 64, 64
"""Rows of a tile of the feed-forward layer, half of its columns, and the depth of a step."""
GROUP = 2
"""Rows of such tiles that are taken together."""
FORWARD_STAGES, BACKWARD_STAGES, SLOTS = 5, 4, 3
"""Steps under way, and halves of tiles; with them shared memory is full (224 KiB)."""
WARPS_REGISTERS = 168
"""Registers of a thread at the start of 12 warps; those that multiply take over from the others."""
ROW_BYTES = 106 * 1024
"""A row of logits up to this is kept in shared memory: two fit into a multiprocessor's 227 KiB."""
VOCAB_BLOCK, SHARED_BLOCK, SHARED_WARPS = 8192, 4096, 8
ROTATED_ROWS = 8
"""Rows whose keys a program rotates."""
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
    """RMSNorm, and the rows as they came, to be added to in place: N C -> N C, N C.

    Both in one function, so that one pass backward adds up the gradients of both. It needs the
    normed rows alone, which the product after keeps anyway. The weight's gradient is left in
    `partials` (P C), a row a program of the backward kernel: one sum at the end of the step serves
    all norms. `normed` and `back` are where the result and the gradient of the rows belong, if
    they are parts of a stack.
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
        rstd = torch.empty(rows, device=x.device)
        launch(kernels.norm_forward, (rows,), x, weight, out, rstd, eps, width, num_warps=2)
        ctx.mark_dirty(x)  # it is not; but what an in-place function returns is no copy and no view
        ctx.save_for_backward(out, rstd)
        ctx.weight, ctx.partials, ctx.back = weight, partials, back
        ctx.set_materialize_grads(False)  # the last norm's rows go nowhere
        return x, out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One pass over the rows."""
        grad_x, grad_normed = grads
        normed, rstd = ctx.saved_tensors
        rows, width = normed.shape
        out = torch.empty_like(normed) if ctx.back is None else ctx.back.outputs()
        add = grad_x is not None
        programs = ctx.partials.shape[0]
        launch(
            kernels.norm_backward, (programs,),
            grad_normed, normed, ctx.weight, rstd, grad_x if add else grad_normed, out,
            ctx.partials, rows, programs, width, TILE, add, num_warps=4,
        )  # fmt: skip
        return out, None, None, None, None, None


def norm_programs(rows: int, device: torch.device) -> int:
    """Programs of the norm's backward pass over so many rows."""
    return min(-(-rows // TILE), NORMING * _processors(device))


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


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
        launch(
            kernels.rotate_heads, (-(-B * T // ROTATED_ROWS),),
            qkv[:, H * D :], cos, sin, B * T, T, K, qkv.shape[1], D, ROTATED_ROWS,
            1 << (K - 1).bit_length(), num_warps=4,
        )  # fmt: skip
        if result is None:
            out = torch.empty(B * T, H * D, dtype=qkv.dtype, device=qkv.device)
        else:
            out = result.inputs()
        lse = torch.empty(B, H, T, device=qkv.device)
        blocks, scale = -(-T // ROWS), _LOG2_E / math.sqrt(D)
        launch(
            attention_kernels.attention_forward, (blocks * B * H,),
            qkv, out, lse, cos, sin, T, scale, blocks, B * H, _processors(qkv.device), H, K, D,
            ROWS, ROWS, T % ROWS == 0, num_warps=4, num_stages=3, maxnreg=128,
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
        scale, processors = _LOG2_E * root, _processors(qkv.device)
        many = blocks * B * K >= FILLED
        launch(
            attention_kernels.attention_backward_queries, (blocks * B * H,),
            qkv, out, grads[0], lse, deltas, packed, cos, sin, T, scale, root, blocks, B * H,
            processors, H, K, D, ROWS, ROWS, whole, num_warps=4, num_stages=2 if many else 3,
        )  # fmt: skip
        split, rows = (1, ROWS // 2) if many else (H // K, ROWS)
        parts = torch.empty(split, 2, B, T, K, D, device=qkv.device) if split > 1 else lse
        launch(
            attention_kernels.attention_backward_keys, (blocks * B * K * split,),
            qkv, grads[0], lse, deltas, packed, parts, cos, sin, T, scale, root, blocks,
            B * K * split, processors, H, K, D, rows, ROWS, split, whole, num_warps=4,
            num_stages=2 if split > 1 else 3, maxnreg=168,
        )  # fmt: skip
        if split > 1:
            launch(
                attention_kernels.sum_key_gradients, (2 * blocks, B * K),
                parts, packed, cos, sin, T, B * T * K * D, H, K, D, split, ROWS // 2,
            )  # fmt: skip
        return packed, None, None, None, None, None


class AddFeedForward(Function):
    """residual += (SiLU(x G^T) * (x U^T)) D^T, rounded once: N C, N C -> N C.

    G and U (F C each) lie above each other in `gate_up`, D is `down` (C F). Kept are x, the product
    of gate and up, and its slopes over both, N 2F: their gradients replace them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        gate_up: Tensor,
        down: Tensor,
        gradients: tuple[Gradient, Gradient],
    ) -> Tensor:
        """In place, as `AddLinear`."""
        (rows, hidden), width = x.shape, down.shape[1]
        slopes = x.new_empty(rows, 2 * width)
        product = x.new_empty(rows, width)
        tile, tall, half = (SWIGLU_ROWS, SWIGLU_DEPTH), (HALF, SWIGLU_DEPTH), (SWIGLU_ROWS, HALF)
        programs = min(-(-rows // SWIGLU_ROWS) * -(-width // HALF), _processors(x.device))
        launch(
            feed_forward_kernels.swiglu_forward, (programs,),
            _described(x, tile), _described(gate_up, tall), _described(slopes[:, :width], half),
            _described(slopes[:, width:], half), _described(product, half), rows, width, hidden,
            programs, GROUP, FORWARD_STAGES, num_warps=4, maxnreg=WARPS_REGISTERS,
        )  # fmt: skip
        ctx.save_for_backward(x)
        ctx.rest = slopes, product, gate_up, down, gradients
        ctx.mark_dirty(residual)
        return residual.addmm_(product, down.t())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradient of the product of gate and up is never written."""
        (x,), dy = ctx.saved_tensors, grads[0]
        slopes, product, gate_up, down, gradients = ctx.rest
        gradients[1].take(dy, product)
        (rows, width), hidden = product.shape, dy.shape[1]
        tile, half = (SWIGLU_ROWS, SWIGLU_DEPTH), (SWIGLU_ROWS, HALF)
        wide = SWIGLU_DEPTH, 2 * HALF
        programs = min(-(-rows // SWIGLU_ROWS) * -(-width // (2 * HALF)), _processors(dy.device))
        launch(
            feed_forward_kernels.swiglu_backward, (programs,),
            _described(dy, tile), _described(down, wide), _described(slopes[:, :width], half),
            _described(slopes[:, width:], half), rows, width, hidden, programs, GROUP,
            BACKWARD_STAGES, SLOTS, num_warps=4, maxnreg=WARPS_REGISTERS,
        )  # fmt: skip
        gradients[0].take(slopes, x)
        return dy, slopes @ gate_up, None, None, None


def _described(matrix: Tensor, block: tuple[int, int]) -> TensorDescriptor:
    """A matrix as the tensor copy engine takes it, block by block."""
    layout = NVMMASharedLayout.get_default_for(list(block), bfloat16)
    shape, strides = list(matrix.shape), list(matrix.stride())
    return TensorDescriptor(matrix, shape, strides, list(block), layout)


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
        pieces = -(-padded // SHARED_BLOCK)
        if 2 * SHARED_BLOCK * pieces <= ROW_BYTES:
            programs = min(rows, 2 * _processors(x.device))
            launch(
                loss_kernels.cross_entropy_shared, (programs,),
                logits, targets, losses, rows, vocab, padded, 1.0 / rows, programs, SHARED_BLOCK,
                pieces, SHARED_WARPS, num_warps=SHARED_WARPS,
            )  # fmt: skip
        else:
            launch(
                loss_kernels.cross_entropy, (rows,),
                logits, targets, losses, vocab, padded, 1.0 / rows, VOCAB_BLOCK, num_warps=16,
            )  # fmt: skip
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
        launch(
            kernels.embedding_backward, (rows, width // columns),
            dy, ordered, order, ctx.gradient, rows, width, EMBED_ROWS, columns, num_warps=4,
        )  # fmt: skip
        return torch.zeros_like(anchor), None, None, None
