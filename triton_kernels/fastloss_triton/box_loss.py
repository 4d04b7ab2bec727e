"""Triton kernels of the stem `box_loss`, xyxy; formulas: fastloss/reference/box_loss.py."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import TINY, at_least, atan_ratio, load_incoming, load_operand, store_loss

KINDS = {"iou": 0, "giou": 1, "diou": 2, "ciou": 3}
MODES = {"linear": 0, "square": 1, "log": 2}
FOUR_OVER_PI2 = tl.constexpr(4 / math.pi**2)


@triton.jit
def _load_boxes(boxes, i, n, BLOCK: tl.constexpr, DTYPE: tl.constexpr):
    """x1, y1, x2, y2 (BLOCK) of boxes i: one 16-byte load each, transposed in registers."""
    at = i[:, None] * 4 + tl.arange(0, 4)[None, :]
    tile = tl.load(boxes + at, mask=(i < n)[:, None], other=0.0).to(DTYPE)  # (BLOCK, 4)
    x, y = tl.split(tl.reshape(tile, (BLOCK, 2, 2)))  # (BLOCK, 2) each: x1 x2, y1 y2
    x1, x2 = tl.split(x)
    y1, y2 = tl.split(y)
    return x1, y1, x2, y2


@triton.jit
def _store_boxes(out, x1, y1, x2, y2, i, n, BLOCK: tl.constexpr):
    tile = tl.reshape(tl.join(tl.join(x1, x2), tl.join(y1, y2)), (BLOCK, 4))
    at = i[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(out + at, tile.to(out.dtype.element_ty), mask=(i < n)[:, None])


@triton.jit
def _largest(x1, y1, x2, y2):
    return tl.maximum(tl.maximum(tl.abs(x1), tl.abs(y1)), tl.maximum(tl.abs(x2), tl.abs(y2)))


@triton.jit
def _scale_of(px1, py1, px2, py2, tx1, ty1, tx2, ty2, DTYPE: tl.constexpr):
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
def _inverse(x):
    """1 / x, and 0 where x is below the smallest normal float32, whose inverse may overflow."""
    small = tl.abs(x) < TINY
    return tl.where(small, 0.0, 1.0 / tl.where(small, 1.0, x))


@triton.jit
def _overlap(p1, p2, t1, t2):
    return tl.minimum(p2, t2) - tl.maximum(p1, t1)


@triton.jit
def _hull(p1, p2, t1, t2):
    return tl.maximum(p2, t2) - tl.minimum(p1, t1)


@triton.jit
def _wins(a, b):
    """d max(a, b) / da."""
    return tl.where(a > b, 1.0, tl.where(a == b, 0.5, 0.0)).to(a.dtype)


@triton.jit
def _coordinates(p1, p2, t1, t2, g_p, g_t, g_overlap, g_hull, g_shift):
    """Chain rule from the sizes, overlap, hull and shift of an axis to its four coordinates."""
    first, last = _wins(p1, t1), _wins(p2, t2)
    return (
        -g_p - g_overlap * first - g_hull * (1.0 - first) - g_shift,
        g_p + g_overlap * (1.0 - last) + g_hull * last - g_shift,
        -g_t - g_overlap * (1.0 - first) - g_hull * first + g_shift,
        g_t + g_overlap * last + g_hull * (1.0 - last) + g_shift,
    )


@triton.jit
def _loss_and_slopes(
    px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, KIND: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    """The loss, and its derivatives to iou, to the union beside it, to the squared hull and shift,
    and to the angle of CIoU; with the union, whether it is above its floor, and 1 / union."""
    area_eps, union_eps = EPS * scale * scale, UNION_EPS * scale * scale
    iw = tl.maximum(_overlap(px1, px2, tx1, tx2), 0.0)
    ih = tl.maximum(_overlap(py1, py2, ty1, ty2), 0.0)
    hw = tl.maximum(_hull(px1, px2, tx1, tx2), 0.0)
    hh = tl.maximum(_hull(py1, py2, ty1, ty2), 0.0)
    inter = iw * ih
    raw = (px2 - px1) * (py2 - py1) + (tx2 - tx1) * (ty2 - ty1) - inter
    zero = raw * 0.0
    open_union = zero + 1.0
    if KIND <= 1:
        open_union = tl.where(raw >= union_eps, 1.0, zero)
        union = tl.where(raw >= union_eps, raw, union_eps)
    else:
        union = raw + union_eps
    inverse = _inverse(union)
    iou = inter * inverse
    g_iou, g_union, g_area, g_c2, g_rho2, g_angle = zero - 1.0, zero, zero, zero, zero, zero
    if KIND == 0:
        x = tl.where(iou >= EPS, iou, EPS)
        if MODE == 0:
            loss = 1.0 - x
        elif MODE == 1:
            loss = 1.0 - x * x
            g_iou = -2.0 * x
        else:
            loss = -tl.log(x)
            g_iou = -1.0 / x
        g_iou = tl.where(iou >= EPS, g_iou, 0.0)
    elif KIND == 1:
        area = hw * hh
        floored = tl.where(area >= area_eps, area, area_eps)
        inverse_area = _inverse(floored)
        loss = 1.0 - iou + (floored - union) * inverse_area
        g_union = -inverse_area
        g_area = tl.where(area >= area_eps, union * inverse_area * inverse_area, 0.0)
    else:
        sx, sy = (tx1 - px1) + (tx2 - px2), (ty1 - py1) + (ty2 - py2)
        inverse_c2 = _inverse(hw * hw + hh * hh + area_eps)
        distance = (sx * sx + sy * sy) * 0.25 * inverse_c2
        score = iou - distance
        open_score = zero + 1.0
        if KIND == 3:
            eps = EPS * scale
            angle = atan_ratio(tx2 - tx1, ty2 - ty1 + eps) - atan_ratio(px2 - px1, py2 - py1 + eps)
            v = angle * angle * FOUR_OVER_PI2
            alpha = tl.where(iou > 0.5, v * _inverse(1.0 - iou + v), 0.0)
            score -= alpha * v
            open_score = tl.where((score >= -1.0) & (score <= 1.0), 1.0, zero)
            score = tl.minimum(tl.maximum(score, -1.0), 1.0)
            g_angle = open_score * alpha * angle * 2.0 * FOUR_OVER_PI2
        loss = 1.0 - score
        g_iou = -open_score
        g_c2 = -open_score * distance * inverse_c2
        g_rho2 = open_score * 0.5 * inverse_c2  # times the shift
    return loss, iou, inverse, open_union, g_iou, g_union, g_area, g_c2, g_rho2, g_angle


@triton.jit
def box_loss_fwd(
    pred,  # (n, 4)
    target,  # (n, 4)
    out,  # (n), or a partial sum per program
    weight, w_columns, w_row, w_column,
    n,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, KIND: tl.constexpr, MODE: tl.constexpr,
    W_MODE: tl.constexpr, NONE: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    px1, py1, px2, py2 = _load_boxes(pred, i, n, BLOCK, DTYPE)
    tx1, ty1, tx2, ty2 = _load_boxes(target, i, n, BLOCK, DTYPE)
    s, poison = _scale_of(px1, py1, px2, py2, tx1, ty1, tx2, ty2, DTYPE)
    loss = _loss_and_slopes(
        px1 * s, py1 * s, px2 * s, py2 * s, tx1 * s, ty1 * s, tx2 * s, ty2 * s, s,
        EPS, UNION_EPS, KIND, MODE,
    )[0]  # fmt: skip
    store_loss(
        out, loss + poison, i, i < n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE
    )


@triton.jit(do_not_specialize=["divisor"])
def box_loss_bwd(
    grad, g_columns, g_row, g_column,
    pred,  # (n, 4)
    target,  # (n, 4)
    weight, w_columns, w_row, w_column,
    avg_factor, divisor,
    g_pred, g_target,  # (n, 4) if wanted
    g_weight,  # (n) if wanted
    partial,  # (programs), the sum of weighted losses, if LOSS
    n,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, KIND: tl.constexpr, MODE: tl.constexpr,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, G_MODE: tl.constexpr, W_MODE: tl.constexpr,
    NONE: tl.constexpr,
    HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    px1, py1, px2, py2 = _load_boxes(pred, i, n, BLOCK, DTYPE)
    tx1, ty1, tx2, ty2 = _load_boxes(target, i, n, BLOCK, DTYPE)
    s, poison = _scale_of(px1, py1, px2, py2, tx1, ty1, tx2, ty2, DTYPE)
    px1, py1, px2, py2 = px1 * s, py1 * s, px2 * s, py2 * s
    tx1, ty1, tx2, ty2 = tx1 * s, ty1 * s, tx2 * s, ty2 * s
    loss, iou, inverse, open_union, g_iou, g_union, g_area, g_c2, g_rho2, g_angle = (
        _loss_and_slopes(px1, py1, px2, py2, tx1, ty1, tx2, ty2, s, EPS, UNION_EPS, KIND, MODE)
    )
    k = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, m,
        G_MODE, NONE, HAS_AVG_FACTOR, DTYPE,
    )  # fmt: skip
    if NEEDS & 4:
        tl.store(g_weight + i, (k * (loss + poison)).to(g_weight.dtype.element_ty), mask=m)
    if LOSS:
        store_loss(
            partial, loss + poison, i, m, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE
        )
    if W_MODE != 0:
        k *= load_operand(weight, w_columns, w_row, w_column, i, m, W_MODE).to(DTYPE)
    k = k * s + poison

    # Areas and intersection, then extents of each axis, then coordinates.
    pw, ph, tw, th = px2 - px1, py2 - py1, tx2 - tx1, ty2 - ty1
    ox, oy = _overlap(px1, px2, tx1, tx2), _overlap(py1, py2, ty1, ty2)
    hx, hy = _hull(px1, px2, tx1, tx2), _hull(py1, py2, ty1, ty2)
    g_box = open_union * (g_union - g_iou * iou * inverse)
    g_inter = g_iou * inverse - g_box
    g_ox = tl.where(ox >= 0.0, g_inter * tl.maximum(oy, 0.0), 0.0)
    g_oy = tl.where(oy >= 0.0, g_inter * tl.maximum(ox, 0.0), 0.0)
    g_hx = tl.where(hx >= 0.0, g_area * tl.maximum(hy, 0.0) + 2.0 * hx * g_c2, 0.0)
    g_hy = tl.where(hy >= 0.0, g_area * tl.maximum(hx, 0.0) + 2.0 * hy * g_c2, 0.0)
    g_pw, g_ph, g_tw, g_th = g_box * ph, g_box * pw, g_box * th, g_box * tw
    if KIND == 3:  # d atan(w / h) = (h dw - w dh) / (w^2 + h^2)
        ph_eps, th_eps = ph + EPS * s, th + EPS * s
        p_angle = g_angle / at_least(pw * pw + ph_eps * ph_eps, TINY)
        t_angle = g_angle / at_least(tw * tw + th_eps * th_eps, TINY)
        g_pw -= p_angle * ph_eps
        g_ph += p_angle * pw
        g_tw += t_angle * th_eps
        g_th -= t_angle * tw
    g_sx = g_rho2 * ((tx1 - px1) + (tx2 - px2))
    g_sy = g_rho2 * ((ty1 - py1) + (ty2 - py2))
    g_px1, g_px2, g_tx1, g_tx2 = _coordinates(px1, px2, tx1, tx2, g_pw, g_tw, g_ox, g_hx, g_sx)
    g_py1, g_py2, g_ty1, g_ty2 = _coordinates(py1, py2, ty1, ty2, g_ph, g_th, g_oy, g_hy, g_sy)
    if NEEDS & 1:
        _store_boxes(g_pred, k * g_px1, k * g_py1, k * g_px2, k * g_py2, i, n, BLOCK)
    if NEEDS & 2:
        _store_boxes(g_target, k * g_tx1, k * g_ty1, k * g_tx2, k * g_ty2, i, n, BLOCK)


def forward(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    mode: str, eps: float, union_eps: float, divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    n = pred.numel() // 4
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    p, t = pred.contiguous(), target.contiguous()

    def run(out: Tensor) -> None:
        common.launch(
            box_loss_fwd, r.programs, p, t, out, *r.weight.arguments(), n, EPS=eps,
            UNION_EPS=union_eps, KIND=KINDS[kind], MODE=MODES[mode], W_MODE=r.weight.mode,
            NONE=r.none, DTYPE=common.language_dtype(pred), BLOCK=common.BLOCK,
        )  # fmt: skip

    with torch.cuda.device_of(pred):
        return common.reduce(r, pred, widen, pred.shape[:-1], run)


def _backward(r, grad, pred, target, kind, mode, eps, union_eps, gradients, partial, needs):
    incoming = common.operand(grad, pred)
    common.launch(
        box_loss_bwd, r.programs, *incoming.arguments(), pred.contiguous(), target.contiguous(),
        *r.weight.arguments(), r.avg_factor, r.divisor, *gradients, partial, r.count, EPS=eps,
        UNION_EPS=union_eps, KIND=KINDS[kind], MODE=MODES[mode], NEEDS=needs, LOSS=grad is None,
        G_MODE=incoming.mode, W_MODE=r.weight.mode, NONE=r.none, HAS_AVG_FACTOR=r.has_avg_factor,
        DTYPE=common.language_dtype(pred), BLOCK=common.BLOCK,
    )  # fmt: skip


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    kind: str, mode: str, eps: float, union_eps: float, divisor: float | None, reduction: str,
    widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = pred.numel() // 4
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients = common.gradients_like(needs, pred, target, weight)
    with torch.cuda.device_of(pred):
        _backward(r, grad, pred, target, kind, mode, eps, union_eps, gradients, pred, needs)
    return gradients


def with_gradient(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    mode: str, eps: float, union_eps: float, divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n = pred.numel() // 4
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients, partial = (
        common.gradients_like(1, pred, target, weight),
        common.partial_sums(r, pred),
    )
    with torch.cuda.device_of(pred):
        _backward(r, None, pred, target, kind, mode, eps, union_eps, gradients, partial, 1)
        return common.finish(r, pred, widen, partial), gradients[0]


implement("box_loss", "triton", forward)
implement("box_loss_backward", "triton", backward)
implement("box_loss_with_gradient", "triton", with_gradient)
