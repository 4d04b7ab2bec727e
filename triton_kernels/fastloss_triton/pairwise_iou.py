"""Triton kernels of the stem `pairwise_iou`, xyxy; formulas: fastloss/reference/box_similarity.py.

A program has a tile of boxes of both sets. The backward leaves what a tile adds to the gradients of
its boxes, which are summed afterwards: no atomics, so the same bits on every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._boxes import coordinates, load_boxes, scale_of, store_boxes
from ._common import TINY, at_least, atan_ratio
from .box_similarity import KINDS, floor_of, similarity

# Pairs and most columns a program holds at a time. In the forward each lane has 4 pairs; in the
# backward, where the derivatives of more would not fit into its registers, it has one, and a warp
# has one row.
FORWARD_TILE, BACKWARD_TILE = (512, 64), (128, 32)
CHUNK = 128  # rows a program of the backward goes through

STRIDES = ("stride1", "stride2")
# Coordinates up to this size need no scale.
TAME = tl.constexpr(2.0**60)


@triton.jit
def _are_tame(x1, y1, x2, y2):
    """Whether all coordinates are finite and no product of the formulas overflows."""
    x, y = tl.maximum(tl.abs(x1), tl.abs(x2)), tl.maximum(tl.abs(y1), tl.abs(y2))
    sums = x1 + y1 + x2 + y2  # a maximum may lose NaN
    return tl.min(((x <= TAME) & (y <= TAME) & (sums == sums)).to(tl.int32), 0) == 1


@triton.jit
def angle_of(x1, y1, x2, y2, EPS: tl.constexpr, KIND: tl.constexpr):
    """atan(width / height) for CIoU, by halves so that a width cannot overflow."""
    if KIND == 3:
        angle = atan_ratio(x2 * 0.5 - x1 * 0.5, y2 * 0.5 - y1 * 0.5 + EPS * 0.5)
    else:
        angle = x1
    return angle


@triton.jit
def scaled_similarity(
    ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, s,
    EPS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """`similarity` of boxes that are multiplied by s (1 or one per pair)."""
    eps = (ax1 * 0.0 + bx1 * 0.0 + EPS) * s * s
    return similarity(
        ax1 * s, ay1 * s, ax2 * s, ay2 * s, a_angle, bx1 * s, by1 * s, bx2 * s, by2 * s, b_angle,
        floor_of(eps, EPS, KIND), floor_of(eps, EPS, KIND), KIND,
    )  # fmt: skip


@triton.jit
def _tile(program, row_tiles, column_tiles):
    """Batch entry, row tile and column tile of a program."""
    column_tile = program % column_tiles
    row_tile = program // column_tiles % row_tiles
    return program // column_tiles // row_tiles, row_tile, column_tile


@triton.jit(do_not_specialize=["n", "row_tiles", "column_tiles", *STRIDES])
def pairwise_iou_fwd(
    boxes1, stride1,  # (batches, n, 4)
    boxes2, stride2,  # (batches, m, 4)
    out,  # (batches, n, m)
    n, m, row_tiles, column_tiles,
    EPS: tl.constexpr, KIND: tl.constexpr, DTYPE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    batch, row_tile, column_tile = _tile(tl.program_id(0).to(tl.int64), row_tiles, column_tiles)
    i, j = row_tile * ROWS + tl.arange(0, ROWS), column_tile * COLUMNS + tl.arange(0, COLUMNS)
    ax1, ay1, ax2, ay2 = load_boxes(boxes1 + batch * stride1, i, n, ROWS, DTYPE)
    bx1, by1, bx2, by2 = load_boxes(boxes2 + batch * stride2, j, m, COLUMNS, DTYPE)
    tame = _are_tame(ax1, ay1, ax2, ay2) & _are_tame(bx1, by1, bx2, by2)
    a_angle = angle_of(ax1, ay1, ax2, ay2, EPS, KIND)[:, None]
    b_angle = angle_of(bx1, by1, bx2, by2, EPS, KIND)[None, :]
    ax1, ay1, ax2, ay2 = ax1[:, None], ay1[:, None], ax2[:, None], ay2[:, None]
    bx1, by1, bx2, by2 = bx1[None, :], by1[None, :], bx2[None, :], by2[None, :]
    if tame:
        value = scaled_similarity(
            ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, 1.0, EPS, KIND
        )[0]
    else:
        s, poison = scale_of(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, DTYPE)
        value = poison + scaled_similarity(
            ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, s, EPS, KIND
        )[0]  # fmt: skip
    at = (batch * n + i[:, None]) * m + j[None, :]
    mask = (i < n)[:, None] & (j < m)[None, :]
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _through_angle(w, h, g_angle, s, EPS: tl.constexpr, KIND: tl.constexpr):
    """Derivatives to width and height, multiplied by s, from that to atan(w / h):
    (h dw - w dh) / (w^2 + h^2)."""
    g_w, g_h = w * 0.0, w * 0.0
    if KIND == 3:
        h += EPS * s
        slope = g_angle / at_least(w * w + h * h, TINY)
        g_w, g_h = slope * h, -slope * w
    return g_w, g_h


@triton.jit
def pair_gradients(
    ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, s, g, k, angle_k,
    EPS: tl.constexpr, KIND: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Gradients of a pair to the coordinates of both boxes (without their areas, unless SCALED), to
    the area of either, and to the angle of b."""
    _, g_box, ox, oy, hx, hy, sx, sy, angle = scaled_similarity(
        ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, s, EPS, KIND
    )
    area = g_box * g
    aw, ah, bw, bh = 0.0, 0.0, 0.0, 0.0
    if SCALED:  # derivatives to areas and angles of such boxes would leave the range of float32
        aw, ah, bw, bh = ax2 * s - ax1 * s, ay2 * s - ay1 * s, bx2 * s - bx1 * s, by2 * s - by1 * s
        a_w, a_h = _through_angle(aw, ah, -angle, s, EPS, KIND)
        b_w, b_h = _through_angle(bw, bh, angle, s, EPS, KIND)
        aw, ah = g_box * ah + a_w, g_box * aw + a_h
        bw, bh = g_box * bh + b_w, g_box * bw + b_h
        area, angle = area * 0.0, angle * 0.0
    ax1, ax2, bx1, bx2 = coordinates(ax1, ax2, bx1, bx2, aw, bw, ox, hx, sx)
    ay1, ay2, by1, by2 = coordinates(ay1, ay2, by1, by2, ah, bh, oy, hy, sy)
    return (
        ax1 * k, ay1 * k, ax2 * k, ay2 * k, bx1 * k, by1 * k, bx2 * k, by2 * k, area,
        angle * angle_k,
    )  # fmt: skip


