"""Triton kernels of the fused step. All read and write bf16 and compute in fp32.

Shapes: N rows (B * T), C hidden, F intermediate, V vocabulary, VP the padded vocabulary,
H query heads, K key/value heads, D width of a head.
"""

import triton
import triton.language as tl

_LEAST_GAIN = tl.constexpr(1e-18)


@triton.jit
def _gain(weight, column):
    """A norm's gain, kept off zero, so that what it was multiplied with can be told again."""
    gain = tl.load(weight + column).to(tl.float32)
    return tl.where(tl.abs(gain) < _LEAST_GAIN, _LEAST_GAIN, gain)


@triton.jit
def norm_forward(x, weight, normed, rstd, eps, C: tl.constexpr):
    """A row a program: RMSNorm (arXiv:1910.07467)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, C)
    value = tl.load(x + row * C + column).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / C + eps)
    tl.store(rstd + row, scale)
    unit = value * scale
    tl.store(normed + row * C + column, (unit * _gain(weight, column)).to(tl.bfloat16))


@triton.jit
def norm_backward(grad_normed, normed, weight, rstd, grad_x, out, partial, N, PROGRAMS,
                  C: tl.constexpr, TILE: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """TILE rows at once, dealt in turn; the weight's gradient is left as one sum a program.

    The rows of length one are those that were normed, over the gain: the input is not needed.
    """
    program = tl.program_id(0)
    column = tl.arange(0, C)[None, :]
    gain = _gain(weight, column)
    inverse = 1 / gain
    total = tl.zeros((TILE, C), tl.float32)
    for start in tl.range(program * TILE, N, PROGRAMS * TILE, num_stages=3):
        row = start + tl.arange(0, TILE)[:, None]
        inside = row < N
        at = row.to(tl.int64) * C + column
        gradient = tl.load(grad_normed + at, mask=inside, other=0.0).to(tl.float32)
        unit = tl.load(normed + at, mask=inside, other=0.0).to(tl.float32) * inverse
        scale = tl.load(rstd + row, mask=inside, other=0.0)
        if ADD:
            incoming = tl.load(grad_x + at, mask=inside, other=0.0).to(tl.float32)
        else:
            incoming = tl.zeros((TILE, C), tl.float32)
        total += gradient * unit
        through = gradient * gain
        result = scale * (through - unit * (tl.sum(through * unit, 1, keep_dims=True) / C))
        tl.store(out + at, (result + incoming).to(tl.bfloat16), mask=inside)
    tl.store(partial + program * C + tl.arange(0, C), tl.sum(total, 0))


@triton.jit
def rotate_heads(heads, cos, sin, N, T, HEADS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr,
                 ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """ROWS rows a program: RoPE (arXiv:2104.09864) in place over HEADS heads of rows of WIDTH."""
    line = tl.arange(0, ROWS * BLOCK)[:, None]
    row, head = tl.program_id(0) * ROWS + line // BLOCK, line % BLOCK
    pair = tl.arange(0, D // 2)[None, :]
    inside = (row < N) & (head < HEADS)
    at = heads + row.to(tl.int64) * WIDTH + head * D + pair
    left = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(at + D // 2, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + row % T * (D // 2) + pair)
    s = tl.load(sin + row % T * (D // 2) + pair)
    tl.store(at, (left * c - right * s).to(tl.bfloat16), mask=inside)
    tl.store(at + D // 2, (right * c + left * s).to(tl.bfloat16), mask=inside)


@triton.jit
def embedding_backward(gradient, tokens, order, out, N, C: tl.constexpr, ROWS: tl.constexpr,
                       COLUMNS: tl.constexpr):  # fmt: skip
    """The rows of each token summed, in their order; `tokens` are sorted, `order` is where from.

    A program a sorted position and COLUMNS columns: the first position of a token does the work of
    all, ROWS at once. Rows of `out` whose token does not occur are left alone.
    """
    first = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.load(tokens + first)
    ours = tl.load(tokens + first - 1, mask=first > 0, other=-1) != token
    total = tl.zeros((COLUMNS,), tl.float32)
    start = first
    more = ours
    while more:
        at = start + tl.arange(0, ROWS)
        same = tl.load(tokens + at, mask=at < N, other=-1) == token
        row = tl.load(order + at, mask=same, other=0)
        place = gradient + row[:, None] * C + column[None, :]
        total += tl.sum(tl.load(place, mask=same[:, None], other=0.0).to(tl.float32), 0)
        start += ROWS
        more = tl.min(same.to(tl.int32), 0) == 1
    tl.store(out + token.to(tl.int64) * C + column, total.to(tl.bfloat16), mask=ours & (column < C))


@triton.jit
def adamw(weights, masters, first, second, gradients, scalars, n, decayed, beta1, beta2, eps,
          weight_decay, BLOCK: tl.constexpr):  # fmt: skip
    """AdamW (arXiv:1711.05101) over the flat state, clipped and rounded to bf16 on the way.

    `scalars`: learning rate, clip coefficient, the inverse bias corrections of both moments, and
    whether the step is unstable: then everything stays as it is. Elements from `decayed` on (the
    norms) are not decayed.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    lr = tl.load(scalars)
    stable = tl.load(scalars + 4) == 0
    inside = inside & stable
    gradient = tl.load(gradients + at, mask=inside).to(tl.float32) * tl.load(scalars + 1)
    m = beta1 * tl.load(first + at, mask=inside) + (1 - beta1) * gradient
    v = beta2 * tl.load(second + at, mask=inside) + (1 - beta2) * gradient * gradient
    step = m * tl.load(scalars + 2) / (tl.sqrt(v * tl.load(scalars + 3)) + eps)
    keep = tl.where(at < decayed, 1.0 - lr * weight_decay, 1.0)
    master = tl.load(masters + at, mask=inside) * keep - lr * step
    tl.store(first + at, m, mask=inside)
    tl.store(second + at, v, mask=inside)
    tl.store(masters + at, master, mask=inside)
    tl.store(weights + at, master.to(tl.bfloat16), mask=inside)


@triton.jit
def checksum_rows(masters, row_weights, partials, rows, C: tl.constexpr, ROWS: tl.constexpr):
    """Sum of the parameters' bits as integers, each row times its parameter's weight.

    Integers wrap around in any order alike, so that no order of the sum has an effect.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = row * C + tl.arange(0, C)[None, :]
    inside = row < rows
    bits = tl.load(masters + at, mask=inside, other=0).to(tl.int64)
    weight = tl.load(row_weights + row, mask=inside, other=0).to(tl.int64)
    tl.store(partials + tl.program_id(0), tl.sum(tl.sum(bits * weight, 1), 0))
