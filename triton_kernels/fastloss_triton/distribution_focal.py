"""Triton kernels of the stem `distribution_focal`; definition:
fastloss/reference/distribution_focal.py."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from . import _rows as rows
from ._common import load_incoming, load_operand, store_block, store_loss
from ._rows import column_indices, kernel, load_rows, row_indices, softmax_of_rows


@triton.jit
def _sides(logits, x_n, x_c, target, t_n, i, n, columns, DTYPE: tl.constexpr):
    """Of the rows i: k, the shares and the logits of k and of k + 1, and NaN where the target is
    outside [0, columns - 1), else 0."""
    t = tl.load(target + i * t_n, mask=i < n, other=0.0).to(DTYPE)
    known = (t >= 0.0) & (t < (columns - 1).to(DTYPE))
    t = tl.where(known, t, 0.0)
    k = t.to(tl.int64)
    left, right = (k + 1).to(DTYPE) - t, t - k.to(DTYPE)
    at = logits + i * x_n + k * x_c
    x_left = tl.load(at, mask=i < n, other=0.0).to(DTYPE)
    x_right = tl.load(at + x_c, mask=i < n, other=0.0).to(DTYPE)
    poison = tl.where(known, 0.0, float("nan")).to(DTYPE)
    return k, left, right, x_left, x_right, poison


@triton.jit
def _loss(left, right, x_left, x_right, peak, total, poison):
    log_sum = tl.log(total)
    return left * ((peak - x_left) + log_sum) + right * ((peak - x_right) + log_sum) + poison


@kernel
def distribution_focal_fwd(
    logits, x_n, x_c,  # (N, n + 1)
    target, t_n,  # (N)
    weight, w_columns, w_row, w_column,  # (N)
    out,  # (N), weighted, or the sum of each program
    n, columns,
    W_MODE: tl.constexpr, NONE: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = row_indices(ROWS)
    _, left, right, x_left, x_right, poison = _sides(
        logits, x_n, x_c, target, t_n, i, n, columns, DTYPE
    )
    peak, total = softmax_of_rows(logits, x_n, x_c, i, n, columns, 1.0, DTYPE, ROWS, BLOCK)
    loss = _loss(left, right, x_left, x_right, peak, total, poison)
    store_loss(out, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@kernel
def distribution_focal_bwd(
    grad, g_columns, g_row, g_column,  # (N) or (); absent: an incoming gradient of 1
    logits, x_n, x_c,  # (N, n + 1)
    target, t_n,  # (N)
    weight, w_columns, w_row, w_column,  # (N)
    avg_factor, divisor: tl.int64,
    g_logits,  # (N, n + 1), if wanted
    g_target,  # (N), if wanted
    g_weight,  # (N), if wanted
    out,  # the sum of the weighted losses of each program, if LOSS
    n, columns,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, G_MODE: tl.constexpr, W_MODE: tl.constexpr,
    NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = row_indices(ROWS)
    k, left, right, x_left, x_right, poison = _sides(
        logits, x_n, x_c, target, t_n, i, n, columns, DTYPE
    )
    peak, total = softmax_of_rows(logits, x_n, x_c, i, n, columns, 1.0, DTYPE, ROWS, BLOCK)
    loss = _loss(left, right, x_left, x_right, peak, total, poison)
    g = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, n, G_MODE, NONE, HAS_AVG_FACTOR,
        DTYPE,
    )  # fmt: skip
    if NEEDS & 4:
        store_block(g_weight, g * loss, i, n)
    if LOSS:
        store_loss(out, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE)
    if W_MODE != 0:
        g *= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
    if NEEDS & 2:
        store_block(g_target, g * (x_left - x_right) + poison, i, n)
    if NEEDS & 1:
        g += poison
        inverse = 1.0 / total
        for start in range(0, columns, BLOCK):
            c, inside = column_indices(start, columns, BLOCK)
            x = load_rows(logits, x_n, x_c, i, n, c, inside, DTYPE)
            distance = c[None, :] - k[:, None]
            share = tl.where(distance == 1, right[:, None], 0.0)
            share = tl.where(distance == 0, left[:, None], share)
            g_x = g[:, None] * (tl.exp(x - peak[:, None]) * inverse[:, None] - share)
            at = g_logits + i[:, None] * columns + c[None, :]
            mask = (i < n)[:, None] & inside[None, :]
            tl.store(at, g_x.to(g_logits.dtype.element_ty), mask=mask)


def _call(
    r: common.Reduction, logits: Tensor, target: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The tensors and the constants that both kernels take."""
    tensors = (logits, *logits.stride(), target, *target.stride(), *r.weight.arguments())
    dtype = common.language_dtype(logits)
    return tensors, {"W_MODE": r.weight.mode, "DTYPE": dtype, **rows.block(logits)}


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    r = rows.reduction(logits, weight, avg_factor, divisor, reduction)
    tensors, constants = _call(r, logits, target)

    def run(out: Tensor) -> None:
        common.launch(
            distribution_focal_fwd, r.programs, *tensors, out, *logits.shape, NONE=r.none,
            **constants,
        )  # fmt: skip

    with torch.cuda.device_of(logits):
        return common.reduce(r, logits, widen, target.shape, run)


def _backward(r, grad, logits, target, gradients, out, needs):
    tensors, constants = _call(r, logits, target)
    incoming = common.operand(grad, logits)
    common.launch(
        distribution_focal_bwd, r.programs, *incoming.arguments(), *tensors, r.avg_factor,
        r.divisor, *gradients, out, *logits.shape, NEEDS=needs, LOSS=grad is None,
        G_MODE=incoming.mode, NONE=r.none, HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None,
    avg_factor: Tensor | None, divisor: float | None, reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    r = rows.reduction(logits, weight, avg_factor, divisor, reduction)
    gradients = common.gradients_like(needs, logits, target, weight)
    with torch.cuda.device_of(logits):
        _backward(r, grad, logits, target, gradients, logits, needs)
    return gradients


def with_gradient(
    logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r = rows.reduction(logits, weight, avg_factor, divisor, reduction)
    gradients = common.gradients_like(1, logits, target, weight)
    partial = common.partial_sums(r, logits)
    with torch.cuda.device_of(logits):
        _backward(r, None, logits, target, gradients, partial, 1)
        return common.finish(r, logits, widen, partial), gradients[0]


implement("distribution_focal", "triton", forward)
implement("distribution_focal_backward", "triton", backward)
implement("distribution_focal_with_gradient", "triton", with_gradient)