@triton.jit
def _store_gradients(
    out, first, i, n, x1, y1, x2, y2, g_x1, g_y1, g_x2, g_y2, area, angle,
    EPS: tl.constexpr, KIND: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Coordinates' gradients with those through the area and the angle of each box (SIZE)."""
    w, h = x2 - x1, y2 - y1
    g_w, g_h = _through_angle(w, h, angle, 1.0, EPS, KIND)
    # Boxes of which all pairs were scaled have neither, and perhaps no finite size.
    g_w = tl.where(area == 0.0, 0.0, area * h) + tl.where(angle == 0.0, 0.0, g_w)
    g_h = tl.where(area == 0.0, 0.0, area * w) + tl.where(angle == 0.0, 0.0, g_h)
    store_boxes(out + first, g_x1 - g_w, g_y1 - g_h, g_x2 + g_w, g_y2 + g_h, i, n, SIZE)


@triton.jit(
    do_not_specialize=["n", "row_tiles", "column_tiles", "g_batch", "g_row", "g_column", *STRIDES]
)
def pairwise_iou_bwd(
    grad, g_batch, g_row, g_column,  # (batches, n, m)
    boxes1, stride1,  # (batches, n, 4)
    boxes2, stride2,  # (batches, m, 4)
    g1,  # (batches, column_tiles, n, 4)
    g2,  # (batches, row_tiles, m, 4)
    n, m, row_tiles, column_tiles,
    EPS: tl.constexpr, KIND: tl.constexpr, NEEDS: tl.constexpr, DENSE: tl.constexpr,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    batch, row_tile, column_tile = _tile(tl.program_id(0).to(tl.int64), row_tiles, column_tiles)
    j = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    x1, y1, x2, y2 = load_boxes(boxes2 + batch * stride2, j, m, COLUMNS, DTYPE)
    columns_tame = _are_tame(x1, y1, x2, y2)
    b_angle = angle_of(x1, y1, x2, y2, EPS, KIND)[None, :]
    bx1, by1, bx2, by2 = x1[None, :], y1[None, :], x2[None, :], y2[None, :]
    zero = tl.zeros((ROWS, COLUMNS), DTYPE)
    s1, s2, s3, s4, s_area, s_angle = zero, zero, zero, zero, zero, zero
    for start in range(row_tile * CHUNK, tl.minimum((row_tile + 1) * CHUNK, n), ROWS):
        i = start + tl.arange(0, ROWS)
        u1, v1, u2, v2 = load_boxes(boxes1 + batch * stride1, i, n, ROWS, DTYPE)
        tame = columns_tame & _are_tame(u1, v1, u2, v2)
        a_angle = angle_of(u1, v1, u2, v2, EPS, KIND)[:, None]
        ax1, ay1, ax2, ay2 = u1[:, None], v1[:, None], u2[:, None], v2[:, None]
        if DENSE:
            at = (batch * n + i[:, None]) * m + j[None, :]
        else:
            at = batch * g_batch + i[:, None] * g_row + j[None, :] * g_column
        mask = (i < n)[:, None] & (j < m)[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0).to(DTYPE)
        if tame:
            a1, a2, a3, a4, b1, b2, b3, b4, area, angle = pair_gradients(
                ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, 1.0, g, g, g,
                EPS, KIND, False,
            )  # fmt: skip
        else:
            s, poison = scale_of(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, DTYPE)
            a1, a2, a3, a4, b1, b2, b3, b4, area, angle = pair_gradients(
                ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, s, g, g * s + poison,
                g + poison, EPS, KIND, True,
            )  # fmt: skip
        if NEEDS & 1:
            _store_gradients(
                g1, (batch * column_tiles + column_tile) * n * 4, i, n, u1, v1, u2, v2,
                tl.sum(a1, 1), tl.sum(a2, 1), tl.sum(a3, 1), tl.sum(a4, 1), tl.sum(area, 1),
                -tl.sum(angle, 1), EPS, KIND, ROWS,
            )  # fmt: skip
        if NEEDS & 2:
            s1, s2, s3, s4 = s1 + b1, s2 + b2, s3 + b3, s4 + b4
            s_area += area
            s_angle += angle
    if NEEDS & 2:
        _store_gradients(
            g2, (batch * row_tiles + row_tile) * m * 4, j, m, x1, y1, x2, y2,
            tl.sum(s1, 0), tl.sum(s2, 0), tl.sum(s3, 0), tl.sum(s4, 0), tl.sum(s_area, 0),
            tl.sum(s_angle, 0), EPS, KIND, COLUMNS,
        )  # fmt: skip


def _entries(boxes: Tensor, batch: torch.Size) -> tuple[Tensor, int]:
    """One set of boxes, and the stride between the entries of the batch: 0 if all share it."""
    if boxes.shape[:-2].numel() != 1:
        boxes = boxes.expand(*batch, *boxes.shape[-2:])
    shared = boxes.shape[:-2].numel() == 1
    return boxes.contiguous(), 0 if shared else boxes.shape[-2] * 4


def _tile_of(pairs: int, most_columns: int, m: int) -> tuple[int, int]:
    """Rows and columns of a tile."""
    columns = 1 if m == 1 else min(most_columns, max(8, triton.next_power_of_2(m)))
    return pairs // columns, columns


def forward(boxes1: Tensor, boxes2: Tensor, kind: str, eps: float, widen: bool) -> Tensor:
    batch = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    n, m = boxes1.shape[-2], boxes2.shape[-2]
    out = boxes1.new_empty(*batch, n, m, dtype=common.result_dtype(boxes1, widen))
    rows, columns = _tile_of(*FORWARD_TILE, m)
    row_tiles, column_tiles = triton.cdiv(n, rows), triton.cdiv(m, columns)
    with torch.cuda.device_of(boxes1):
        common.launch(
            pairwise_iou_fwd, batch.numel() * row_tiles * column_tiles,
            *_entries(boxes1, batch), *_entries(boxes2, batch), out, n, m, row_tiles, column_tiles,
            EPS=eps, KIND=KINDS[kind], DTYPE=common.language_dtype(boxes1),
            ROWS=rows, COLUMNS=columns,
        )  # fmt: skip
    return out


def backward(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: str, eps: float, widen: bool, needs: int
) -> tuple[Tensor, ...]:
    batch = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    n, m = boxes1.shape[-2], boxes2.shape[-2]
    rows, columns = _tile_of(*BACKWARD_TILE, m)
    row_tiles, column_tiles = triton.cdiv(n, CHUNK), triton.cdiv(m, columns)
    grad = grad.reshape(batch.numel(), n, m)
    dtype = common.compute_dtype(boxes1)
    parts = (
        boxes1.new_empty(*batch, column_tiles if needs & 1 else 0, n, 4, dtype=dtype),
        boxes1.new_empty(*batch, row_tiles if needs & 2 else 0, m, 4, dtype=dtype),
    )
    with torch.cuda.device_of(boxes1):
        common.launch(
            pairwise_iou_bwd, batch.numel() * row_tiles * column_tiles, grad, *grad.stride(),
            *_entries(boxes1, batch), *_entries(boxes2, batch), *parts, n, m, row_tiles,
            column_tiles, EPS=eps, KIND=KINDS[kind], NEEDS=needs, DENSE=grad.is_contiguous(),
            DTYPE=common.language_dtype(boxes1), ROWS=rows, COLUMNS=columns, CHUNK=CHUNK,
        )  # fmt: skip
    return tuple(
        part.sum(-3).sum_to_size(boxes.shape).to(boxes.dtype)
        if needs >> bit & 1
        else boxes1.new_empty(0)
        for bit, (part, boxes) in enumerate(zip(parts, (boxes1, boxes2)))
    )


implement("pairwise_iou", "triton", forward)
implement("pairwise_iou_backward", "triton", backward)
