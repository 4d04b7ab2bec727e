"""Triton kernel of the stem `hard_negative_mask`; rules: its reference.

A program has a row, which it reads once for every 8 bits of the smallest key chosen and twice more;
with masses, whose histogram would add in any order, once for every bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common

kernel = triton.jit(do_not_specialize=["n", "l_b", "k_b", "c_b"])


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
            takes = tl.load(negative + i * k_n, mask=i < n, other=0) != 0
            takes &= key >> 8 == found
            digit = (key & 255).to(tl.int32)
            counts += tl.histogram(tl.where(takes, digit, 0), 256, mask=takes).to(tl.int64)
        left = tl.minimum(left, tl.sum(counts, 0))  # not more than there are
        passed = tl.cumsum(counts, 0) < left
        digit = tl.minimum(tl.sum(passed.to(tl.int64), 0), 255)
        left -= tl.sum(tl.where(passed, counts, 0), 0)
        found = (found << 8) | digit.to(tl.uint64)
    for start in range(0, n, BLOCK):
        i = start + lanes
        key = _load_keys(loss, l_n, i, n, DTYPE).to(tl.uint64)
        takes = tl.load(negative + i * k_n, mask=i < n, other=0) != 0
        equal = (takes & (key == found)).to(tl.int64)
        chosen = (takes & (key < found)) | ((equal != 0) & (tl.cumsum(equal, 0) <= left))
        left -= tl.sum(equal, 0)
        tl.store(out + row * n + i, chosen.to(tl.uint8), mask=i < n)


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


def forward(loss: Tensor, negative: Tensor, count: Tensor) -> Tensor:
    rows, n = loss.shape
    out = torch.empty((rows, n), dtype=torch.uint8, device=loss.device)
    by_mass = negative.dtype != torch.bool
    with torch.cuda.device_of(loss):
        common.launch(
            hard_negative_mask_by_mass if by_mass else hard_negative_mask, rows,
            loss, *loss.stride(), negative if by_mass else negative.view(torch.uint8),
            *negative.stride(), count, *count.stride(), out, n,
            BITS=64 if loss.dtype == torch.float64 else 32, DTYPE=common.language_dtype(loss),
            BLOCK=common.BLOCK,
        )  # fmt: skip
    return out.view(torch.bool)


implement("hard_negative_mask", "triton", forward)
