"""Triton kernels of causal attention: flash attention (arXiv:2307.08691) and its backward pass.

Shapes: B sequences of T rows, H query heads, K key/value heads, D width of a head; a row of `qkv`
holds H queries, K keys and K values side by side, W = (H + 2 K) D in all. Keys are rotated (RoPE)
before, queries by the forward pass; the backward pass rotates the gradients of both back. Scores
are in units of log2(e), so that exp2 serves. Every sum has one order, so equal inputs give equal
bytes. `blocks` are those of a sequence's rows, `others` how often there are such: a program for
each pair.
"""

import triton
import triton.language as tl


@triton.jit
def _share(blocks, others, PROCESSORS):
    """A program's block of rows, 0 the one with most to do, and which of the other axis it is.

    Programs are dealt to the multiprocessors in turn, the longest first, and every second turn
    the other way about: so each gets as much to do as the others.
    """
    program = tl.program_id(0)
    turn = program // PROCESSORS
    place = program % PROCESSORS
    last = tl.minimum(PROCESSORS, blocks * others - turn * PROCESSORS) - 1
    rank = turn * PROCESSORS + tl.where(turn % 2 == 0, place, last - place)
    return rank // others, rank % others


@triton.jit
def _tile(base, row, T, stride, D: tl.constexpr, EVEN: tl.constexpr):
    """Rows of a head: R D; zeros beyond T."""
    at = base + row[:, None] * stride + tl.arange(0, D)[None, :]
    if EVEN:
        return tl.load(at)
    return tl.load(at, mask=row[:, None] < T, other=0.0)


@triton.jit
def _line(base, row, T, EVEN: tl.constexpr):
    """One number a row: R; zeros beyond T."""
    if EVEN:
        return tl.load(base + row)
    return tl.load(base + row, mask=row < T, other=0.0)


