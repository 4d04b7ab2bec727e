"""Triton kernels of the stem `bounded_iou_loss`; formulas: fastloss/reference/bounded_iou_loss.py.

The unreduced loss has the shape of the boxes: elements are coordinates, four to a box.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._boxes import inverse, load_boxes, scale_of, store_boxes, wins
from ._common import load_incoming, load_operand, store_block, store_loss


@triton.jit
def _smooth(x, BETA: tl.constexpr):
    """Loss of the excess x, and its derivative."""
    near = x < BETA
    loss = tl.where(near, 0.5 * x * x / BETA, x - 0.5 * BETA)
    return loss, tl.where(near, x / BETA, 1.0)


@triton.jit
def _axis(p1, p2, t1, t2, poison, EPS: tl.constexpr, BETA: tl.constexpr, scale):
    """Losses of centre and extent, and their derivatives to the shift and to the extent p2 - p1."""
    p, t, shift = p2 - p1, t2 - t1, (t1 - p1) + (t2 - p2)
    eps, d = EPS * scale, tl.abs(shift)
    inverse_sum, inverse_p, inverse_t = inverse(t + d + eps), inverse(p + eps), inverse(t + eps)
    quotient, shrunk, grown = (t - d) * inverse_sum, t * inverse_p, p * inverse_t
    centre, slope = _smooth(1.0 - tl.maximum(quotient, 0.0), BETA)
    sign = tl.where(shift > 0.0, 1.0, tl.where(shift < 0.0, -1.0, 0.0)).to(shift.dtype)
    to_shift = slope * wins(quotient, 0.0) * (1.0 + quotient) * inverse_sum * sign
    extent, slope = _smooth(1.0 - tl.minimum(shrunk, grown), BETA)
    # Choices, not products: the quotient that is not the minimum may be infinite.
    tie = 0.5 * (shrunk * inverse_p - inverse_t)
    other = tl.where(shrunk == grown, tie, -inverse_t)
    to_p = slope * tl.where(shrunk < grown, shrunk * inverse_p, other)
    return centre + poison, extent + poison, to_shift, to_p


@triton.jit
def _flat(a, b, c, d, BLOCK: tl.constexpr):
    """Four values for each box, (BLOCK // 4) each, as one block of coordinates."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK,))


@triton.jit
def _losses_and_slopes(
    pred, target, n,
    BETA: tl.constexpr, EPS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Losses of a block of coordinates; derivatives of each to shift and extent, scale, poison."""
    i = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    px1, py1, px2, py2 = load_boxes(pred, i, n // 4, BLOCK // 4, DTYPE)
    tx1, ty1, tx2, ty2 = load_boxes(target, i, n // 4, BLOCK // 4, DTYPE)
    s, poison = scale_of(px1, py1, px2, py2, tx1, ty1, tx2, ty2, DTYPE)
    cx, w, to_sx, to_w = _axis(px1 * s, px2 * s, tx1 * s, tx2 * s, poison, EPS, BETA, s)
    cy, h, to_sy, to_h = _axis(py1 * s, py2 * s, ty1 * s, ty2 * s, poison, EPS, BETA, s)
    return _flat(cx, cy, w, h, BLOCK), to_sx, to_sy, to_w, to_h, s, poison


@common.kernel
def bounded_iou_loss_fwd(
    pred,  # (n) coordinates of boxes (n / 4, 4)
    target,  # (n)
    out,  # (n), or a partial sum per program
    weight, w_columns, w_row, w_column,
    n,
    BETA: tl.constexpr, EPS: tl.constexpr, W_MODE: tl.constexpr, NONE: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    loss = _losses_and_slopes(pred, target, n, BETA, EPS, DTYPE, BLOCK)[0]
    store_loss(out, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@common.kernel
def bounded_iou_loss_bwd(
    grad, g_columns, g_row, g_column,
    pred,  # (n) coordinates of boxes (n / 4, 4)
    target,  # (n)
    weight, w_columns, w_row, w_column,
    avg_factor, divisor: tl.int64,
    g_pred, g_weight,  # (n) each, if wanted
    partial,  # (programs), the sum of weighted losses, if LOSS
    n,
    BETA: tl.constexpr, EPS: tl.constexpr, NEEDS: tl.constexpr, LOSS: tl.constexpr,
    G_MODE: tl.constexpr, W_MODE: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    loss, to_sx, to_sy, to_w, to_h, s, poison = _losses_and_slopes(
        pred, target, n, BETA, EPS, DTYPE, BLOCK
    )
    k = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, n,
        G_MODE, NONE, HAS_AVG_FACTOR, DTYPE,
    )  # fmt: skip
    if NEEDS & 2:
        store_block(g_weight, k * loss, i, n)
    if LOSS:
        store_loss(partial, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE)
    if W_MODE != 0:
        k *= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
    if NEEDS & 1:
        x, y = tl.split(tl.reshape(k, (BLOCK // 4, 2, 2)))  # (BLOCK // 4, 2) each: centre, extent
        k_cx, k_w = tl.split(x)
        k_cy, k_h = tl.split(y)
        shift_x, shift_y = k_cx * to_sx, k_cy * to_sy
        w, h = k_w * to_w, k_h * to_h
        box = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
        x1, y1 = (-shift_x - w) * s + poison, (-shift_y - h) * s + poison
        x2, y2 = (w - shift_x) * s + poison, (h - shift_y) * s + poison
        store_boxes(g_pred, x1, y1, x2, y2, box, n // 4, BLOCK // 4)


def forward(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, beta: float,
    eps: float, divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    p, t = pred.contiguous(), target.contiguous()

    def run(out: Tensor) -> None:
        common.launch(
            bounded_iou_loss_fwd, r.programs, p, t, out, *r.weight.arguments(), n, BETA=beta,
            EPS=eps, W_MODE=r.weight.mode, NONE=r.none, DTYPE=common.language_dtype(pred),
            BLOCK=common.BLOCK,
        )  # fmt: skip

    with torch.cuda.device_of(pred):
        return common.reduce(r, pred, widen, pred.shape, run)


def _backward(r, grad, pred, target, beta, eps, gradients, partial, needs):
    incoming = common.operand(grad, pred)
    common.launch(
        bounded_iou_loss_bwd, r.programs, *incoming.arguments(), pred.contiguous(),
        target.contiguous(), *r.weight.arguments(), r.avg_factor, r.divisor, *gradients, partial,
        r.count, BETA=beta, EPS=eps, NEEDS=needs, LOSS=grad is None, G_MODE=incoming.mode,
        W_MODE=r.weight.mode, NONE=r.none, HAS_AVG_FACTOR=r.has_avg_factor,
        DTYPE=common.language_dtype(pred), BLOCK=common.BLOCK,
    )  # fmt: skip


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    beta: float, eps: float, divisor: float | None, reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients = common.gradients_like(needs, pred, weight)
    with torch.cuda.device_of(pred):
        _backward(r, grad, pred, target, beta, eps, gradients, pred, needs)
    return gradients


def with_gradient(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, beta: float,
    eps: float, divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients, partial = common.gradients_like(1, pred, weight), common.partial_sums(r, pred)
    with torch.cuda.device_of(pred):
        _backward(r, None, pred, target, beta, eps, gradients, partial, 1)
        return common.finish(r, pred, widen, partial), gradients[0]


implement("bounded_iou_loss", "triton", forward)
implement("bounded_iou_loss_backward", "triton", backward)
implement("bounded_iou_loss_with_gradient", "triton", with_gradient)
