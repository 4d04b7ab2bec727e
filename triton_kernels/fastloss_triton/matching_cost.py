"""Triton kernel of the stem `matching_cost`; formulas: fastloss/reference/matching_cost.py.

A program has a tile of pairs of an image. It reads all classes of its rows for the costs that need
a softmax, and of each pair the logit of the target's class. Columns fit one tile as a rule, so that
logits are read once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference.matching_cost import FOCAL_EPS, UNMATCHABLE
from . import _common as common
from ._boxes import load_boxes, scale_of
from ._common import atan_ratio, power
from ._modulation import logistic
from .box_similarity import KINDS, floor_of, similarity

CLASS_COSTS = {"softmax": 1, "nll": 2, "sigmoid_focal": 3}
# Pairs, and most columns, of a tile: 8 pairs for each lane.
TILE, COLUMNS = 1024, 128
CLASSES = 128  # most classes of a row that are in registers at a time
TINY_PROBABILITY = tl.constexpr(FOCAL_EPS)
DEAR = tl.constexpr(UNMATCHABLE)


@triton.jit
def _bounded(x, LARGEST: tl.constexpr):
    """x with +-LARGEST in the place of what exceeds it; NaN stays."""
    x = tl.where(x > LARGEST, LARGEST, x).to(x.dtype)
    return tl.where(x < -LARGEST, -LARGEST, x).to(x.dtype)


@triton.jit
def _corners(x1, y1, x2, y2, CENTRED: tl.constexpr):
    """x1, y1, x2, y2 of a box, which is cx, cy, w, h if CENTRED."""
    if CENTRED:
        half_w, half_h = x2 * 0.5, y2 * 0.5
        x2, y2, x1, y1 = x1 + half_w, y1 + half_h, x1 - half_w, y1 - half_h
    return x1, y1, x2, y2


@triton.jit
def _angle(x1, y1, x2, y2, KIND: tl.constexpr, CENTRED: tl.constexpr, EPS: tl.constexpr):
    """atan(width / height) for CIoU, by halves so that a width cannot overflow."""
    if KIND == 3:
        half_w, half_h = x2 * 0.5, y2 * 0.5
        if not CENTRED:
            half_w, half_h = half_w - x1 * 0.5, half_h - y1 * 0.5
        angle = atan_ratio(half_w, half_h + EPS * 0.5)
    else:
        angle = x1
    return angle


@triton.jit
def _box_cost(
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2,
    L1: tl.constexpr, IOU: tl.constexpr, KIND: tl.constexpr, CENTRED: tl.constexpr,
    EPS: tl.constexpr, LARGEST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Of boxes a (ROWS) and b (COLUMNS) as they were given."""
    a_angle = _angle(ax1, ay1, ax2, ay2, KIND, CENTRED, EPS)[:, None]
    b_angle = _angle(bx1, by1, bx2, by2, KIND, CENTRED, EPS)[None, :]
    ax1, ay1, ax2, ay2 = ax1[:, None], ay1[:, None], ax2[:, None], ay2[:, None]
    bx1, by1, bx2, by2 = bx1[None, :], by1[None, :], bx2[None, :], by2[None, :]
    s, cost = scale_of(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, DTYPE)  # cost: 0 or NaN
    if L1 != 0.0:
        distance = tl.abs(ax1 - bx1) + tl.abs(ay1 - by1) + tl.abs(ax2 - bx2) + tl.abs(ay2 - by2)
        cost += _bounded(_bounded(distance, LARGEST) * L1, LARGEST)
    if IOU != 0.0:
        ax1, ay1, ax2, ay2 = _corners(ax1 * s, ay1 * s, ax2 * s, ay2 * s, CENTRED)
        bx1, by1, bx2, by2 = _corners(bx1 * s, by1 * s, bx2 * s, by2 * s, CENTRED)
        eps = (s * 0.0 + EPS) * s * s
        value = similarity(
            ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle,
            floor_of(eps, EPS, KIND), floor_of(eps, EPS, KIND), KIND,
        )[0]  # fmt: skip
        cost -= _bounded(value * IOU, LARGEST)
    return _bounded(cost, LARGEST)


@triton.jit
def exponentials(logits, x_c, rows, classes, CB: tl.constexpr, DTYPE: tl.constexpr):
    """The largest logit of each row, and the sum of exp(x - largest); (ROWS, 1) pointers."""
    top = tl.full(rows.shape, float("-inf"), DTYPE)
    total = tl.zeros(rows.shape, DTYPE)
    for start in range(0, classes, CB):
        c = start + tl.arange(0, CB).to(tl.int64)[None, :]
        x = tl.load(logits + c * x_c, mask=rows & (c < classes), other=float("-inf")).to(DTYPE)
        new = tl.maximum(top, tl.max(x, 1)[:, None])
        shift = tl.where(new == float("-inf"), 0.0, new).to(DTYPE)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), 1)[:, None]
        top = new
    return top, total


@triton.jit
def _focal(x, ALPHA: tl.constexpr, GAMMA: tl.constexpr):
    p, q, _, _ = logistic(x)
    positive = -power(q, GAMMA) * tl.log(p + TINY_PROBABILITY)
    negative = -power(p, GAMMA) * tl.log(q + TINY_PROBABILITY)
    if ALPHA < 0.0:
        cost = positive - negative
    else:
        cost = positive * ALPHA - negative * (1.0 - ALPHA)
    return cost


