"""Triton kernels of slot statistics: N slots of M elements each, CHUNKS programs a slot."""

import triton
import triton.language as tl

_TINY = tl.constexpr(1.1754943508222875e-38)  # the smallest normal float


@triton.jit
def first_look(slots, words, sums, largest, counts, M, CHUNKS: tl.constexpr,
               BLOCK: tl.constexpr):  # fmt: skip
    """Of each chunk: sum, largest absolute value, and how many are 0, not finite, and NaN.

    And its part of the fingerprint, by the numbers of `slot_statistics.fingerprints`.
    """
    slot, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    each = tl.cdiv(tl.cdiv(M, CHUNKS), BLOCK) * BLOCK
    total = tl.zeros((BLOCK,), tl.float32)
    top = tl.zeros((BLOCK,), tl.float32)
    zeros = tl.zeros((BLOCK,), tl.int32)
    broken = tl.zeros((BLOCK,), tl.int32)
    nans = tl.zeros((BLOCK,), tl.int32)
    mark = tl.zeros((BLOCK,), tl.int32)
    for start in range(chunk * each, tl.minimum(chunk * each + each, M), BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < M
        x = tl.load(slots + slot * M + place, mask=inside, other=0.0).to(tl.float32)
        word = tl.load(words + slot * M + place, mask=inside, other=0).to(tl.int32)
        total += x
        top = tl.maximum(top, tl.abs(x))
        zeros += ((x == 0) & inside).to(tl.int32)
        broken += (x - x != 0).to(tl.int32)
        nans += (x != x).to(tl.int32)  # noqa: PLR0124 - no other number differs from itself
        mark += word * ((place * -1640531527) ^ (place >> 7) | 1)
    at = slot * CHUNKS + chunk
    tl.store(sums + at, tl.sum(total, 0))
    tl.store(largest + at, tl.max(top, 0))
    tl.store(counts + at * 4, tl.sum(zeros, 0))
    tl.store(counts + at * 4 + 1, tl.sum(broken, 0))
    tl.store(counts + at * 4 + 2, tl.sum(nans, 0))
    tl.store(counts + at * 4 + 3, tl.sum(mark.to(tl.int64), 0).to(tl.int32))


@triton.jit
def second_look(slots, sums, largest, powers, M, CHUNKS: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    """Of each chunk: sums of the second and fourth power of deviations over the slot's largest."""
    slot, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    each = tl.cdiv(tl.cdiv(M, CHUNKS), BLOCK) * BLOCK
    every = slot * CHUNKS + tl.arange(0, CHUNKS)
    mean = (tl.sum(tl.load(sums + every).to(tl.float64), 0) / M).to(tl.float32)
    scale = tl.maximum(tl.max(tl.load(largest + every), 0), _TINY)
    second = tl.zeros((BLOCK,), tl.float32)
    fourth = tl.zeros((BLOCK,), tl.float32)
    for start in range(chunk * each, tl.minimum(chunk * each + each, M), BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < M
        x = tl.load(slots + slot * M + place, mask=inside, other=0.0).to(tl.float32)
        deviation = tl.where(inside, (x - mean) / scale, 0.0)
        square = deviation * deviation
        second += square
        fourth += square * square
    at = (slot * CHUNKS + chunk) * 2
    tl.store(powers + at, tl.sum(second, 0))
    tl.store(powers + at + 1, tl.sum(fourth, 0))
