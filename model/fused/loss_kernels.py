"""Cross-entropy of a row of logits, and its gradient over the logits themselves.

N rows, V vocabulary, VP the padded vocabulary. Columns from V on are padding: no probability, no
gradient. The maximum is kept online (arXiv:1805.02867), a maximum and a sum for each place of a
block, in units of log2(e), so that exp2 serves; they are brought together once a row.
"""

import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def cross_entropy(logits, targets, losses, V, VP, scale, BLOCK: tl.constexpr):
    """A row a program, read twice and written once: its loss, and its gradient times `scale`."""
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * VP
    target = tl.load(targets + row)
    wanted = tl.load(base + target).to(tl.float32)
    largest = tl.full((BLOCK,), -3.0e38, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, VP, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(base + column, mask=column < V, other=-float("inf")).to(tl.float32)
        value = value * _LOG2_E
        new = tl.maximum(largest, value)
        total = total * tl.exp2(largest - new) + tl.exp2(value - new)
        largest = new
    top = tl.max(largest, 0)
    norm = top + tl.log2(tl.sum(total * tl.exp2(largest - top), 0))
    tl.store(losses + row, norm * _LN_2 - wanted)
    for start in range(0, VP, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(base + column, mask=column < V, other=-float("inf")).to(tl.float32)
        share = tl.exp2(value * _LOG2_E - norm)
        gradient = (share - tl.where(column == target, 1.0, 0.0)) * scale
        tl.store(base + column, gradient.to(tl.bfloat16), mask=column < VP)


@gluon.jit
def cross_entropy_shared(logits, targets, losses, N, V, VP: gl.constexpr, scale, PROGRAMS,
                         BLOCK: gl.constexpr, PIECES: gl.constexpr,
                         WARPS: gl.constexpr):  # fmt: skip
    """The same with a whole row, PIECES of BLOCK, in shared memory: it is read from memory once.

    Rows are dealt to PROGRAMS in turn. A piece of the next row is under way as soon as this row's
    is in registers for the last time.
    """
    layout: gl.constexpr = gl.BlockedLayout([8], [32], [WARPS], [0])
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    pieces = gl.allocate_shared_memory(gl.bfloat16, [PIECES, BLOCK], flat)
    lane = gl.arange(0, BLOCK, layout)
    first = gl.program_id(0)
    for piece in range(PIECES):
        column = piece * BLOCK + lane
        at = logits + first.to(gl.int64) * VP + column
        async_copy.async_copy_global_to_shared(pieces.index(piece), at, mask=column < VP)
        async_copy.commit_group()
    for row in range(first, N, PROGRAMS):
        base = logits + gl.cast(row, gl.int64) * VP
        target = gl.load(targets + row)
        wanted = gl.load(base + target).to(gl.float32)
        largest = gl.full([BLOCK], -3.0e38, gl.float32, layout)
        total = gl.zeros([BLOCK], gl.float32, layout)
        for piece in range(PIECES):
            async_copy.wait_group(PIECES - 1)
            async_copy.commit_group()  # an empty one, so that as many stay behind the next piece
            value = pieces.index(piece).load(layout).to(gl.float32) * _LOG2_E
            value = gl.where(piece * BLOCK + lane < V, value, -float("inf"))
            new = gl.maximum(largest, value)
            total = total * gl.exp2(largest - new) + gl.exp2(value - new)
            largest = new
        top = gl.max(largest, 0)
        norm = top + gl.log2(gl.sum(total * gl.exp2(largest - top), 0))
        gl.store(losses + row, norm * _LN_2 - wanted)
        following = row + PROGRAMS
        ahead = logits + gl.cast(following, gl.int64) * VP
        for piece in range(PIECES):
            column = piece * BLOCK + lane
            value = pieces.index(piece).load(layout).to(gl.float32)
            async_copy.async_copy_global_to_shared(
                pieces.index(piece), ahead + column, mask=(column < VP) & (following < N)
            )
            async_copy.commit_group()
            share = gl.where(column < V, gl.exp2(value * _LOG2_E - norm), 0.0)
            gradient = (share - gl.where(column == target, 1.0, 0.0)) * scale
            gl.store(base + column, gradient.to(gl.bfloat16), mask=column < VP)
    async_copy.wait_group(0)
