"""Triton kernels of the fused step. All read and write bf16 and compute in fp32.

Shapes: N rows (B * T), C hidden, F intermediate, V vocabulary, VP the padded vocabulary,
H query heads, K key/value heads, D width of a head.
"""

import triton
import triton.language as tl


@triton.jit
def norm_forward(x, weight, normed, rstd, eps, C: tl.constexpr):
    """A row a program: RMSNorm (arXiv:1910.07467)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, C)
    at = row * C + column
    value = tl.load(x + at).to(tl.float32)
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
def swiglu_backward(gradient, gate_up, F, BLOCK: tl.constexpr):
    """Writes the gradient of gate and up over their values: nobody needs those any more."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    at = gate_up + row * 2 * F + column
    gate = tl.load(at, mask=inside).to(tl.float32)
    up = tl.load(at + F, mask=inside).to(tl.float32)
    incoming = tl.load(gradient + row * F + column, mask=inside).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    slope = sigmoid + silu * (1 - sigmoid)
    tl.store(at, (incoming * up * slope).to(tl.bfloat16), mask=inside)
    tl.store(at + F, (incoming * silu).to(tl.bfloat16), mask=inside)


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
