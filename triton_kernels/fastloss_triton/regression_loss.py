"""Triton kernels of the stem `regression_loss`; formulas: fastloss/reference/regression_loss.py."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import load_block, load_incoming, load_operand, log1p, store_block, store_loss

KINDS = {"l1": 0, "smooth_l1": 1, "mse": 2, "balanced_l1": 3}


@triton.jit
def value(
    d, BETA: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr, GROWTH: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """GROWTH is e^(GAMMA / ALPHA) - 1."""
    a = tl.abs(d)
    if KIND == 0:
        loss = a
    elif KIND == 1:
        loss = tl.where(a < BETA, 0.5 * a * a / BETA, a - 0.5 * BETA)
    elif KIND == 2:
        loss = d * d
    else:
        x = GROWTH * tl.where(a < BETA, a, 0.0)
        near = ALPHA / GROWTH * (x + 1.0) * log1p(x / BETA) - ALPHA * a
        loss = tl.where(a < BETA, near, GAMMA * a + (GAMMA / GROWTH - ALPHA * BETA))
    return loss


@triton.jit
def derivative(
    d, BETA: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr, GROWTH: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    sign = tl.where(d > 0.0, 1.0, tl.where(d < 0.0, -1.0, d))  # 0 and NaN stay
    if KIND == 0:
        slope = sign
    elif KIND == 1:
        slope = tl.where(tl.abs(d) < BETA, d / BETA, sign)
    elif KIND == 2:
        slope = 2.0 * d
    else:
        a = tl.abs(d)
        x = GROWTH * tl.where(a < BETA, a, 0.0)
        near = ALPHA * (log1p(x / BETA) + (1.0 - BETA) / (x + BETA))
        slope = sign * tl.where(a < BETA, near, GAMMA)
    return slope


@common.kernel
def regression_loss_fwd(
    pred,  # (n)
    target,  # (n)
    out,  # (n), or a partial sum per program
    weight, w_columns, w_row, w_column,
    n,
    BETA: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr, GROWTH: tl.constexpr,
    KIND: tl.constexpr, W_MODE: tl.constexpr, NONE: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = load_block(pred, i, n).to(DTYPE)
    t = load_block(target, i, n).to(DTYPE)
    loss = value(x - t, BETA, ALPHA, GAMMA, GROWTH, KIND)
    store_loss(out, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@common.kernel
def regression_loss_bwd(
    grad, g_columns, g_row, g_column,
    pred,  # (n)
    target,  # (n)
    weight, w_columns, w_row, w_column,
    avg_factor, divisor: tl.int64,
    g_pred, g_target, g_weight,  # (n) each, if wanted
    partial,  # (programs), the sum of weighted losses, if LOSS
    n,
    BETA: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr, GROWTH: tl.constexpr,
    KIND: tl.constexpr, NEEDS: tl.constexpr, LOSS: tl.constexpr, G_MODE: tl.constexpr,
    W_MODE: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = load_block(pred, i, n).to(DTYPE)
    d -= load_block(target, i, n).to(DTYPE)
    g = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, n,
        G_MODE, NONE, HAS_AVG_FACTOR, DTYPE,
    )  # fmt: skip
    if NEEDS & 4:
        store_block(g_weight, g * value(d, BETA, ALPHA, GAMMA, GROWTH, KIND), i, n)
    if LOSS:
        loss = value(d, BETA, ALPHA, GAMMA, GROWTH, KIND)
        store_loss(partial, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE)
    if W_MODE != 0:
        g *= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
    slope = g * derivative(d, BETA, ALPHA, GAMMA, GROWTH, KIND)
    if NEEDS & 1:
        store_block(g_pred, slope, i, n)
    if NEEDS & 2:
        store_block(g_target, -slope, i, n)


def _formula(kind: str, beta: float, alpha: float, gamma: float) -> dict[str, Any]:
    """The constants that choose what is compiled."""
    growth = math.expm1(gamma / alpha)
    return {"BETA": beta, "ALPHA": alpha, "GAMMA": gamma, "GROWTH": growth, "KIND": KINDS[kind]}


def forward(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    beta: float, alpha: float, gamma: float, divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    x, t = pred.contiguous(), target.contiguous()
    formula = _formula(kind, beta, alpha, gamma)

    def run(out: Tensor) -> None:
        common.launch(
            regression_loss_fwd, r.programs, x, t, out, *r.weight.arguments(), n,
            **formula, W_MODE=r.weight.mode, NONE=r.none, DTYPE=common.language_dtype(pred),
            BLOCK=common.BLOCK,
        )  # fmt: skip

    with torch.cuda.device_of(pred):
        return common.reduce(r, pred, widen, pred.shape, run)


def _backward(r, grad, pred, target, formula, gradients, partial, needs):
    incoming = common.operand(grad, pred)
    common.launch(
        regression_loss_bwd, r.programs, *incoming.arguments(), pred.contiguous(),
        target.contiguous(), *r.weight.arguments(), r.avg_factor, r.divisor, *gradients, partial,
        r.count, **formula, NEEDS=needs, LOSS=grad is None, G_MODE=incoming.mode,
        W_MODE=r.weight.mode, NONE=r.none, HAS_AVG_FACTOR=r.has_avg_factor,
        DTYPE=common.language_dtype(pred), BLOCK=common.BLOCK,
    )  # fmt: skip


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    kind: str, beta: float, alpha: float, gamma: float, divisor: float | None, reduction: str,
    widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients = common.gradients_like(needs, pred, target, weight)
    formula = _formula(kind, beta, alpha, gamma)
    with torch.cuda.device_of(pred):
        _backward(r, grad, pred, target, formula, gradients, pred, needs)
    return gradients


def with_gradient(
    pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    beta: float, alpha: float, gamma: float, divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients, partial = (
        common.gradients_like(1, pred, target, weight),
        common.partial_sums(r, pred),
    )
    formula = _formula(kind, beta, alpha, gamma)
    with torch.cuda.device_of(pred):
        _backward(r, None, pred, target, formula, gradients, partial, 1)
        return common.finish(r, pred, widen, partial), gradients[0]


implement("regression_loss", "triton", forward)
implement("regression_loss_backward", "triton", backward)
implement("regression_loss_with_gradient", "triton", with_gradient)