@triton.jit
def _class_cost(
    logits, x_c, own, rows, classes,
    KIND: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr, CB: tl.constexpr,
    LARGEST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """(ROWS, COLUMNS) of the logits `own` of the targets' classes."""
    if KIND == 3:
        cost = _focal(own, ALPHA, GAMMA)
    else:
        top, total = exponentials(logits, x_c, rows, classes, CB, DTYPE)
        if KIND == 1:
            cost = -tl.exp(own - top) / total
        else:  # infinite where finite logits are far apart, which saturates, and at -inf
            cost = _bounded((top - own) + tl.log(total), LARGEST) + 0.0 * own
    return cost


@triton.jit(do_not_specialize=["n", "m", "classes", "row_tiles", "column_tiles", "x_b", "x_n"])
def matching_cost(
    boxes,  # (B, n, 4)
    target_boxes,  # (B, m, 4)
    logits, x_b, x_n, x_c,  # (B, n, classes)
    labels,  # (B, m)
    mask,  # (B, m), as uint8
    out,  # (B, n, m), or (B, n, m + 1) with a background
    n, m, classes, row_tiles, column_tiles,
    CLASS_KIND: tl.constexpr, CLASS: tl.constexpr, L1: tl.constexpr, IOU: tl.constexpr,
    IOU_KIND: tl.constexpr, CENTRED: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr,
    EPS: tl.constexpr, CONSTANT: tl.constexpr, BACKGROUND: tl.constexpr, MASKED: tl.constexpr,
    INNER_LARGEST: tl.constexpr, LARGEST: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column_tile, row_tile = program % column_tiles, program // column_tiles % row_tiles
    batch = program // column_tiles // row_tiles
    i, j = row_tile * ROWS + tl.arange(0, ROWS), column_tile * COLUMNS + tl.arange(0, COLUMNS)
    rows, real = (i < n)[:, None], j < m
    if MASKED:
        real = real & (tl.load(mask + batch * m + j, mask=real, other=0) != 0)
    cost = tl.zeros((ROWS, COLUMNS), DTYPE)
    if L1 != 0.0 or IOU != 0.0:
        ax1, ay1, ax2, ay2 = load_boxes(boxes + batch * n * 4, i, n, ROWS, DTYPE)
        bx1, by1, bx2, by2 = load_boxes(target_boxes + batch * m * 4, j, m, COLUMNS, DTYPE)
        cost += _box_cost(
            ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, L1, IOU, IOU_KIND, CENTRED, EPS, INNER_LARGEST,
            DTYPE,
        )  # fmt: skip
    is_class = real
    if CLASS_KIND != 0:
        label = tl.load(labels + batch * m + j, mask=real, other=0).to(tl.int64)
        is_class = (label >= 0) & (label < classes)
        row = logits + batch * x_b + i[:, None] * x_n
        at = tl.where(is_class, label, 0)[None, :] * x_c
        own = tl.load(row + at, mask=rows & (real & is_class)[None, :], other=0.0).to(DTYPE)
        value = _class_cost(
            row, x_c, own, rows, classes, CLASS_KIND, ALPHA, GAMMA, CB, INNER_LARGEST, DTYPE
        )
        cost += _bounded(value * CLASS, INNER_LARGEST)
    cost += CONSTANT
    cost = tl.where(cost == cost, _bounded(cost, LARGEST), min(DEAR, LARGEST)).to(DTYPE)
    cost = tl.where(is_class[None, :], cost, float("nan"))
    cost = tl.where(real[None, :], cost, 0.0)
    width = m
    if BACKGROUND is not None:
        width = m + 1
        cost = tl.where((j == m)[None, :], BACKGROUND, cost).to(DTYPE)
    at = (batch * n + i[:, None]) * width + j[None, :]
    tl.store(out + at, cost.to(out.dtype.element_ty), mask=rows & (j < width)[None, :])


def forward(
    boxes: Tensor, target_boxes: Tensor, logits: Tensor | None, labels: Tensor | None,
    mask: Tensor | None, cls_cost: str, cls_weight: float, l1_weight: float, iou_weight: float,
    iou_kind: str, box_format: str, alpha: float, gamma: float, eps: float, constant: float,
    background_cost: float | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    (batch, n), m = boxes.shape[:2], target_boxes.shape[1]
    largest = torch.finfo(dtype).max
    if background_cost is not None:
        background_cost = max(-largest, min(background_cost, largest))
    width = m if background_cost is None else m + 1
    out = boxes.new_empty(batch, n, width, dtype=dtype)
    columns = min(COLUMNS, max(8, triton.next_power_of_2(width)))
    rows = TILE // columns
    row_tiles, column_tiles = triton.cdiv(n, rows), triton.cdiv(width, columns)
    x = boxes if logits is None else logits
    classes = x.shape[2]
    with torch.cuda.device_of(boxes):
        common.launch(
            matching_cost, batch * row_tiles * column_tiles, boxes.contiguous(),
            target_boxes.contiguous(), x, *x.stride(), x if labels is None else labels.contiguous(),
            x if mask is None else mask.contiguous().view(torch.uint8), out, n, m, classes,
            row_tiles, column_tiles, CLASS_KIND=0 if logits is None else CLASS_COSTS[cls_cost],
            CLASS=cls_weight, L1=l1_weight, IOU=iou_weight, IOU_KIND=KINDS[iou_kind],
            CENTRED=box_format == "cxcywh", ALPHA=alpha, GAMMA=gamma, EPS=eps, CONSTANT=constant,
            BACKGROUND=background_cost, MASKED=mask is not None,
            INNER_LARGEST=torch.finfo(common.compute_dtype(out)).max,
            LARGEST=largest, DTYPE=common.language_dtype(out), ROWS=rows, COLUMNS=columns,
            CB=min(CLASSES, triton.next_power_of_2(classes)),
        )  # fmt: skip
    return out


implement("matching_cost", "triton", forward)
