"""Triton kernels of the stem `hard_negative_mask`; rules: its reference.

A program has a row, which it reads once for every 8 bits of the last key chosen and once more; with
masses, whose histogram would add in any order, once for every bit. Longer rows without masses have
many programs, and a launch for each of these passes; the integers that they share are added
atomically or in order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common

LONG = 1 << 16  # elements of a row that is shared
CHUNK = 4096  # of a long row, for each program
kernel = triton.jit(do_not_specialize=["n", "l_b", "k_b", "c_b", "chunks", "shift"])


@triton.jit
def _load_keys(loss, l_n, i, n, DTYPE: tl.constexpr):
    """Unsigned integers with the order of the losses, reversed: NaN first, 0 and -0 the same."""
    x = tl.load(loss + i * l_n, mask=i < n, other=0.0).to(DTYPE)
    x = tl.where(x == 0.0, 0.0, x)
    if DTYPE == tl.float64:
        bits = x.to(tl.int64, bitcast=True)
        key = tl.where(bits < 0, bits, bits ^ 0x7FFFFFFFFFFFFFFF).to(tl.uint64, bitcast=True)
    else:
        bits = x.to(tl.int32, bitcast=True)
        key = tl.where(bits < 0, bits, bits ^ 0x7FFFFFFF).to(tl.uint32, bitcast=True)
    return tl.where(x == x, key, 0).to(key.dtype)


@triton.jit
def _load_masses(negative, k_n, i, n):
    """Masses in float64; 0 for what is no negative."""
    mass = tl.load(negative + i * k_n, mask=i < n, other=0).to(tl.float64)
    return tl.where(mass > 0.0, mass, 0.0).to(tl.float64)


@triton.jit
def _mass_before(
    loss, l_n, negative, k_n, n, key, lanes,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of all keys below `key`."""
    total = tl.zeros((), tl.float64)
    for start in range(0, n, BLOCK):
        i = start + lanes
        before = _load_keys(loss, l_n, i, n, DTYPE).to(tl.uint64) < key
        total += tl.sum(tl.where(before, _load_masses(negative, k_n, i, n), 0.0), 0)
    return total


@triton.jit
def _is_negative(negative, k_n, i, n):
    return tl.load(negative + i * k_n, mask=i < n, other=0) != 0


@triton.jit
def _histogram(key, takes, found):
    """Of the last 8 bits of the keys whose other bits are those found."""
    takes &= key >> 8 == found
    digit = tl.where(takes, (key & 255).to(tl.int32), 0)
    return tl.histogram(digit, 256, mask=takes).to(tl.int64)


@triton.jit
def _descend(counts, found, left):
    """8 more bits of the last key chosen, and how many keys with these bits are."""
    left = tl.minimum(left, tl.sum(counts, 0))  # not more than there are
    passed = tl.cumsum(counts, 0) < left
    digit = tl.minimum(tl.sum(passed.to(tl.int64), 0), 255)
    return (found << 8) | digit.to(tl.uint64), left - tl.sum(tl.where(passed, counts, 0), 0)


@triton.jit
def _chosen(key, takes, found, left):
    """Which are chosen, `left` of those with the last key; how many have it."""
    equal = (takes & (key == found)).to(tl.int64)
    chosen = (takes & (key < found)) | ((equal != 0) & (tl.cumsum(equal, 0) <= left))
    return chosen.to(tl.uint8), tl.sum(equal, 0)


