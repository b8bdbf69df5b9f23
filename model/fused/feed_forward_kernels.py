"""The products of the feed-forward layer with SwiGLU (arXiv:2002.05202) in them, in Gluon.

Shapes: N rows, C hidden, F intermediate. Forward, the product over the weights of gate and up is
made into SiLU(gate) * up, and its slopes over gate and up are left where both would have been: the
backward pass needs nothing else. It makes their gradients from dy W, the gradient of the product
of gate and up, which is never written either.

A program takes tiles of ROWS x COLUMNS in turn, GROUP rows of tiles at a time, so that neighbours
in time share what the cache holds. Four warps bring operands through a ring in shared memory; two
times four warps multiply, one at a time, and while one does the other is at the end of its tile: at
what becomes of the sums, and the way to memory. `turn` and `ends` say whose turn it is, so that a
barrier is never waited for two phases ahead, which its parity could not tell apart.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

_LOG2_E = gl.constexpr(1.4426950408889634)


@gluon.jit
def _place(tile, size, ROWS: gl.constexpr, COLUMNS: gl.constexpr, GROUP: gl.constexpr):
    """First row and column of a tile."""
    N, F, _C, _PROGRAMS = size
    columns = gl.cdiv(F, COLUMNS)
    group = tile // (GROUP * columns) * GROUP
    height = gl.minimum(gl.cdiv(N, ROWS) - group, GROUP)
    within = tile % (GROUP * columns)
    return (group + within % height) * ROWS, within // height * COLUMNS


@gluon.jit
def _barriers(COUNT: gl.constexpr):
    made = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for index in gl.static_range(COUNT):
        mbarrier.init(made.index(index), count=1)
    return made


@gluon.jit
def _emptied(ring, step):
    """The place of a step in the ring, once its last content was multiplied; and its barrier."""
    a, _b, full, empty, _turn = ring
    STAGES: gl.constexpr = a.type.shape[0]
    index = step % STAGES
    mbarrier.wait(empty.index(index), (step // STAGES & 1) ^ 1)
    return index, full.index(index)


@gluon.jit
def _product(ring, ordinal, side: gl.constexpr, steps, ROWS: gl.constexpr,
             COLUMNS: gl.constexpr, TURNED: gl.constexpr):  # fmt: skip
    """The sums of the program's tile number `ordinal`, as soon as it is this side's turn."""
    a, b, full, empty, turn = ring
    STAGES: gl.constexpr = a.type.shape[0]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    total = gl.zeros([ROWS, COLUMNS], gl.float32, layout)
    mbarrier.wait(turn.index(side), (ordinal // 2 & 1) ^ (1 - side))
    first = ordinal * steps
    for step in range(first, first + steps):
        index = step % STAGES
        mbarrier.wait(full.index(index), step // STAGES & 1)
        right = b.index(index)
        if TURNED:
            right = right.permute((1, 0))
        total = warpgroup_mma(a.index(index), right, total, is_async=True)
        total = warpgroup_mma_wait(1, deps=(total,))
        # The step before is done.
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=step > first)
    mbarrier.arrive(turn.index(1 - side), count=1)
    total = warpgroup_mma_wait(0, deps=(total,))
    mbarrier.arrive(empty.index((first + steps - 1) % STAGES), count=1)
    return total


@gluon.jit
def _halves(total, ROWS: gl.constexpr, HALF: gl.constexpr):
    """Left and right half of a tile's columns: they lie in registers of their own already."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HALF, 16])
    left, right = total.reshape([ROWS, 2, HALF]).permute([0, 2, 1]).split()
    left = gl.convert_layout(left, layout, assert_trivial=True)
    return left, gl.convert_layout(right, layout, assert_trivial=True)


@gluon.jit
def _bring_forward(operands, ring, size, HALF: gl.constexpr, GROUP: gl.constexpr):
    x, weight = operands
    a, b, _full, _empty, _turn = ring
    N, F, C, PROGRAMS = size
    ROWS: gl.constexpr = x.block_type.shape[0]
    DEPTH: gl.constexpr = x.block_type.shape[1]
    step = 0
    for tile in range(gl.program_id(0), gl.cdiv(F, HALF) * gl.cdiv(N, ROWS), PROGRAMS):
        row, column = _place(tile, size, ROWS, HALF, GROUP)
        for at in range(0, C, DEPTH):
            index, full = _emptied(ring, step)
            mbarrier.expect(full, x.block_type.nbytes + 2 * weight.block_type.nbytes)
            tma.async_copy_global_to_shared(x, [row, at], full, a.index(index))
            both = b.index(index)
            tma.async_copy_global_to_shared(weight, [column, at], full, both.slice(0, HALF))
            tma.async_copy_global_to_shared(weight, [F + column, at], full, both.slice(HALF, HALF))
            step += 1


