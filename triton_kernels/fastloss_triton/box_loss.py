"""Triton kernels of the stem `box_loss`, xyxy; formulas: fastloss/reference/box_loss.py."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._boxes import BOXES, coordinates, load_boxes, scale_of, store_boxes
from ._common import (
    TINY,
    at_least,
    atan_ratio,
    load_incoming,
    load_operand,
    store_block,
    store_loss,
)
from .box_shape import eiou, siou
from .box_similarity import floor_of, similarity

KINDS = {"iou": 0, "giou": 1, "diou": 2, "ciou": 3, "eiou": 4, "siou": 5}
MODES = {"linear": 0, "square": 1, "log": 2}


@triton.jit
def _similarity_kinds(
    px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, KIND: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """`_loss_and_slopes` of IoU, GIoU, DIoU and CIoU."""
    pw, ph, tw, th = px2 - px1, py2 - py1, tx2 - tx1, ty2 - ty1
    p_angle, t_angle = pw, tw
    if KIND == 3:
        ph_eps, th_eps = ph + EPS * scale, th + EPS * scale
        p_angle, t_angle = atan_ratio(pw, ph_eps), atan_ratio(tw, th_eps)
    score, g_box, g_ox, g_oy, g_hx, g_hy, g_sx, g_sy, g_angle = similarity(
        px1, py1, px2, py2, p_angle, tx1, ty1, tx2, ty2, t_angle,
        floor_of(EPS * scale * scale, EPS, KIND),
        floor_of(UNION_EPS * scale * scale, UNION_EPS, KIND), KIND,
    )  # fmt: skip
    slope = score * 0.0 - 1.0
    if KIND == 0:
        x = tl.where(score >= EPS, score, EPS)
        if MODE == 0:
            loss = 1.0 - x
        elif MODE == 1:
            loss = 1.0 - x * x
            slope = -2.0 * x
        else:
            loss = -tl.log(x)
            slope = -1.0 / x
        slope = tl.where(score >= EPS, slope, 0.0)
    else:
        loss = 1.0 - score
    g_box *= slope
    g_pw, g_ph, g_tw, g_th = g_box * ph, g_box * pw, g_box * th, g_box * tw
    if KIND == 3:  # d atan(w / h) = (h dw - w dh) / (w^2 + h^2)
        p_angle = -slope * g_angle / at_least(pw * pw + ph_eps * ph_eps, TINY)
        t_angle = slope * g_angle / at_least(tw * tw + th_eps * th_eps, TINY)
        g_pw += p_angle * ph_eps
        g_ph -= p_angle * pw
        g_tw += t_angle * th_eps
        g_th -= t_angle * tw
    return (
        loss, g_pw, g_ph, g_tw, g_th, slope * g_ox, slope * g_oy, slope * g_hx, slope * g_hy,
        slope * g_sx, slope * g_sy,
    )  # fmt: skip


@triton.jit
def _loss_and_slopes(
    px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, SMOOTH_POINT: tl.constexpr,
    NEG_GAMMA: tl.constexpr, KIND: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """The loss of boxes that were multiplied by `scale`, and its derivatives to the quantities of
    the two axes that `coordinates` takes: sizes, overlap, hull and shift."""
    if KIND == 4:
        result = eiou(px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale, UNION_EPS, SMOOTH_POINT)
    elif KIND == 5:
        result = siou(px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale, EPS, UNION_EPS, NEG_GAMMA)
    else:
        result = _similarity_kinds(
            px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale, EPS, UNION_EPS, KIND, MODE
        )
    return result


@common.kernel
def box_loss_fwd(
    pred,  # (n, 4)
    target,  # (n, 4)
    out,  # (n), or a partial sum per program
    weight, w_columns, w_row, w_column,
    n,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, SMOOTH_POINT: tl.constexpr,
    NEG_GAMMA: tl.constexpr, KIND: tl.constexpr, MODE: tl.constexpr,
    W_MODE: tl.constexpr, NONE: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    px1, py1, px2, py2 = load_boxes(pred, i, n, BLOCK, DTYPE)
    tx1, ty1, tx2, ty2 = load_boxes(target, i, n, BLOCK, DTYPE)
    s, poison = scale_of(px1, py1, px2, py2, tx1, ty1, tx2, ty2, DTYPE)
    loss = _loss_and_slopes(
        px1 * s, py1 * s, px2 * s, py2 * s, tx1 * s, ty1 * s, tx2 * s, ty2 * s, s,
        EPS, UNION_EPS, SMOOTH_POINT, NEG_GAMMA, KIND, MODE,
    )[0]  # fmt: skip
    store_loss(out, loss + poison, i, n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@common.kernel
def box_loss_bwd(
    grad, g_columns, g_row, g_column,
    pred,  # (n, 4)
    target,  # (n, 4)
    weight, w_columns, w_row, w_column,
    avg_factor, divisor: tl.int64,
    g_pred, g_target,  # (n, 4) if wanted
    g_weight,  # (n) if wanted
    partial,  # (programs), the sum of weighted losses, if LOSS
    n,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, SMOOTH_POINT: tl.constexpr,
    NEG_GAMMA: tl.constexpr, KIND: tl.constexpr, MODE: tl.constexpr,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, G_MODE: tl.constexpr, W_MODE: tl.constexpr,
    NONE: tl.constexpr,
    HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    px1, py1, px2, py2 = load_boxes(pred, i, n, BLOCK, DTYPE)
    tx1, ty1, tx2, ty2 = load_boxes(target, i, n, BLOCK, DTYPE)
    s, poison = scale_of(px1, py1, px2, py2, tx1, ty1, tx2, ty2, DTYPE)
    px1, py1, px2, py2 = px1 * s, py1 * s, px2 * s, py2 * s
    tx1, ty1, tx2, ty2 = tx1 * s, ty1 * s, tx2 * s, ty2 * s
    loss, g_pw, g_ph, g_tw, g_th, g_ox, g_oy, g_hx, g_hy, g_sx, g_sy = _loss_and_slopes(
        px1, py1, px2, py2, tx1, ty1, tx2, ty2, s,
        EPS, UNION_EPS, SMOOTH_POINT, NEG_GAMMA, KIND, MODE,
    )  # fmt: skip
    k = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, n,
        G_MODE, NONE, HAS_AVG_FACTOR, DTYPE,
    )  # fmt: skip
    if NEEDS & 4:
        store_block(g_weight, k * (loss + poison), i, n)
    if LOSS:
        store_loss(
            partial, loss + poison, i, n, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE
        )
    if W_MODE != 0:
        k *= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
    k = k * s + poison

    g_px1, g_px2, g_tx1, g_tx2 = coordinates(px1, px2, tx1, tx2, g_pw, g_tw, g_ox, g_hx, g_sx)
    g_py1, g_py2, g_ty1, g_ty2 = coordinates(py1, py2, ty1, ty2, g_ph, g_th, g_oy, g_hy, g_sy)
    if NEEDS & 1:
        store_boxes(g_pred, k * g_px1, k * g_py1, k * g_px2, k * g_py2, i, n, BLOCK)
    if NEEDS & 2:
        store_boxes(g_target, k * g_tx1, k * g_ty1, k * g_tx2, k * g_ty2, i, n, BLOCK)


def _formula(
    kind: str, mode: str, eps: float, union_eps: float, smooth_point: float, neg_gamma: bool
) -> dict[str, Any]:
    """The constants that choose what is compiled."""
    return {
        "EPS": eps, "UNION_EPS": union_eps, "SMOOTH_POINT": smooth_point, "NEG_GAMMA": neg_gamma,
        "KIND": KINDS[kind], "MODE": MODES[mode],
    }  # fmt: skip


def forward(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    mode: str, eps: float, union_eps: float, smooth_point: float, neg_gamma: bool,
    divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    n = pred.numel() // 4
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n, BOXES)
    p, t = pred.contiguous(), target.contiguous()
    formula = _formula(kind, mode, eps, union_eps, smooth_point, neg_gamma)

    def run(out: Tensor) -> None:
        common.launch(
            box_loss_fwd, r.programs, p, t, out, *r.weight.arguments(), n, **formula,
            W_MODE=r.weight.mode, NONE=r.none, DTYPE=common.language_dtype(pred),
            BLOCK=BOXES,
        )  # fmt: skip

    with torch.cuda.device_of(pred):
        return common.reduce(r, pred, widen, pred.shape[:-1], run)


def _backward(r, grad, pred, target, formula, gradients, partial, needs):
    incoming = common.operand(grad, pred)
    common.launch(
        box_loss_bwd, r.programs, *incoming.arguments(), pred.contiguous(), target.contiguous(),
        *r.weight.arguments(), r.avg_factor, r.divisor, *gradients, partial, r.count,
        **formula, NEEDS=needs, LOSS=grad is None, G_MODE=incoming.mode, W_MODE=r.weight.mode,
        NONE=r.none, HAS_AVG_FACTOR=r.has_avg_factor,
        DTYPE=common.language_dtype(pred), BLOCK=BOXES,
    )  # fmt: skip


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    kind: str, mode: str, eps: float, union_eps: float, smooth_point: float, neg_gamma: bool,
    divisor: float | None, reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = pred.numel() // 4
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n, BOXES)
    gradients = common.gradients_like(needs, pred, target, weight)
    formula = _formula(kind, mode, eps, union_eps, smooth_point, neg_gamma)
    with torch.cuda.device_of(pred):
        _backward(r, grad, pred, target, formula, gradients, pred, needs)
    return gradients


def with_gradient(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    mode: str, eps: float, union_eps: float, smooth_point: float, neg_gamma: bool,
    divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n = pred.numel() // 4
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n, BOXES)
    gradients, partial = (
        common.gradients_like(1, pred, target, weight),
        common.partial_sums(r, pred),
    )
    formula = _formula(kind, mode, eps, union_eps, smooth_point, neg_gamma)
    with torch.cuda.device_of(pred):
        _backward(r, None, pred, target, formula, gradients, partial, 1)
        return common.finish(r, pred, widen, partial), gradients[0]


implement("box_loss", "triton", forward)
implement("box_loss_backward", "triton", backward)
implement("box_loss_with_gradient", "triton", with_gradient)
