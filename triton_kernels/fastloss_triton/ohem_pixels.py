"""Triton kernels of the stem `ohem_pixels`; formulas: fastloss/reference/ohem_pixels.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference.ohem_pixels import HARDEST, IGNORED
from . import _common as common
from . import cross_entropy
from ._pixels import (
    NO_IGNORE,
    elements_per_lane,
    image_and_pixels,
    kernel,
    load_labels,
    load_tile,
    of_class,
    strides,
    tiles,
)


@triton.jit
def _quotient(a, b):
    """a / b rounded once; Triton's division of float32 errs by two ulp."""
    if a.dtype == tl.float32:
        value = tl.div_rn(a, b)
    else:
        value = a / b
    return value


@kernel
def ohem_pixels_fwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    out, out_plane,  # (2, N, P)
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    IGNORED: tl.constexpr, HARDEST: tl.constexpr, DTYPE: tl.constexpr, CB: tl.constexpr,
    PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        label, inside, valid = load_labels(target + n * t_n, p, t_p, ignore_index, classes, pixels)
        d = x - tl.max(x, 0)[None, :]
        own, rest, e_own, log_sum = of_class(d, c[:, None] == label[None, :], inside)
        probability = _quotient(e_own, rest + e_own)
        if DTYPE == tl.float64:
            small = probability < 2.0 * common.TINY_DOUBLE
        else:
            small = probability < 2.0 * common.TINY
        probability = tl.where(small, 0.0, probability)
        known = inside & (probability == probability)
        probability = tl.where(known, probability, HARDEST)
        probability = tl.where(valid, probability, IGNORED).to(DTYPE)
        nll = tl.where(inside, log_sum - own, float("nan"))
        at = out + n * pixels + p
        tl.store(at, probability, mask=p < pixels)
        tl.store(at + out_plane, tl.where(valid, nll, 0.0).to(DTYPE), mask=p < pixels)


def forward(logits: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    dealt = tiles(logits, elements_per_lane(1, False, 0.0))
    out = logits.new_empty((2, *target.shape), dtype=common.compute_dtype(logits))
    ignored = NO_IGNORE if ignore_index is None else ignore_index
    with torch.cuda.device_of(logits):
        common.launch(
            ohem_pixels_fwd, dealt.programs, logits, *strides(logits), target, *target.stride(),
            out, target.numel(), ignored, logits.shape[2], *dealt.sizes(), IGNORED=IGNORED,
            HARDEST=HARDEST, DTYPE=common.language_dtype(logits), **dealt.constants(),
        )  # fmt: skip
    return out


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, ignore_index: int | None, needs: int
) -> Tensor:
    return cross_entropy.backward(
        grad[1], logits, target, None, None, None, ignore_index, 0.0, None, "none", True, needs
    )[0]


implement("ohem_pixels", "triton", forward)
implement("ohem_pixels_backward", "triton", backward)
