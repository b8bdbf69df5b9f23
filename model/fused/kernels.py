"""Triton kernels of the fused step. All read and write bf16 and compute in fp32.

Shapes: N rows (B * T), C hidden, F intermediate, V vocabulary, VP the padded vocabulary,
H query heads, K key/value heads, D width of a head.
"""

import triton
import triton.language as tl


@triton.jit
def norm_forward(x, weight, normed, copy, rstd, eps, C: tl.constexpr):
    """A row a program: RMSNorm (arXiv:1910.07467), and the row as it came, for others to add to."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, C)
    at = row * C + column
    raw = tl.load(x + at)
    tl.store(copy + at, raw)
    value = raw.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / C + eps)
    tl.store(rstd + row, scale)
    gain = tl.load(weight + column).to(tl.float32)
    tl.store(normed + at, (value * scale * gain).to(tl.bfloat16))


@triton.jit
def norm_backward(grad_normed, x, weight, rstd, grad_x, out, partial, N, C: tl.constexpr,
                  ROWS: tl.constexpr, TILE: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """ROWS rows a program, TILE at once; the weight's gradient is left as one sum a program."""
    program = tl.program_id(0)
    column = tl.arange(0, C)[None, :]
    gain = tl.load(weight + column).to(tl.float32)
    total = tl.zeros((TILE, C), tl.float32)
    for start in range(0, ROWS, TILE):
        row = program * ROWS + start + tl.arange(0, TILE)[:, None]
        inside = row < N
        at = row.to(tl.int64) * C + column
        gradient = tl.load(grad_normed + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(rstd + row, mask=inside, other=0.0)
        unit = value * scale
        total += gradient * unit
        through = gradient * gain
        result = scale * (through - unit * (tl.sum(through * unit, 1, keep_dims=True) / C))
        if ADD:
            result += tl.load(grad_x + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + at, result.to(tl.bfloat16), mask=inside)
    tl.store(partial + program * C + tl.arange(0, C), tl.sum(total, 0))


@triton.jit
def rotate_heads(qkv, cos, sin, T, HEADS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """A row a program: RoPE (arXiv:2104.09864) in place over the first HEADS heads of a row."""
    row = tl.program_id(0).to(tl.int64)
    time = row % T
    head = tl.arange(0, BLOCK)[:, None]
    pair = tl.arange(0, D // 2)[None, :]
    inside = head < HEADS
    at = qkv + row * WIDTH + head * D + pair
    left = tl.load(at, mask=inside).to(tl.float32)
    right = tl.load(at + D // 2, mask=inside).to(tl.float32)
    c = tl.load(cos + time * (D // 2) + pair)
    s = tl.load(sin + time * (D // 2) + pair)
    tl.store(at, (left * c - right * s).to(tl.bfloat16), mask=inside)
    tl.store(at + D // 2, (right * c + left * s).to(tl.bfloat16), mask=inside)


@triton.jit
def swiglu_forward(gate_up, out, F, BLOCK: tl.constexpr):
    """SiLU(gate) * up (arXiv:2002.05202); gate and up lie side by side in a row of 2 F."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    gate = tl.load(gate_up + row * 2 * F + column, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * F + F + column, mask=inside).to(tl.float32)
    product = gate * tl.sigmoid(gate) * up
    tl.store(out + row * F + column, product.to(tl.bfloat16), mask=inside)


@triton.jit
def swiglu_backward(dy, down, gate, up, N, F, C, PROGRAMS, ROWS: tl.constexpr,
                    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """Gradients of gate and up over their values: nobody needs those any more.

    The gradient of their product, dy (N C) times the weight `down` (C F), is never written: each
    program makes it tile by tile and goes on with it. All operands are descriptors. Tiles are
    taken GROUP rows of them at a time, so that neighbours in time share what the cache holds.
    """
    columns = tl.cdiv(F, COLUMNS)
    rows = tl.cdiv(N, ROWS)
    for tile in tl.range(tl.program_id(0), rows * columns, PROGRAMS, flatten=True):
        group = tile // (GROUP * columns) * GROUP
        height = tl.minimum(rows - group, GROUP)
        within = tile % (GROUP * columns)
        row = (group + within % height) * ROWS
        column = within // height * COLUMNS
        incoming = tl.zeros((ROWS, COLUMNS), tl.float32)
        for at in range(0, C, DEPTH):
            incoming = tl.dot(dy.load([row, at]), down.load([at, column]), incoming)
        value = gate.load([row, column]).to(tl.float32)
        factor = up.load([row, column]).to(tl.float32)
        sigmoid = tl.sigmoid(value)
        silu = value * sigmoid
        slope = sigmoid + silu * (1 - sigmoid)
        gate.store([row, column], (incoming * factor * slope).to(tl.bfloat16))
        up.store([row, column], (incoming * silu).to(tl.bfloat16))


@triton.jit
def cross_entropy(logits, targets, losses, V, VP, scale, BLOCK: tl.constexpr):
    """A row a program: its loss, and its gradient times `scale` over the logits themselves.

    Columns from V on are padding: no probability, no gradient. The maximum is kept online
    (arXiv:1805.02867), so the row is read twice and written once.
    """
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * VP
    target = tl.load(targets + row)
    wanted = tl.load(base + target).to(tl.float32)
    largest = -float("inf")
    total = 0.0
    for start in range(0, VP, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(base + column, mask=column < V, other=-float("inf")).to(tl.float32)
        new = tl.maximum(largest, tl.max(value, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(value - new), 0)
        largest = new
    norm = largest + tl.log(total)
    tl.store(losses + row, norm - wanted)
    for start in range(0, VP, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(base + column, mask=column < V, other=-float("inf")).to(tl.float32)
        gradient = (tl.exp(value - norm) - tl.where(column == target, 1.0, 0.0)) * scale
        tl.store(base + column, gradient.to(tl.bfloat16), mask=column < VP)


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
