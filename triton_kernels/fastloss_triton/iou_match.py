"""Triton kernels of the stem `iou_match`, xyxy; rules: its reference.

A program has a tile of the boxes of an image and goes through the targets; those that do not
intersect the bounding box of the tile have IoU 0 with all of it and are passed over. The first
kernel leaves the maximum of each target, the second compares with it: both compute the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._boxes import load_boxes, scale_of

# Anchors are in raster order: more boxes would have a bounding box that meets more targets.
BOXES = 256
NAN, INFINITY = tl.constexpr(float("nan")), tl.constexpr(float("inf"))
# Coordinates up to this size need no scale, see `scale_of`.
TAME, TAME_DOUBLE = tl.constexpr(2.0**60), tl.constexpr(2.0**500)


kernel = triton.jit(
    do_not_specialize=[
        "n", "m", "tiles", "stride", "positive", "negative", "min_positive", "eps",
    ]
)  # fmt: skip


@triton.jit
def _number(bits, DTYPE: tl.constexpr):
    """A double of which the bits were passed, rounded to DTYPE."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(DTYPE)


@triton.jit
def _are_tame(largest):
    if largest.dtype == tl.float64:
        tame = largest <= TAME_DOUBLE
    else:
        tame = largest <= TAME
    return tame


@triton.jit
def _tile(boxes, stride, image, start, n, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """Coordinates of the boxes of a tile, those that are not finite as 0; which are; bounding box
    and largest coordinate."""
    i = start + tl.arange(0, BLOCK)
    x1, y1, x2, y2 = load_boxes(boxes + image * stride, i, n, BLOCK, DTYPE)
    finite = (i < n) & (x1 * 0.0 + y1 * 0.0 + x2 * 0.0 + y2 * 0.0 == 0.0)
    # What is left out does not widen the bounding box.
    left, top = tl.where(finite, x1, INFINITY), tl.where(finite, y1, INFINITY)
    right, bottom = tl.where(finite, x2, -INFINITY), tl.where(finite, y2, -INFINITY)
    left, top = tl.min(left, 0), tl.min(top, 0)
    right, bottom = tl.max(right, 0), tl.max(bottom, 0)
    x1, y1 = tl.where(finite, x1, 0.0), tl.where(finite, y1, 0.0)
    x2, y2 = tl.where(finite, x2, 0.0), tl.where(finite, y2, 0.0)
    largest = tl.maximum(tl.maximum(tl.abs(x1), tl.abs(y1)), tl.maximum(tl.abs(x2), tl.abs(y2)))
    tame = _are_tame(tl.max(largest, 0))
    return i, x1, y1, x2, y2, finite, left, top, right, bottom, tame


@triton.jit
def _target(targets, mask, at, HAS_MASK: tl.constexpr, DTYPE: tl.constexpr):
    """Coordinates of a target, and whether it exists."""
    x1, y1 = tl.load(targets + at * 4).to(DTYPE), tl.load(targets + at * 4 + 1).to(DTYPE)
    x2, y2 = tl.load(targets + at * 4 + 2).to(DTYPE), tl.load(targets + at * 4 + 3).to(DTYPE)
    real = x1 * 0.0 + y1 * 0.0 + x2 * 0.0 + y2 * 0.0 == 0.0
    if HAS_MASK:
        real = real & (tl.load(mask + at) != 0)
    largest = tl.maximum(tl.maximum(tl.abs(x1), tl.abs(y1)), tl.maximum(tl.abs(x2), tl.abs(y2)))
    return x1, y1, x2, y2, real, _are_tame(largest)


@triton.jit
def _meets(left, top, right, bottom, x1, y1, x2, y2):
    """Whether the bounding box of a tile and a target have a common area."""
    width = tl.minimum(right, x2) > tl.maximum(left, x1)
    return width & (tl.minimum(bottom, y2) > tl.maximum(top, y1))


@triton.jit
def _ratio(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, eps):
    """I / max(U, eps), each operation rounded once."""
    width = tl.maximum(tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1), 0.0)
    height = tl.maximum(tl.minimum(ay2, by2) - tl.maximum(ay1, by1), 0.0)
    inter = width * height
    union = ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1)) - inter
    union = tl.maximum(union, eps)
    if inter.dtype == tl.float64:
        value = inter / union
    else:
        value = tl.div_rn(inter, union)
    return tl.where(inter > 0.0, value, 0.0)  # without eps, 0 / 0


@triton.jit
def _iou(
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, tame, eps, DTYPE: tl.constexpr
):  # fmt: skip
    """IoU of the boxes a (BLOCK) with the target b; not `tame`: they are scaled first."""
    zero = tl.zeros_like(ax1)
    if tame:
        value = _ratio(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, zero + eps)
    else:
        s, _ = scale_of(ax1, ay1, ax2, ay2, zero + bx1, zero + by1, zero + bx2, zero + by2, DTYPE)
        value = _ratio(
            ax1 * s, ay1 * s, ax2 * s, ay2 * s, bx1 * s, by1 * s, bx2 * s, by2 * s,
            (zero + eps) * s * s,
        )  # fmt: skip
    return value