@gluon.jit
def _multiply_forward(side: gl.constexpr, results, ring, outs, size, ROWS: gl.constexpr,
                      HALF: gl.constexpr, DEPTH: gl.constexpr, GROUP: gl.constexpr):  # fmt: skip
    by_gate, by_up, product = results
    places, free = outs
    N, F, C, PROGRAMS = size
    tiles = gl.cdiv(F, HALF) * gl.cdiv(N, ROWS)
    ordinal = 0 + side
    for tile in range(gl.program_id(0) + side * PROGRAMS, tiles, 2 * PROGRAMS):
        row, column = _place(tile, size, ROWS, HALF, GROUP)
        total = _product(ring, ordinal, side, gl.cdiv(C, DEPTH), ROWS, 2 * HALF, True)
        gate, up = _halves(total, ROWS, HALF)
        sigmoid = 1 / (1 + gl.exp2(-_LOG2_E * gate))
        silu = gate * sigmoid
        # What the other side left there has been read.
        mbarrier.wait(free.index(0), (ordinal & 1) ^ 1)
        places.index(0).store((up * (sigmoid + silu * (1 - sigmoid))).to(gl.bfloat16))
        places.index(1).store(silu.to(gl.bfloat16))
        places.index(2).store((silu * up).to(gl.bfloat16))
        fence_async_shared()
        tma.async_copy_shared_to_global(by_gate, [row, column], places.index(0))
        tma.async_copy_shared_to_global(by_up, [row, column], places.index(1))
        tma.async_copy_shared_to_global(product, [row, column], places.index(2))
        tma.store_wait(0)
        mbarrier.arrive(free.index(0), count=1)
        ordinal += 2


@gluon.jit
def swiglu_forward(x, weight, by_gate, by_up, product, N, F, C, PROGRAMS, GROUP: gl.constexpr,
                   STAGES: gl.constexpr):  # fmt: skip
    """SiLU(gate) * up (N F) and its slopes over both (N F each), of x (N C) and W (2F C)."""
    ROWS: gl.constexpr = x.block_type.shape[0]
    DEPTH: gl.constexpr = x.block_type.shape[1]
    HALF: gl.constexpr = weight.block_type.shape[0]
    a = gl.allocate_shared_memory(gl.bfloat16, [STAGES, ROWS, DEPTH], x.layout)
    b = gl.allocate_shared_memory(gl.bfloat16, [STAGES, 2 * HALF, DEPTH], weight.layout)
    places = gl.allocate_shared_memory(gl.bfloat16, [3, ROWS, HALF], product.layout)
    ring = (a, b, _barriers(STAGES), _barriers(STAGES), _barriers(2))
    outs = (places, _barriers(1))
    results = (by_gate, by_up, product)
    size = (N, F, C, PROGRAMS)
    one: gl.constexpr = 0
    other: gl.constexpr = 1
    gl.warp_specialize(
        [
            (_multiply_forward, (one, results, ring, outs, size, ROWS, HALF, DEPTH, GROUP)),
            (_multiply_forward, (other, results, ring, outs, size, ROWS, HALF, DEPTH, GROUP)),
            (_bring_forward, ((x, weight), ring, size, HALF, GROUP)),
        ],
        [4, 4],
        [240, 24],
    )


