"""Triton kernels of the stem `regression_loss`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import load_incoming, load_operand, store_loss

KINDS = {"l1": 0, "smooth_l1": 1, "mse": 2}


@triton.jit
def _value(d, BETA: tl.constexpr, KIND: tl.constexpr):
    a = tl.abs(d)
    if KIND == 0:
        loss = a
    elif KIND == 1:
        loss = tl.where(a < BETA, 0.5 * a * a / BETA, a - 0.5 * BETA)
    else:
        loss = d * d
    return loss


@triton.jit
def _derivative(d, BETA: tl.constexpr, KIND: tl.constexpr):
    sign = tl.where(d > 0.0, 1.0, tl.where(d < 0.0, -1.0, d))  # 0 and NaN stay
    if KIND == 0:
        slope = sign
    elif KIND == 1:
        slope = tl.where(tl.abs(d) < BETA, d / BETA, sign)
    else:
        slope = 2.0 * d
    return slope


@triton.jit
def regression_loss_fwd(
    pred,  # (n)
    target,  # (n)
    out,  # (n), or a partial sum per program
    weight, w_columns, w_row, w_column,
    n,
    BETA: tl.constexpr, KIND: tl.constexpr, W_MODE: tl.constexpr, NONE: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    x = tl.load(pred + i, mask=m, other=0.0).to(DTYPE)
    t = tl.load(target + i, mask=m, other=0.0).to(DTYPE)
    loss = _value(x - t, BETA, KIND)
    store_loss(out, loss, i, m, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@triton.jit(do_not_specialize=["divisor"])
def regression_loss_bwd(
    grad, g_columns, g_row, g_column,
    pred,  # (n)
    target,  # (n)
    weight, w_columns, w_row, w_column,
    avg_factor, divisor,
    g_pred, g_target, g_weight,  # (n) each, if wanted
    partial,  # (programs), the sum of weighted losses, if LOSS
    n,
    BETA: tl.constexpr, KIND: tl.constexpr, NEEDS: tl.constexpr, LOSS: tl.constexpr,
    G_MODE: tl.constexpr,
    W_MODE: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    d = tl.load(pred + i, mask=m, other=0.0).to(DTYPE)
    d -= tl.load(target + i, mask=m, other=0.0).to(DTYPE)
    g = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, m,
        G_MODE, NONE, HAS_AVG_FACTOR, DTYPE,
    )  # fmt: skip
    if NEEDS & 4:
        tl.store(g_weight + i, (g * _value(d, BETA, KIND)).to(g_weight.dtype.element_ty), mask=m)
    if LOSS:
        loss = _value(d, BETA, KIND)
        store_loss(partial, loss, i, m, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE)
    if W_MODE != 0:
        g *= load_operand(weight, w_columns, w_row, w_column, i, m, W_MODE).to(DTYPE)
    slope = g * _derivative(d, BETA, KIND)
    if NEEDS & 1:
        tl.store(g_pred + i, slope.to(g_pred.dtype.element_ty), mask=m)
    if NEEDS & 2:
        tl.store(g_target + i, (-slope).to(g_target.dtype.element_ty), mask=m)


def forward(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    beta: float, divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    x, t = pred.contiguous(), target.contiguous()

    def run(out: Tensor) -> None:
        common.launch(
            regression_loss_fwd, r.programs, x, t, out, *r.weight.arguments(), n,
            BETA=beta, KIND=KINDS[kind], W_MODE=r.weight.mode, NONE=r.none,
            DTYPE=common.language_dtype(pred), BLOCK=common.BLOCK,
        )  # fmt: skip

    with torch.cuda.device_of(pred):
        return common.reduce(r, pred, widen, pred.shape, run)


def _backward(r, grad, pred, target, kind, beta, gradients, partial, needs):
    incoming = common.operand(grad, pred)
    common.launch(
        regression_loss_bwd, r.programs, *incoming.arguments(), pred.contiguous(),
        target.contiguous(), *r.weight.arguments(), r.avg_factor, r.divisor, *gradients, partial,
        r.count, BETA=beta, KIND=KINDS[kind], NEEDS=needs, LOSS=grad is None, G_MODE=incoming.mode,
        W_MODE=r.weight.mode, NONE=r.none, HAS_AVG_FACTOR=r.has_avg_factor,
        DTYPE=common.language_dtype(pred), BLOCK=common.BLOCK,
    )  # fmt: skip


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    kind: str, beta: float, divisor: float | None, reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients = common.gradients_like(needs, pred, target, weight)
    with torch.cuda.device_of(pred):
        _backward(r, grad, pred, target, kind, beta, gradients, pred, needs)
    return gradients


def with_gradient(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    beta: float, divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients, partial = (
        common.gradients_like(1, pred, target, weight),
        common.partial_sums(r, pred),
    )
    with torch.cuda.device_of(pred):
        _backward(r, None, pred, target, kind, beta, gradients, partial, 1)
        return common.finish(r, pred, widen, partial), gradients[0]


implement("regression_loss", "triton", forward)
implement("regression_loss_backward", "triton", backward)
implement("regression_loss_with_gradient", "triton", with_gradient)
