"""Triton kernels of the stem `matched_detection`; formulas and rules: its reference.

A program has a tile of predictions of an image and goes through its targets, and through the
classes, in tiles. What a prediction has at each class is summed over the targets where it is needed
and never leaves the registers, so that no program writes what another does.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._boxes import load_boxes, store_boxes
from ._matched import (
    focal_losses,
    focal_slopes,
    load_own,
    load_targets,
    masses_at,
    pair_losses,
    pair_slopes,
    softmax_loss,
    weight_of,
)
from ._modulation import times
from .box_similarity import KINDS as IOU_KINDS
from .matching_cost import exponentials
from .regression_loss import KINDS as DISTANCES

CLASS_LOSSES = {"cross_entropy": 0, "negative_prob": 1, "sigmoid_focal": 2}
ROWS = 8  # of a program
# Of a thread in the backward. Without a number ptxas spills a few at the 128 that it aims at.
MOST_REGISTERS = 168
# Most classes and targets of a row that are in registers at a time: 8 logits and 2 pairs a lane, in
# the backward, which has the derivatives of a pair, one.
CLASSES, COLUMNS, BACKWARD_COLUMNS = 128, 32, 16

kernel = triton.jit(
    do_not_specialize=[
        "batches", "n", "m", "classes", "background", "row_tiles", "x_b", "x_n", "m_b", "m_n",
        "m_m", "w_c", "g_row", "g_b", "g_n",
    ]
)  # fmt: skip


@kernel
def matched_detection_fwd(
    logits, x_b, x_n, x_c,  # (batches, n, classes)
    boxes,  # (batches, n, 4)
    labels,  # (batches, m)
    target_boxes,  # (batches, m, 4)
    matching, m_b, m_n, m_m,  # (batches, n, m + 1)
    mask,  # (batches, m), as uint8
    class_weight, w_c,  # (classes)
    out,  # (5, batches, n)
    batches, n, m, classes, background, row_tiles,
    KIND: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr, DISTANCE: tl.constexpr,
    BETA: tl.constexpr, DISTANCE_WEIGHT: tl.constexpr, IOU_KIND: tl.constexpr,
    IOU_WEIGHT: tl.constexpr, EPS: tl.constexpr, WEIGHTED: tl.constexpr, MASKED: tl.constexpr,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64) // row_tiles
    i = tl.program_id(0).to(tl.int64) % row_tiles * ROWS + tl.arange(0, ROWS)
    rows = (i < n)[:, None]
    logits += batch * x_b + i[:, None] * x_n  # (ROWS, 1)
    matching += batch * m_b + i[:, None] * m_n
    labels += batch * m
    mask += batch * m
    ax1, ay1, ax2, ay2 = load_boxes(boxes + batch * n * 4, i, n, ROWS, DTYPE)
    if KIND != 2:
        top, total = exponentials(logits, x_c, rows, classes, CB, DTYPE)
    zero = tl.zeros((ROWS,), DTYPE)
    class_loss, box_loss, matched, weighted = zero, zero, zero, zero
    for start in range(0, m, COLUMNS):
        j = start + tl.arange(0, COLUMNS).to(tl.int64)
        mass, label = load_targets(matching, m_m, labels, mask, j, rows, m, MASKED, DTYPE)
        bx1, by1, bx2, by2 = load_boxes(target_boxes + batch * m * 4, j, m, COLUMNS, DTYPE)
        loss = pair_losses(
            ax1, ay1, ax2, ay2, bx1, by1, bx2, by2,
            DISTANCE, BETA, DISTANCE_WEIGHT, IOU_KIND, IOU_WEIGHT, EPS, DTYPE,
        )  # fmt: skip
        box_loss += tl.sum(times(mass, loss), 1)
        w = weight_of(label, class_weight, w_c, classes, KIND, WEIGHTED, DTYPE)
        counted = times(mass, w[None, :])
        matched += tl.sum(mass, 1)
        weighted += tl.sum(counted, 1)
        if KIND != 2:
            own = load_own(logits, x_c, label, rows, classes, DTYPE)
            class_loss += tl.sum(times(counted, softmax_loss(own, top, total, KIND)), 1)
    at_background = tl.load(matching + m.to(tl.int64) * m_m, mask=rows, other=0.0).to(DTYPE)
    if KIND == 2:
        background_loss = zero
        for start in range(0, classes, CB):
            c = start + tl.arange(0, CB).to(tl.int64)[None, :]
            h, o = masses_at(
                matching, m_m, labels, mask, class_weight, w_c, c, rows, m, classes,
                KIND, WEIGHTED, MASKED, DTYPE,
            )  # fmt: skip
            # A class of logit -inf costs nothing unless it is the right one.
            x = tl.load(logits + c * x_c, mask=rows & (c < classes), other=float("-inf")).to(DTYPE)
            right, wrong = focal_losses(x, ALPHA, GAMMA)
            class_loss += tl.sum(times(h, right) + times(o, wrong), 1)
            background_loss += tl.sum(times(at_background, wrong), 1)
    else:
        if WEIGHTED:
            own_weight = tl.load(class_weight + background * w_c).to(DTYPE)
            at_background = times(at_background, own_weight)
        own = tl.load(logits + background.to(tl.int64) * x_c, mask=rows, other=0.0).to(DTYPE)
        loss = times(at_background, softmax_loss(own, top, total, KIND))
        background_loss = tl.sum(loss, 1)
    at, step = out + batch * n + i, batches.to(tl.int64) * n
    tl.store(at, class_loss, mask=i < n)
    tl.store(at + step, background_loss, mask=i < n)
    tl.store(at + 2 * step, box_loss, mask=i < n)
    tl.store(at + 3 * step, matched, mask=i < n)
    tl.store(at + 4 * step, weighted, mask=i < n)


@kernel
def matched_detection_bwd(
    grad, g_row, g_b, g_n,  # (5, batches, n)
    logits, x_b, x_n, x_c,  # (batches, n, classes)
    boxes,  # (batches, n, 4)
    labels,  # (batches, m)
    target_boxes,  # (batches, m, 4)
    matching, m_b, m_n, m_m,  # (batches, n, m + 1)
    mask,  # (batches, m), as uint8
    class_weight, w_c,  # (classes)
    g_logits,  # (batches, n, classes) if wanted
    g_boxes,  # (batches, n, 4) if wanted
    batches, n, m, classes, background, row_tiles,
    KIND: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr, DISTANCE: tl.constexpr,
    BETA: tl.constexpr, DISTANCE_WEIGHT: tl.constexpr, IOU_KIND: tl.constexpr,
    IOU_WEIGHT: tl.constexpr, EPS: tl.constexpr, WEIGHTED: tl.constexpr, MASKED: tl.constexpr,
    NEEDS: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    CB: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64) // row_tiles
    i = tl.program_id(0).to(tl.int64) % row_tiles * ROWS + tl.arange(0, ROWS)
    rows = (i < n)[:, None]
    logits += batch * x_b + i[:, None] * x_n  # (ROWS, 1)
    matching += batch * m_b + i[:, None] * m_n
    labels += batch * m
    mask += batch * m
    grad += batch * g_b + i[:, None] * g_n
    if NEEDS & 2:
        g_box = tl.load(grad + 2 * g_row.to(tl.int64), mask=rows, other=0.0).to(DTYPE)
        ax1, ay1, ax2, ay2 = load_boxes(boxes + batch * n * 4, i, n, ROWS, DTYPE)
        pair = tl.zeros((ROWS, COLUMNS), DTYPE)
        s1, s2, s3, s4 = pair, pair, pair, pair
        for start in range(0, m, COLUMNS):
            j = start + tl.arange(0, COLUMNS).to(tl.int64)
            mass, _ = load_targets(matching, m_m, labels, mask, j, rows, m, MASKED, DTYPE)
            bx1, by1, bx2, by2 = load_boxes(target_boxes + batch * m * 4, j, m, COLUMNS, DTYPE)
            g1, g2, g3, g4 = pair_slopes(
                ax1, ay1, ax2, ay2, bx1, by1, bx2, by2,
                DISTANCE, BETA, DISTANCE_WEIGHT, IOU_KIND, IOU_WEIGHT, EPS, DTYPE,
            )  # fmt: skip
            g = g_box * mass
            s1, s2 = s1 + times(g, g1), s2 + times(g, g2)
            s3, s4 = s3 + times(g, g3), s4 + times(g, g4)
        store_boxes(
            g_boxes + batch * n * 4, tl.sum(s1, 1), tl.sum(s2, 1), tl.sum(s3, 1), tl.sum(s4, 1),
            i, n, ROWS,
        )  # fmt: skip
    if NEEDS & 1:
        g_class = tl.load(grad, mask=rows, other=0.0).to(DTYPE)
        g_background = tl.load(grad + g_row, mask=rows, other=0.0).to(DTYPE)
        at_background = tl.load(matching + m.to(tl.int64) * m_m, mask=rows, other=0.0).to(DTYPE)
        if KIND != 2:
            if WEIGHTED:
                at_background = times(
                    at_background, tl.load(class_weight + background * w_c).to(DTYPE)
                )
        g_background *= at_background
        if KIND != 2:
            # All masses of the row, and h p summed over the classes.
            top, total = exponentials(logits, x_c, rows, classes, CB, DTYPE)
            own = tl.load(logits + background.to(tl.int64) * x_c, mask=rows, other=0.0).to(DTYPE)
            every = tl.zeros((ROWS, 1), DTYPE)
            product, sizes = every, every
            for start in range(0, m, COLUMNS):
                j = start + tl.arange(0, COLUMNS).to(tl.int64)
                mass, label = load_targets(matching, m_m, labels, mask, j, rows, m, MASKED, DTYPE)
                w = weight_of(label, class_weight, w_c, classes, KIND, WEIGHTED, DTYPE)
                mass = times(mass, w[None, :])
                every += tl.sum(mass, 1)[:, None]
                sizes += tl.sum(tl.abs(mass), 1)[:, None]
                if KIND == 1:
                    p = tl.exp(load_own(logits, x_c, label, rows, classes, DTYPE) - top) / total
                    product += tl.sum(times(mass, p), 1)[:, None]
            used = (g_class * sizes != 0.0) | (g_background != 0.0)
            every = g_class * every + g_background
            if KIND == 1:
                product = g_class * product + times(g_background, tl.exp(own - top) / total)
        for start in range(0, classes, CB):
            c = start + tl.arange(0, CB).to(tl.int64)[None, :]
            h, o = masses_at(
                matching, m_m, labels, mask, class_weight, w_c, c, rows, m, classes,
                KIND, WEIGHTED, MASKED, DTYPE,
            )  # fmt: skip
            x = tl.load(logits + c * x_c, mask=rows & (c < classes), other=0.0).to(DTYPE)
            h *= g_class
            if KIND == 2:
                right, wrong = focal_slopes(x, ALPHA, GAMMA)
                slope = times(h, right) + times(g_class * o + g_background, wrong)
            else:
                h += tl.where(c == background, g_background, 0.0)
                p = tl.exp(x - top) / total
                if KIND == 0:
                    slope = every * p - h
                else:
                    slope = p * (product - h)
                slope = tl.where(used, slope, 0.0)
            at = g_logits + (batch * n + i[:, None]) * classes + c
            tl.store(at, slope.to(g_logits.dtype.element_ty), mask=rows & (c < classes))


def _call(
    logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, matching: Tensor,
    mask: Tensor | None, class_weight: Tensor | None, cls_loss: str, background: int, alpha: float,
    gamma: float, distance: str, beta: float, distance_weight: float, iou_kind: str,
    iou_weight: float, eps: float, most_columns: int,
) -> tuple[int, tuple[Any, ...], tuple[int, ...], dict[str, Any]]:  # fmt: skip
    """Programs, tensors, numbers and constants that both kernels take."""
    batches, n, classes = logits.shape
    m = labels.shape[1]
    row_tiles = triton.cdiv(n, ROWS)
    tensors = (
        logits, *logits.stride(), boxes.contiguous(), labels.contiguous(),
        target_boxes.contiguous(), matching, *matching.stride(),
        labels if mask is None else mask.contiguous().view(torch.uint8),
        *((logits, 0) if class_weight is None else (class_weight, class_weight.stride(0))),
    )  # fmt: skip
    constants = {
        "KIND": CLASS_LOSSES[cls_loss], "ALPHA": alpha, "GAMMA": gamma,
        "DISTANCE": DISTANCES[distance], "BETA": beta,
        "DISTANCE_WEIGHT": distance_weight, "IOU_KIND": IOU_KINDS[iou_kind],
        "IOU_WEIGHT": iou_weight, "EPS": eps, "WEIGHTED": class_weight is not None,
        "MASKED": mask is not None, "DTYPE": common.language_dtype(logits), "ROWS": ROWS,
        "COLUMNS": min(most_columns, max(8, triton.next_power_of_2(m))),
        "CB": min(CLASSES, triton.next_power_of_2(classes)),
    }  # fmt: skip
    numbers = (batches, n, m, classes, background, row_tiles)
    return batches * row_tiles, tensors, numbers, constants


def forward(logits: Tensor, *args: Any) -> Tensor:
    """The arguments of the reference."""
    programs, tensors, numbers, constants = _call(logits, *args, COLUMNS)
    out = logits.new_empty(5, *logits.shape[:2], dtype=common.compute_dtype(logits))
    with torch.cuda.device_of(logits):
        common.launch(matched_detection_fwd, programs, *tensors, out, *numbers, **constants)
    return out


def backward(grad: Tensor, logits: Tensor, boxes: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *args, needs = args
    programs, tensors, numbers, constants = _call(logits, boxes, *args, BACKWARD_COLUMNS)
    gradients = common.gradients_like(needs, logits, boxes)
    with torch.cuda.device_of(logits):
        common.launch(
            matched_detection_bwd, programs, grad, *grad.stride(), *tensors, *gradients, *numbers,
            NEEDS=needs, maxnreg=MOST_REGISTERS, **constants,
        )  # fmt: skip
    return gradients


implement("matched_detection", "triton", forward)
implement("matched_detection_backward", "triton", backward)