@triton.jit
def _store_unrotated(base, value, row, cos, sin, T, stride, D: tl.constexpr):
    """Rotate the rows of a head (R D) by the inverse of RoPE, and store them."""
    inside = row[:, None] < T
    pair = tl.arange(0, D // 2)[None, :]
    halves = tl.permute(tl.reshape(value, (value.shape[0], 2, D // 2)), (0, 2, 1))
    left, right = tl.split(halves)
    c = tl.load(cos + row[:, None] * (D // 2) + pair, mask=inside, other=0.0)
    s = tl.load(sin + row[:, None] * (D // 2) + pair, mask=inside, other=0.0)
    at = base + row[:, None] * stride + pair
    tl.store(at, (left * c + right * s).to(tl.bfloat16), mask=inside)
    tl.store(at + D // 2, (right * c - left * s).to(tl.bfloat16), mask=inside)


@triton.jit
def _rotated(value, row, cos, sin, T, D: tl.constexpr, EVEN: tl.constexpr):
    """RoPE (arXiv:2104.09864) over the rows of a head: R D, rounded to bf16."""
    pair = row[:, None] * (D // 2) + tl.arange(0, D // 2)[None, :]
    halves = tl.permute(tl.reshape(value.to(tl.float32), (value.shape[0], 2, D // 2)), (0, 2, 1))
    left, right = tl.split(halves)
    if EVEN:
        c, s = tl.load(cos + pair), tl.load(sin + pair)
    else:
        c = tl.load(cos + pair, mask=row[:, None] < T, other=0.0)
        s = tl.load(sin + pair, mask=row[:, None] < T, other=0.0)
    turned = tl.join(left * c - right * s, right * c + left * s)
    return tl.reshape(tl.permute(turned, (0, 2, 1)), (value.shape[0], D)).to(tl.bfloat16)


@triton.jit
def _attend(total, largest, out, q, k_base, v_base, start, row, T, W, scale, D: tl.constexpr,
            N: tl.constexpr, DIAGONAL: tl.constexpr, EVEN: tl.constexpr):  # fmt: skip
    """Take N keys and values from `start` on into the running softmax of a tile of queries."""
    key = start + tl.arange(0, N)
    k = _tile(k_base, key, T, W, D, EVEN or not DIAGONAL)
    score = tl.dot(q, tl.trans(k)) * scale
    if DIAGONAL:
        score = tl.where(row[:, None] >= key[None, :], score, -float("inf"))
    new = tl.maximum(largest, tl.max(score, 1))
    p = tl.exp2(score - new[:, None])
    decay = tl.exp2(largest - new)
    total = total * decay + tl.sum(p, 1)
    v = _tile(v_base, key, T, W, D, EVEN or not DIAGONAL)
    out = tl.dot(p.to(tl.bfloat16), v, out * decay[:, None])
    return total, new, out


@triton.jit
def attention_forward(qkv, out, lse, cos, sin, T, scale, blocks, others, PROCESSORS,
                      H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
                      N: tl.constexpr, EVEN: tl.constexpr):  # fmt: skip
    """M queries of one head a program: out N (H D), and the log2 of each row's sum: B H T.

    The queries are rotated on the way, and left so: no other program reads them here.
    """
    W: tl.constexpr = (H + 2 * K) * D
    shorter, line = _share(blocks, others, PROCESSORS)
    block = blocks - 1 - shorter  # the last rows see the most keys
    batch, head = line // H, line % H
    base = qkv + batch.to(tl.int64) * T * W
    k_base = base + (H + head // (H // K)) * D
    v_base = k_base + K * D
    row = block * M + tl.arange(0, M)
    q = _rotated(_tile(base + head * D, row, T, W, D, EVEN), row, cos, sin, T, D, EVEN)
    at = base + head * D + row[:, None] * W + tl.arange(0, D)[None, :]
    tl.store(at, q, mask=row[:, None] < T)
    total = tl.zeros((M,), tl.float32)
    largest = tl.full((M,), -float("inf"), tl.float32)
    value = tl.zeros((M, D), tl.float32)
    for start in range(0, block * M, N):
        total, largest, value = _attend(
            total, largest, value, q, k_base, v_base, start, row, T, W, scale, D, N, False, EVEN
        )
    for start in range(block * M, (block + 1) * M, N):
        total, largest, value = _attend(
            total, largest, value, q, k_base, v_base, start, row, T, W, scale, D, N, True, EVEN
        )
    value = value / total[:, None]
    inside = row < T
    tl.store(lse + line * T + row, largest + tl.log2(total), mask=inside)
    at = out + batch.to(tl.int64) * T * H * D + head * D + row[:, None] * (H * D)
    tl.store(at + tl.arange(0, D)[None, :], value.to(tl.bfloat16), mask=inside[:, None])


@triton.jit
def _query_gradient(dq, q, grad, line, delta, k_base, v_base, start, row, T, W, scale,
                    D: tl.constexpr, N: tl.constexpr, DIAGONAL: tl.constexpr,
                    EVEN: tl.constexpr):  # fmt: skip
    key = start + tl.arange(0, N)
    k = _tile(k_base, key, T, W, D, EVEN or not DIAGONAL)
    v = _tile(v_base, key, T, W, D, EVEN or not DIAGONAL)
    p = tl.exp2(tl.dot(q, tl.trans(k)) * scale - line[:, None])
    if DIAGONAL:
        p = tl.where(row[:, None] >= key[None, :], p, 0.0)
    through = p * (tl.dot(grad, tl.trans(v)) - delta[:, None])
    return tl.dot(through.to(tl.bfloat16), k, dq)


@triton.jit
def attention_backward_queries(qkv, out, gradient, lse, deltas, packed, cos, sin, T, scale, root,
                               blocks, others, PROCESSORS, H: tl.constexpr, K: tl.constexpr,
                               D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
                               EVEN: tl.constexpr):  # fmt: skip
    """Gradients of M queries of one head a program, rotated back; leaves `deltas` (B H T)."""
    W: tl.constexpr = (H + 2 * K) * D
    shorter, line = _share(blocks, others, PROCESSORS)
    block = blocks - 1 - shorter
    batch, head = line // H, line % H
    first = batch.to(tl.int64) * T
    base = qkv + first * W
    k_base = base + (H + head // (H // K)) * D
    v_base = k_base + K * D
    row = block * M + tl.arange(0, M)
    q = _tile(base + head * D, row, T, W, D, EVEN)
    grad = _tile(gradient + first * (H * D) + head * D, row, T, H * D, D, EVEN)
    value = _tile(out + first * (H * D) + head * D, row, T, H * D, D, EVEN)
    delta = tl.sum(grad.to(tl.float32) * value.to(tl.float32), 1)
    tl.store(deltas + line * T + row, delta, mask=row < T)
    sums = _line(lse + line * T, row, T, EVEN)
    dq = tl.zeros((M, D), tl.float32)
    for start in range(0, block * M, N):
        dq = _query_gradient(
            dq, q, grad, sums, delta, k_base, v_base, start, row, T, W, scale, D, N, False, EVEN
        )
    for start in range(block * M, (block + 1) * M, N):
        dq = _query_gradient(
            dq, q, grad, sums, delta, k_base, v_base, start, row, T, W, scale, D, N, True, EVEN
        )
    _store_unrotated(packed + first * W + head * D, dq * root, row, cos, sin, T, W, D)


@triton.jit
def _key_gradients(dk, dv, k, v, q_base, grad_base, line_base, delta_base, start, key, T, W, scale,
                   WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, DIAGONAL: tl.constexpr,
                   EVEN: tl.constexpr):  # fmt: skip
    row = start + tl.arange(0, M)
    q = _tile(q_base, row, T, W, D, EVEN)
    grad = _tile(grad_base, row, T, WIDTH, D, EVEN)
    line = _line(line_base, row, T, EVEN)
    p = tl.exp2(tl.dot(k, tl.trans(q)) * scale - line[None, :])  # N M
    if DIAGONAL:
        p = tl.where(row[None, :] >= key[:, None], p, 0.0)
    dv = tl.dot(p.to(tl.bfloat16), grad, dv)
    delta = _line(delta_base, row, T, EVEN)
    through = p * (tl.dot(v, tl.trans(grad)) - delta[None, :])
    dk = tl.dot(through.to(tl.bfloat16), q, dk)
    return dk, dv


@triton.jit
def attention_backward_keys(qkv, gradient, lse, deltas, packed, partials, cos, sin, T, scale, root,
                            blocks, others, PROCESSORS, H: tl.constexpr, K: tl.constexpr,
                            D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, SPLIT: tl.constexpr,
                            EVEN: tl.constexpr):  # fmt: skip
    """Gradients of N keys and values a program, summed over the queries' heads that share them.

    SPLIT programs share those heads; with more than one each leaves its part in `partials`
    (SPLIT 2 B T K D, in fp32) for `sum_key_gradients`.
    """
    W: tl.constexpr = (H + 2 * K) * D
    GROUP: tl.constexpr = H // K // SPLIT
    # The first keys are seen by the most queries.
    block, line = _share(blocks, others, PROCESSORS)
    part = line % SPLIT
    shared = line // SPLIT % K
    batch = line // (SPLIT * K)
    first = batch.to(tl.int64) * T
    base = qkv + first * W
    key = block * N + tl.arange(0, N)
    k = _tile(base + (H + shared) * D, key, T, W, D, EVEN)
    v = _tile(base + (H + K + shared) * D, key, T, W, D, EVEN)
    dk = tl.zeros((N, D), tl.float32)
    dv = tl.zeros((N, D), tl.float32)
    for member in range(GROUP):
        head = (shared * SPLIT + part) * GROUP + member
        q_base = base + head * D
        grad_base = gradient + first * (H * D) + head * D
        line_base = lse + (batch * H + head) * T
        delta_base = deltas + (batch * H + head) * T
        for start in range(block * N, (block + 1) * N, M):
            dk, dv = _key_gradients(
                dk, dv, k, v, q_base, grad_base, line_base, delta_base, start, key, T, W, scale,
                H * D, D, M, True, EVEN,
            )  # fmt: skip
        for start in range((block + 1) * N, T, M):
            dk, dv = _key_gradients(
                dk, dv, k, v, q_base, grad_base, line_base, delta_base, start, key, T, W, scale,
                H * D, D, M, False, EVEN,
            )  # fmt: skip
    dk *= root
    inside = key[:, None] < T
    column = tl.arange(0, D)[None, :]
    if SPLIT == 1:
        target = packed + first * W + (H + shared) * D
        _store_unrotated(target, dk, key, cos, sin, T, W, D)
        at = target + K * D + key[:, None] * W + column
        tl.store(at, dv.to(tl.bfloat16), mask=inside)
    else:
        size = (others // SPLIT).to(tl.int64) * T * D
        at = (first + key[:, None]) * (K * D) + shared * D + column
        tl.store(partials + (2 * part) * size + at, dk, mask=inside)
        tl.store(partials + (2 * part + 1) * size + at, dv, mask=inside)


@triton.jit
def sum_key_gradients(partials, packed, cos, sin, T, size, H: tl.constexpr, K: tl.constexpr,
                      D: tl.constexpr, SPLIT: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Add up what `attention_backward_keys` left, ROWS rows of one head a program."""
    W: tl.constexpr = (H + 2 * K) * D
    batch, shared = tl.program_id(1) // K, tl.program_id(1) % K
    first = batch.to(tl.int64) * T
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row[:, None] < T
    at = partials + (first + row[:, None]) * (K * D) + shared * D + tl.arange(0, D)[None, :]
    dk = tl.zeros((ROWS, D), tl.float32)
    dv = tl.zeros((ROWS, D), tl.float32)
    for part in tl.static_range(SPLIT):
        dk += tl.load(at + (2 * part) * size, mask=inside, other=0.0)
        dv += tl.load(at + (2 * part + 1) * size, mask=inside, other=0.0)
    target = packed + first * W + (H + shared) * D
    _store_unrotated(target, dk, row, cos, sin, T, W, D)
    out = target + K * D + row[:, None] * W + tl.arange(0, D)[None, :]
    tl.store(out, dv.to(tl.bfloat16), mask=inside)