@gluon.jit
def _bring_slopes(slopes, row, column, half, halves):
    """Half a tile of both slopes, into the place that the half before that one has left."""
    by_gate, by_up = slopes
    gates, ups, ready, free, _ends = halves
    SLOTS: gl.constexpr = gates.type.shape[0]
    slot = half % SLOTS
    mbarrier.wait(free.index(slot), (half // SLOTS & 1) ^ 1)
    bar = ready.index(slot)
    mbarrier.expect(bar, by_gate.block_type.nbytes + by_up.block_type.nbytes)
    tma.async_copy_global_to_shared(by_gate, [row, column], bar, gates.index(slot))
    tma.async_copy_global_to_shared(by_up, [row, column], bar, ups.index(slot))


@gluon.jit
def _bring_backward(operands, slopes, ring, halves, size, HALF: gl.constexpr,
                    GROUP: gl.constexpr):  # fmt: skip
    dy, down = operands
    a, b, _full, _empty, _turn = ring
    N, F, C, PROGRAMS = size
    ROWS: gl.constexpr = dy.block_type.shape[0]
    DEPTH: gl.constexpr = dy.block_type.shape[1]
    tiles = gl.cdiv(F, 2 * HALF) * gl.cdiv(N, ROWS)
    steps = gl.cdiv(C, DEPTH)
    step = 0
    half = 0
    first = gl.program_id(0)
    row, column = _place(first, size, ROWS, 2 * HALF, GROUP)
    _bring_slopes(slopes, row, column, half, halves)
    for tile in range(first, tiles, PROGRAMS):
        row, column = _place(tile, size, ROWS, 2 * HALF, GROUP)
        for k in range(steps):
            index, full = _emptied(ring, step)
            mbarrier.expect(full, dy.block_type.nbytes + down.block_type.nbytes)
            tma.async_copy_global_to_shared(dy, [row, k * DEPTH], full, a.index(index))
            tma.async_copy_global_to_shared(down, [k * DEPTH, column], full, b.index(index))
            step += 1
            # So late that who frees the place is done: the ring must not wait for it.
            if k == steps * 3 // 4:
                _bring_slopes(slopes, row, column + HALF, half + 1, halves)
        if tile + PROGRAMS < tiles:
            row, column = _place(tile + PROGRAMS, size, ROWS, 2 * HALF, GROUP)
            _bring_slopes(slopes, row, column, half + 2, halves)
        half += 2


@gluon.jit
def _end_half(incoming, gates, ups, slopes, row, column):
    """Slopes become gradients, in place and on to memory."""
    by_gate, by_up = slopes
    gates.store((incoming * gates.load(incoming.type.layout).to(gl.float32)).to(gl.bfloat16))
    ups.store((incoming * ups.load(incoming.type.layout).to(gl.float32)).to(gl.bfloat16))
    fence_async_shared()
    tma.async_copy_shared_to_global(by_gate, [row, column], gates)
    tma.async_copy_shared_to_global(by_up, [row, column], ups)


@gluon.jit
def _multiply_backward(side: gl.constexpr, slopes, ring, halves, size, ROWS: gl.constexpr,
                       HALF: gl.constexpr, DEPTH: gl.constexpr, GROUP: gl.constexpr):  # fmt: skip
    gates, ups, ready, free, ends = halves
    SLOTS: gl.constexpr = gates.type.shape[0]
    N, F, C, PROGRAMS = size
    tiles = gl.cdiv(F, 2 * HALF) * gl.cdiv(N, ROWS)
    ordinal = 0 + side
    for tile in range(gl.program_id(0) + side * PROGRAMS, tiles, 2 * PROGRAMS):
        row, column = _place(tile, size, ROWS, 2 * HALF, GROUP)
        total = _product(ring, ordinal, side, gl.cdiv(C, DEPTH), ROWS, 2 * HALF, False)
        left, right = _halves(total, ROWS, HALF)
        one = 2 * ordinal
        slot, other = one % SLOTS, (one + 1) % SLOTS
        mbarrier.wait(ends.index(side), (ordinal // 2 & 1) ^ (1 - side))
        mbarrier.wait(ready.index(slot), one // SLOTS & 1)
        _end_half(left, gates.index(slot), ups.index(slot), slopes, row, column)
        mbarrier.wait(ready.index(other), (one + 1) // SLOTS & 1)
        mbarrier.arrive(ends.index(1 - side), count=1)
        _end_half(right, gates.index(other), ups.index(other), slopes, row, column + HALF)
        tma.store_wait(2)
        mbarrier.arrive(free.index(slot), count=1)
        tma.store_wait(0)
        mbarrier.arrive(free.index(other), count=1)
        ordinal += 2


@gluon.jit
def swiglu_backward(dy, down, by_gate, by_up, N, F, C, PROGRAMS, GROUP: gl.constexpr,
                    STAGES: gl.constexpr, SLOTS: gl.constexpr):  # fmt: skip
    """Gradients of gate and up over the slopes (N F each), of dy (N C) and W (C F)."""
    ROWS: gl.constexpr = dy.block_type.shape[0]
    DEPTH: gl.constexpr = dy.block_type.shape[1]
    HALF: gl.constexpr = by_gate.block_type.shape[1]
    a = gl.allocate_shared_memory(gl.bfloat16, [STAGES, ROWS, DEPTH], dy.layout)
    b = gl.allocate_shared_memory(gl.bfloat16, [STAGES, DEPTH, 2 * HALF], down.layout)
    gates = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, ROWS, HALF], by_gate.layout)
    ups = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, ROWS, HALF], by_up.layout)
    ring = (a, b, _barriers(STAGES), _barriers(STAGES), _barriers(2))
    halves = (gates, ups, _barriers(SLOTS), _barriers(SLOTS), _barriers(2))
    slopes = (by_gate, by_up)
    size = (N, F, C, PROGRAMS)
    one: gl.constexpr = 0
    other: gl.constexpr = 1
    gl.warp_specialize(
        [
            (_multiply_backward, (one, slopes, ring, halves, size, ROWS, HALF, DEPTH, GROUP)),
            (_multiply_backward, (other, slopes, ring, halves, size, ROWS, HALF, DEPTH, GROUP)),
            (_bring_backward, ((dy, down), slopes, ring, halves, size, HALF, GROUP)),
        ],
        [4, 4],
        [240, 24],
    )