@kernel
def iou_match_best(
    boxes, stride,  # (images, n, 4), or (n, 4) with stride 0
    targets,  # (images, m, 4)
    mask,  # (images, m), as uint8
    tops,  # (images, m): bits of the targets' maxima, 0 at first
    index, out,  # (images, n)
    n, m, tiles, positive: tl.int64, negative: tl.int64, eps: tl.int64,
    TOPS: tl.constexpr, HAS_MASK: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Index and IoU without low-quality matches; with TOPS the maxima of the targets."""
    program = tl.program_id(0).to(tl.int64)
    image, start = program // tiles, program % tiles * BLOCK
    i, x1, y1, x2, y2, finite, left, top, right, bottom, tame = _tile(
        boxes, stride, image, start, n, BLOCK, DTYPE
    )
    eps = _number(eps, DTYPE)
    best = tl.zeros((BLOCK,), DTYPE)
    own = tl.full((BLOCK,), -1, tl.int32)
    first = tl.full((), -1, tl.int32)  # the first target, which has the best IoU if that is 0
    for j in range(0, m):
        at = image * m + j
        bx1, by1, bx2, by2, real, is_tame = _target(targets, mask, at, HAS_MASK, DTYPE)
        first = tl.where(real & (first < 0), j, first)
        if real & _meets(left, top, right, bottom, bx1, by1, bx2, by2):
            iou = _iou(x1, y1, x2, y2, bx1, by1, bx2, by2, tame & is_tame, eps, DTYPE)
            own = tl.where(iou > best, j, own)
            best = tl.where(iou > best, iou, best)
            if TOPS:  # numbers that are not negative are in the order of their bits
                greatest = tl.max(iou, 0).to(tops.dtype.element_ty, bitcast=True)
                tl.atomic_max(tops + at, greatest, sem="relaxed")
    own = tl.where(own < 0, first, own)
    value = tl.where(best < _number(negative, DTYPE), -1, -2)
    value = tl.where(best >= _number(positive, DTYPE), own, value)
    value = tl.where(finite, tl.where(first < 0, -1, value), -2)
    at = image * n + i
    tl.store(index + at, value.to(tl.int64), mask=i < n)
    best = tl.where(finite, best, NAN)
    tl.store(out + at, best.to(out.dtype.element_ty), mask=i < n)


@kernel
def iou_match_equal(
    boxes, stride,  # as above
    targets, mask, tops, index,
    n, m, tiles, min_positive: tl.int64, eps: tl.int64,
    OWN: tl.constexpr, HAS_MASK: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The low-quality matches; OWN: they go to the best target of the box."""
    program = tl.program_id(0).to(tl.int64)
    image, start = program // tiles, program % tiles * BLOCK
    i, x1, y1, x2, y2, finite, left, top, right, bottom, tame = _tile(
        boxes, stride, image, start, n, BLOCK, DTYPE
    )
    eps = _number(eps, DTYPE)
    best = tl.zeros((BLOCK,), DTYPE)
    own, match = tl.full((BLOCK,), -1, tl.int32), tl.full((BLOCK,), -1, tl.int32)
    first = tl.full((), -1, tl.int32)
    for j in range(0, m):
        at = image * m + j
        bx1, by1, bx2, by2, real, is_tame = _target(targets, mask, at, HAS_MASK, DTYPE)
        first = tl.where(real & (first < 0), j, first)
        greatest = tl.load(tops + at).to(DTYPE, bitcast=True)
        # One that takes no box has an IoU that no box has.
        greatest = tl.where(real & (greatest >= _number(min_positive, DTYPE)), greatest, -1.0).to(
            DTYPE
        )
        if real & _meets(left, top, right, bottom, bx1, by1, bx2, by2):
            iou = _iou(x1, y1, x2, y2, bx1, by1, bx2, by2, tame & is_tame, eps, DTYPE)
            match = tl.where(iou == greatest, j, match)
            if OWN:
                own = tl.where(iou > best, j, own)
                best = tl.where(iou > best, iou, best)
        else:
            match = tl.where(greatest == 0.0, j, match)
    if OWN:
        own = tl.where(own < 0, first, own)
        match = tl.where(match < 0, match, own)
    tl.store(index + image * n + i, match.to(tl.int64), mask=finite & (match >= 0))


def forward(
    boxes: Tensor,
    target_boxes: Tensor,
    mask: Tensor | None,
    positive: float,
    negative: float,
    min_positive: float,
    low_quality: bool,
    low_quality_index: str,
    eps: float,
    widen: bool,
) -> tuple[Tensor, Tensor]:
    images, m = target_boxes.shape[:2]
    n = boxes.shape[-2]
    index = boxes.new_empty(images, n, dtype=torch.int64)
    iou = boxes.new_empty(images, n, dtype=common.result_dtype(boxes, widen))
    double = boxes.dtype == torch.float64
    tops = boxes.new_zeros(images, m, dtype=torch.int64 if double else torch.int32)
    tiles = triton.cdiv(n, BOXES)
    targets = target_boxes.contiguous()
    flags = targets if mask is None else mask.contiguous().view(torch.uint8)
    inputs = (boxes.contiguous(), n * 4 if boxes.dim() == 3 else 0, targets, flags, tops, index)
    options = {"HAS_MASK": mask is not None, "BLOCK": BOXES}
    options["DTYPE"] = common.language_dtype(boxes)
    positive, negative, min_positive, eps = map(
        common.bits, (positive, negative, min_positive, eps)
    )
    with torch.cuda.device_of(boxes):
        common.launch(
            iou_match_best, images * tiles, *inputs, iou, n, m, tiles, positive, negative, eps,
            TOPS=low_quality, **options,
        )  # fmt: skip
        if low_quality:
            common.launch(
                iou_match_equal, images * tiles, *inputs, n, m, tiles, min_positive, eps,
                OWN=low_quality_index == "box", **options,
            )  # fmt: skip
    return index, iou


implement("iou_match", "triton", forward)