@kernel
def hard_negative_mask(
    loss, l_b, l_n,  # (B, N)
    negative, k_b, k_n,  # (B, N), as uint8
    count, c_b,  # (B)
    out,  # (B, N), as uint8
    n, BITS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    loss += row * l_b
    negative += row * k_b
    lanes = tl.arange(0, BLOCK).to(tl.int64)  # times a stride it may pass 2^31
    found = tl.zeros((), tl.uint64)  # the leading bits of the last key chosen
    left = tl.load(count + row * c_b).to(tl.int64)  # how many keys with these bits are chosen
    for level in range(0, BITS, 8):
        counts = tl.zeros((256,), tl.int64)
        for start in range(0, n, BLOCK):
            i = start + lanes
            key = _load_keys(loss, l_n, i, n, DTYPE).to(tl.uint64) >> (BITS - 8 - level)
            counts += _histogram(key, _is_negative(negative, k_n, i, n), found)
        found, left = _descend(counts, found, left)
    for start in range(0, n, BLOCK):
        i = start + lanes
        key = _load_keys(loss, l_n, i, n, DTYPE).to(tl.uint64)
        chosen, equal = _chosen(key, _is_negative(negative, k_n, i, n), found, left)
        left -= equal
        tl.store(out + row * n + i, chosen, mask=i < n)


@triton.jit
def _row_and_chunk(chunks, BLOCK: tl.constexpr):
    """The row of this program, its chunk, and the elements of that."""
    program = tl.program_id(0).to(tl.int64)
    return program // chunks, program % chunks, program % chunks * BLOCK + tl.arange(0, BLOCK)


@kernel
def hard_negative_mask_digit(
    loss, l_b, l_n,  # (B, N)
    negative, k_b, k_n,  # (B, N), as uint8
    found,  # (B), the leading bits of the last key chosen, as int64
    histogram,  # (B, 256)
    n, chunks, shift, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, _, i = _row_and_chunk(chunks, BLOCK)
    key = _load_keys(loss + row * l_b, l_n, i, n, DTYPE).to(tl.uint64) >> shift.to(tl.uint64)
    takes = _is_negative(negative + row * k_b, k_n, i, n)
    counts = _histogram(key, takes, tl.load(found + row).to(tl.uint64, bitcast=True))
    tl.atomic_add(histogram + row * 256 + tl.arange(0, 256), counts, mask=counts > 0)


@kernel
def hard_negative_mask_descend(
    histogram,  # (B, 256)
    found, left,  # (B), as int64
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    counts = tl.load(histogram + row * 256 + tl.arange(0, 256))
    bits = tl.load(found + row).to(tl.uint64, bitcast=True)
    bits, kept = _descend(counts, bits, tl.load(left + row))
    tl.store(found + row, bits.to(tl.int64, bitcast=True))
    tl.store(left + row, kept)


@kernel
def hard_negative_mask_mark(
    loss, l_b, l_n,  # (B, N)
    negative, k_b, k_n,  # (B, N), as uint8
    found, left,  # (B), as int64
    equals,  # (B, chunks) int64, of the last key chosen: how many, then with those of chunks before
    out,  # (B, N), as uint8
    n, chunks, COUNT: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, chunk, i = _row_and_chunk(chunks, BLOCK)
    key = _load_keys(loss + row * l_b, l_n, i, n, DTYPE).to(tl.uint64)
    takes = _is_negative(negative + row * k_b, k_n, i, n)
    bits = tl.load(found + row).to(tl.uint64, bitcast=True)
    at = equals + row * chunks + chunk
    if COUNT:
        tl.store(at, tl.sum((takes & (key == bits)).to(tl.int64), 0))
    else:
        own = tl.sum((takes & (key == bits)).to(tl.int64), 0)
        before = tl.load(at) - own
        chosen, _ = _chosen(key, takes, bits, tl.load(left + row) - before)
        tl.store(out + row * n + i, chosen, mask=i < n)


@kernel
def hard_negative_mask_by_mass(
    loss, l_b, l_n,  # (B, N)
    negative, k_b, k_n,  # (B, N), masses
    count, c_b,  # (B), float64
    out,  # (B, N), as uint8
    n, BITS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    loss += row * l_b
    negative += row * k_b
    lanes = tl.arange(0, BLOCK).to(tl.int64)
    limit = tl.load(count + row * c_b)
    found = tl.zeros((), tl.uint64)  # the largest key before which the mass is at most the limit
    bit = tl.full((), 1, tl.uint64) << (BITS - 1)
    for _ in range(BITS):
        key = found | bit
        fits = _mass_before(loss, l_n, negative, k_n, n, key, lanes, DTYPE, BLOCK) <= limit
        found = tl.where(fits, key, found)
        bit = bit >> 1
    sum_before = _mass_before(loss, l_n, negative, k_n, n, found, lanes, DTYPE, BLOCK)
    for start in range(0, n, BLOCK):
        i = start + lanes
        key = _load_keys(loss, l_n, i, n, DTYPE).to(tl.uint64)
        mass = _load_masses(negative, k_n, i, n)
        equal = tl.where(key == found, mass, 0.0)
        fits = sum_before + tl.cumsum(equal, 0) <= limit
        chosen = (mass > 0.0) & ((key < found) | ((key == found) & fits))
        sum_before += tl.sum(equal, 0)
        tl.store(out + row * n + i, chosen.to(tl.uint8), mask=i < n)


def _of_long_rows(loss: Tensor, negative: Tensor, count: Tensor, out: Tensor) -> None:
    rows, n = loss.shape
    chunks = triton.cdiv(n, CHUNK)
    width = 64 if loss.dtype == torch.float64 else 32
    found, left = count.new_zeros(rows, dtype=torch.int64), count.to(torch.int64, copy=True)
    histograms = found.new_zeros(width // 8, rows, 256)
    equals = found.new_empty(rows, chunks)
    tensors = (loss, *loss.stride(), negative, *negative.stride())
    constants = {"DTYPE": common.language_dtype(loss), "BLOCK": CHUNK, "num_warps": 8}
    for level, histogram in enumerate(histograms):
        common.launch(
            hard_negative_mask_digit, rows * chunks, *tensors, found, histogram, n, chunks,
            width - 8 - 8 * level, **constants,
        )  # fmt: skip
        common.launch(hard_negative_mask_descend, rows, histogram, found, left)

    def mark(equals: Tensor, counting: bool) -> None:
        common.launch(
            hard_negative_mask_mark, rows * chunks, *tensors, found, left, equals, out, n, chunks,
            COUNT=counting, **constants,
        )  # fmt: skip

    mark(equals, counting=True)
    mark(equals.cumsum(1), counting=False)


def forward(loss: Tensor, negative: Tensor, count: Tensor) -> Tensor:
    rows, n = loss.shape
    out = torch.empty((rows, n), dtype=torch.uint8, device=loss.device)
    by_mass = negative.dtype != torch.bool
    flags = negative if by_mass else negative.view(torch.uint8)
    with torch.cuda.device_of(loss):
        if n > LONG and not by_mass:
            _of_long_rows(loss, flags, count, out)
            return out.view(torch.bool)
        common.launch(
            hard_negative_mask_by_mass if by_mass else hard_negative_mask, rows,
            loss, *loss.stride(), flags, *flags.stride(), count, *count.stride(), out, n,
            BITS=64 if loss.dtype == torch.float64 else 32, DTYPE=common.language_dtype(loss),
            BLOCK=common.BLOCK,
        )  # fmt: skip
    return out.view(torch.bool)


implement(
    "hard_negative_mask", "triton", forward, "torch.cumsum of a number for each part of a long row"
)
