"""Triton kernels of the stem `ohem_threshold`; formulas: fastloss/reference/ohem_threshold.py.

The r-th smallest probability is found by radix histograms of the bits, which have the order of
integers: a pass for every 10 bits, nothing sorted. Integers alone are added atomically. All of it
stays on the device in `state`, int64: the number of valid pixels, that of pixels up to `thresh`,
how many of the others lie below the bits found so far, and these bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common

DIGIT = 10  # bits found in a pass
BLOCK = 4096

kernel = triton.jit(do_not_specialize=["n", "rank", "thresh", "shift"])


@triton.jit
def _number(bits, DTYPE: tl.constexpr):
    """A double given by its bits, of which the interpreter has 0 as an int32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(DTYPE)


@triton.jit
def _wanted(state, rank, MEAN: tl.constexpr):
    """The rank of the threshold among the pixels above `thresh`; 0 or less: none is searched."""
    valid, easy = tl.load(state), tl.load(state + 1)
    if MEAN:
        wanted = tl.where(rank < valid, rank - easy, 0)
    else:
        wanted = tl.minimum(rank, valid - 1) + 1 - easy
    return wanted


@kernel
def ohem_threshold_count(
    p, state, n, thresh: tl.int64, DTYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = common.load_block(p, i, n)
    tl.atomic_add(state, tl.sum(((i < n) & (x <= 1.0)).to(tl.int64), 0))
    easy = (i < n) & (x <= _number(thresh, DTYPE))
    tl.atomic_add(state + 1, tl.sum(easy.to(tl.int64), 0))


@kernel
def ohem_threshold_digit(
    p, state, histogram, n, rank: tl.int64, thresh: tl.int64, shift,
    MEAN: tl.constexpr, DIGIT: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The histogram of the digit at bit `shift` of the pixels with the bits found so far."""
    if _wanted(state, rank, MEAN) > 0:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = common.load_block(p, i, n)
        if DTYPE == tl.float64:
            key = x.to(tl.int64, bitcast=True) >> shift
        else:
            key = x.to(tl.int32, bitcast=True).to(tl.int64) >> shift
        searched = (i < n) & (x > _number(thresh, DTYPE)) & (x <= 1.0)
        searched &= key >> DIGIT == tl.load(state + 3)
        digit = tl.where(searched, (key & ((1 << DIGIT) - 1)).to(tl.int32), 0)
        counts = tl.histogram(digit, 1 << DIGIT, mask=searched)
        at = histogram + tl.arange(0, 1 << DIGIT)
        tl.atomic_add(at, counts.to(tl.int64), mask=counts > 0)


@kernel
def ohem_threshold_descend(
    state, histogram, result, rank: tl.int64, thresh: tl.int64,
    MEAN: tl.constexpr, DIGIT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Find the next digit of the threshold; after the last one the result is right."""
    counts = tl.load(histogram + tl.arange(0, 1 << DIGIT))
    below, bits = tl.load(state + 2), tl.load(state + 3)
    wanted = _wanted(state, rank, MEAN)
    passed = tl.cumsum(counts, 0) < wanted - below
    digit = tl.minimum(tl.sum(passed.to(tl.int64), 0), (1 << DIGIT) - 1)
    bits = (bits << DIGIT) | digit
    if DTYPE == tl.float64:
        found = bits.to(tl.float64, bitcast=True)
    else:
        found = bits.to(tl.int32).to(tl.float32, bitcast=True)
    t = tl.where(wanted > 0, found, _number(thresh, DTYPE))
    if MEAN:
        t = tl.where(rank < tl.load(state), t, 1.0)
    tl.store(state + 2, below + tl.sum(tl.where(passed, counts, 0), 0))
    tl.store(state + 3, bits)
    tl.store(result, t)


def forward(pixels: Tensor, rank: int, thresh: float, rule: str) -> Tensor:
    p = pixels[0].contiguous()
    programs, bits = triton.cdiv(p.numel(), BLOCK), common.bits(thresh)
    dtype = {"DTYPE": common.language_dtype(p)}
    mean = {"MEAN": rule == "gdl"}
    width = 8 * p.element_size() - 2  # the bits in front are 0 for numbers up to 1
    shifts = range(DIGIT * (triton.cdiv(width, DIGIT) - 1), -1, -DIGIT)
    state = torch.zeros(4, dtype=torch.int64, device=p.device)
    histograms = state.new_zeros(len(shifts), 1 << DIGIT)
    result = p.new_empty(())
    with torch.cuda.device_of(p):
        common.launch(
            ohem_threshold_count, programs, p, state, p.numel(), bits, BLOCK=BLOCK, **dtype
        )
        for shift, histogram in zip(shifts, histograms):
            common.launch(
                ohem_threshold_digit, programs, p, state, histogram, p.numel(), rank, bits, shift,
                DIGIT=DIGIT, BLOCK=BLOCK, **mean, **dtype,
            )  # fmt: skip
            common.launch(
                ohem_threshold_descend, 1, state, histogram, result, rank, bits, DIGIT=DIGIT,
                **mean, **dtype,
            )  # fmt: skip
    return result


implement("ohem_threshold", "triton", forward)
