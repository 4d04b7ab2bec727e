"""Geometry of pairs of xyxy boxes, shared by the Triton kernels of the box losses."""

import triton
import triton.language as tl

from ._common import TINY, TINY_DOUBLE

# Boxes per program: one for each lane. The derivatives of eight fill more than the 255 registers of
# a lane, and with one nothing is exchanged between lanes but the sum.
BOXES = 128


@triton.jit
def load_boxes(boxes, i, n, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """x1, y1, x2, y2 (BLOCK) of boxes i: one 16-byte load each, transposed in registers."""
    at = i[:, None] * 4 + tl.arange(0, 4)[None, :]
    tile = tl.load(boxes + at, mask=(i < n)[:, None], other=0.0).to(DTYPE)  # (BLOCK, 4)
    x, y = tl.split(tl.reshape(tile, (BLOCK, 2, 2)))  # (BLOCK, 2) each: x1 x2, y1 y2
    x1, x2 = tl.split(x)
    y1, y2 = tl.split(y)
    return x1, y1, x2, y2


@triton.jit
def store_boxes(out, x1, y1, x2, y2, i, n, BLOCK: tl.constexpr):
    tile = tl.reshape(tl.join(tl.join(x1, x2), tl.join(y1, y2)), (BLOCK, 4))
    at = i[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(out + at, tile.to(out.dtype.element_ty), mask=(i < n)[:, None])


@triton.jit
def _largest(x1, y1, x2, y2):
    return tl.maximum(tl.maximum(tl.abs(x1), tl.abs(y1)), tl.maximum(tl.abs(x2), tl.abs(y2)))


@triton.jit
def scale_of(px1, py1, px2, py2, tx1, ty1, tx2, ty2, DTYPE: tl.constexpr):
    """The power of two that keeps products finite; 0, or NaN where a coordinate is not finite."""
    largest = tl.maximum(_largest(px1, py1, px2, py2), _largest(tx1, ty1, tx2, ty2))
    one = tl.zeros_like(largest) + 1.0  # a where of two constants would round them to float32
    if DTYPE == tl.float64:
        scale = tl.where(largest > 3.273390607896142e150, one * 9.332636185032189e-302, one)
    else:
        scale = tl.where(largest > 1.152921504606847e18, one * 8.470329472543003e-22, one)
    poison = 0.0 * px1 + 0.0 * py1 + 0.0 * px2 + 0.0 * py2
    poison += 0.0 * tx1 + 0.0 * ty1 + 0.0 * tx2 + 0.0 * ty2
    return scale, poison


@triton.jit
def inverse(x):
    """1 / x, and 0 where x is below the smallest normal number, whose inverse may overflow."""
    if x.dtype == tl.float64:
        small = tl.abs(x) < TINY_DOUBLE
    else:
        small = tl.abs(x) < TINY
    return tl.where(small, 0.0, 1.0 / tl.where(small, 1.0, x))


@triton.jit
def overlap(p1, p2, t1, t2):
    return tl.minimum(p2, t2) - tl.maximum(p1, t1)


@triton.jit
def hull(p1, p2, t1, t2):
    return tl.maximum(p2, t2) - tl.minimum(p1, t1)


@triton.jit
def wins(a, b):
    """d max(a, b) / da."""
    return tl.where(a > b, 1.0, tl.where(a == b, 0.5, 0.0)).to(a.dtype)


@triton.jit
def coordinates(p1, p2, t1, t2, g_p, g_t, g_overlap, g_hull, g_shift):
    """Chain rule from the sizes, overlap, hull and shift of an axis to its four coordinates."""
    first, last = wins(p1, t1), wins(p2, t2)
    return (
        -g_p - g_overlap * first - g_hull * (1.0 - first) - g_shift,
        g_p + g_overlap * (1.0 - last) + g_hull * last - g_shift,
        -g_t - g_overlap * (1.0 - first) - g_hull * first + g_shift,
        g_t + g_overlap * last + g_hull * (1.0 - last) + g_shift,
    )
