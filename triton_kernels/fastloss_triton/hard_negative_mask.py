"""Triton kernel of the stem `hard_negative_mask`; rules: its reference.

A program has a row, which it reads once for every 8 bits of the smallest key chosen and twice more.
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


def forward(loss: Tensor, negative: Tensor, count: Tensor) -> Tensor:
    rows, n = loss.shape
    out = torch.empty((rows, n), dtype=torch.uint8, device=loss.device)
    with torch.cuda.device_of(loss):
        common.launch(
            hard_negative_mask, rows, loss, *loss.stride(), negative.view(torch.uint8),
            *negative.stride(), count, *count.stride(), out, n,
            BITS=64 if loss.dtype == torch.float64 else 32, DTYPE=common.language_dtype(loss),
            BLOCK=common.BLOCK,
        )  # fmt: skip
    return out.view(torch.bool)


implement("hard_negative_mask", "triton", forward)
