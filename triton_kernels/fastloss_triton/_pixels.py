"""What the kernels on logits (N, C, P) share: tiles of classes by pixels, labels, softmax.

A program goes through some consecutive blocks of pixels of one image, all classes at a time, so
that everything a pixel needs comes from one read. Which pixels it has depends on the shape only.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import log1p

NO_IGNORE = -(2**63)
PROGRAMS = 4096  # beyond so many, programs go through more blocks rather than become more

# Strides and the number of pixels decide whether loads are vectors; the rest does not matter.
kernel = triton.jit(
    do_not_specialize=[
        "classes", "chunks", "blocks", "ignore_index", "g_g", "g_s", "g_c", "g_n", "g_p", "w_c",
        "bins", "c", "count", "f_n", "groups", "programs", "s_n", "shift", "size",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Tiles:
    """How the pixels of a shape (N, C, P) are dealt out."""

    classes: int
    chunks: int  # programs for each image
    blocks: int  # of pixels, for each program
    programs: int
    class_block: int
    pixel_block: int

    def sizes(self) -> tuple[int, int, int]:
        return self.classes, self.chunks, self.blocks

    num_warps: int

    def constants(self) -> dict[str, Any]:
        return {"CB": self.class_block, "PB": self.pixel_block, "num_warps": self.num_warps}


def elements_per_lane(values: int, dense: bool, *exponents: float) -> int:
    """As many as fit into the registers, for so many statistics of each, with factors of these
    exponents; a dense target needs addresses and a gradient too."""
    if values > 8:
        return 2 if dense else 4
    return 8 if values > 3 or not set(exponents) <= {0.0, 1.0, 2.0} else 16


def tiles(logits: Tensor, lane: int) -> Tiles:
    """`lane` elements for each lane. With many classes programs have more warps, so that the pixels
    of a class still fill sectors of memory."""
    n, classes, pixels = logits.shape
    lane = min(lane, 8) if logits.dtype == torch.float64 else lane
    warps = 16 if lane == 16 else 8  # at most: more warps have fewer registers each
    class_block = triton.next_power_of_2(max(classes, 1))
    wanted = min(32 * warps * lane // class_block, 32)
    pixel_block = min(max(128 * lane // class_block, wanted, 8), 1024)
    warps = min(max(class_block * pixel_block // (32 * lane), 4), warps)
    every = triton.cdiv(pixels, pixel_block)
    blocks = min(max(n * every // PROGRAMS, 2), 64)
    chunks = triton.cdiv(every, blocks)
    programs = n * chunks if classes else 0
    return Tiles(classes, chunks, blocks, programs, class_block, pixel_block, warps)


def strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of image, class and pixel; 0 for a dimension that x has not."""
    if x.dim() == 3:
        n, c, p = x.stride()
        return n, c, p
    return (x.stride(0), 0, x.stride(1)) if x.dim() == 2 else (0, 0, 0)


@triton.jit
def image_and_pixels(chunks, blocks, pixels, PB: tl.constexpr):
    """The image of this program, its first pixel and the one after its last."""
    program = tl.program_id(0).to(tl.int64)
    begin = program % chunks * blocks * PB
    return program // chunks, begin, tl.minimum(begin + blocks * PB, pixels)


@triton.jit
def load_tile(x, c, p, x_c, x_p, classes, pixels, DTYPE: tl.constexpr):
    """Elements (c, p) of an image; -inf outside, which changes no softmax."""
    at = c.to(tl.int64)[:, None] * x_c + p[None, :] * x_p
    inside = (c < classes)[:, None] & (p < pixels)[None, :]
    return tl.load(x + at, mask=inside, other=float("-inf")).to(DTYPE)


@triton.jit
def load_labels(target, p, t_p, ignore_index, classes, pixels):
    """The class of each pixel, -1 where out of range; whether it is in range, and valid."""
    label = tl.load(target + p * t_p, mask=p < pixels, other=0).to(tl.int64)
    inside = (label >= 0) & (label < classes)
    valid = (label != ignore_index) & (p < pixels)
    return tl.where(inside, label, -1).to(tl.int32), inside, valid


@triton.jit
def softmax(x, hot, inside):
    """Of a tile x (C, P) with at most one class `hot` in each column: p, and p - hot; ln p; for the
    hot class -ln p, 1 - p and p.

    Small numbers keep their relative accuracy: 1 - p is the sum of the other classes, and ln of
    the sum over all classes is log1p of that sum where the hot class is the largest.
    """
    d = x - tl.max(x, 0)[None, :]
    own, rest, e_own, log_sum = of_class(d, hot, inside)
    inverse = 1.0 / (rest + e_own)
    p, miss = tl.exp(d) * inverse[None, :], rest * inverse
    shifted = tl.where(hot, -miss[None, :], p)
    return p, shifted, d - log_sum[None, :], log_sum - own, miss, e_own * inverse


@triton.jit
def of_class(d, hot, inside):
    """Of a tile d (C, P) of logits less the largest of each column, with e = exp(d): d of the hot
    class, the sum of e over the others, e of it, ln of the sum of all e."""
    own = tl.sum(tl.where(hot, d, 0.0), 0)
    rest = tl.sum(tl.where(hot, 0.0, tl.exp(d)), 0)
    e_own = tl.where(inside, tl.exp(own), 0.0)
    log_sum = tl.where(inside & (own == 0.0), log1p(rest), tl.log(rest + e_own))
    return own, rest, e_own, log_sum
