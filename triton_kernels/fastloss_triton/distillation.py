"""Triton kernels of the stem `distillation`; definition: fastloss/reference/distillation.py."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from . import _rows as rows
from ._common import load_incoming, load_operand, store_block, store_loss
from ._rows import INFINITY, column_indices, kernel, load_rows, row_indices, softmax_of_rows


@triton.jit
def _exp_remainder(d):
    """e^d - 1 - d for |d| <= 1/2; see csrc/common/math.h."""
    y = tl.zeros_like(d) + 1.0
    if d.dtype == tl.float64:
        for k in tl.static_range(15, 8, -1):
            y = 1.0 + d * (1.0 / k) * y
    for k in tl.static_range(8, 2, -1):
        y = 1.0 + d * (1.0 / k) * y
    return 0.5 * (d * d) * y


@triton.jit
def _terms(
    logits, x_n, x_c, peak_x, inverse_x, teacher, y_n, y_c, peak_y, inverse_y, gap, i, n, c,
    inside, factor, DTYPE: tl.constexpr,
):  # fmt: skip
    """Of the elements (i, c) the terms q (e^d - 1 - d) of the loss, and p - q; 0 outside."""
    x = load_rows(logits, x_n, x_c, i, n, c, inside, DTYPE)
    y = load_rows(teacher, y_n, y_c, i, n, c, inside, DTYPE)
    u, v = (x - peak_x[:, None]) * factor, (y - peak_y[:, None]) * factor
    p, q = tl.exp(u) * inverse_x[:, None], tl.exp(v) * inverse_y[:, None]
    q = tl.where(v == -INFINITY, q * 0.0, q)  # a NaN is kept
    d = (u - v) - gap[:, None]
    near = tl.abs(d) < 0.5
    remainder = _exp_remainder(tl.where(near, d, 0.0))
    term = tl.where(near, q * remainder, (p - q) - q * d)
    term = tl.where(q == 0.0, p, term)
    return tl.where(inside[None, :], term, 0.0), p - q


@triton.jit
def _factors(temperature, columns, DTYPE: tl.constexpr):
    """1 / T and T / C."""
    t = temperature.to(tl.float64, bitcast=True)
    return (1.0 / t).to(DTYPE), (t / columns.to(tl.float64)).to(DTYPE)


@kernel
def distillation_fwd(
    logits, x_n, x_c,  # (N, C)
    teacher, y_n, y_c,  # (N, C)
    weight, w_columns, w_row, w_column,  # (N)
    out,  # (N), weighted, or the sum of each program
    n, columns, temperature: tl.int64,
    W_MODE: tl.constexpr, NONE: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = row_indices(ROWS)
    factor, slope = _factors(temperature, columns, DTYPE)
    peak_x, sum_x = softmax_of_rows(logits, x_n, x_c, i, n, columns, factor, DTYPE, ROWS, BLOCK)
    peak_y, sum_y = softmax_of_rows(teacher, y_n, y_c, i, n, columns, factor, DTYPE, ROWS, BLOCK)
    gap = tl.log(sum_x) - tl.log(sum_y)
    loss = tl.zeros((ROWS,), DTYPE)
    for start in range(0, columns, BLOCK):
        c, inside = column_indices(start, columns, BLOCK)
        terms, _ = _terms(
            logits, x_n, x_c, peak_x, 1.0 / sum_x, teacher, y_n, y_c, peak_y, 1.0 / sum_y, gap,
            i, n, c, inside, factor, DTYPE,
        )  # fmt: skip
        loss += tl.sum(terms, 1)
    loss *= slope / factor
    store_loss(out, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@kernel
def distillation_bwd(
    grad, g_columns, g_row, g_column,  # (N) or (); absent: an incoming gradient of 1
    logits, x_n, x_c,  # (N, C)
    teacher, y_n, y_c,  # (N, C)
    weight, w_columns, w_row, w_column,  # (N)
    avg_factor, divisor: tl.int64,
    g_logits,  # (N, C), if wanted
    g_weight,  # (N), if wanted
    out,  # the sum of the weighted losses of each program, if LOSS
    n, columns, temperature: tl.int64,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, G_MODE: tl.constexpr, W_MODE: tl.constexpr,
    NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = row_indices(ROWS)
    factor, slope = _factors(temperature, columns, DTYPE)
    peak_x, sum_x = softmax_of_rows(logits, x_n, x_c, i, n, columns, factor, DTYPE, ROWS, BLOCK)
    peak_y, sum_y = softmax_of_rows(teacher, y_n, y_c, i, n, columns, factor, DTYPE, ROWS, BLOCK)
    gap = tl.log(sum_x) - tl.log(sum_y)
    g = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, n, G_MODE, NONE, HAS_AVG_FACTOR,
        DTYPE,
    )  # fmt: skip
    g_row_logits = g * slope
    if W_MODE != 0:
        w = load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
        g_row_logits *= w
    loss = tl.zeros((ROWS,), DTYPE)
    for start in range(0, columns, BLOCK):
        c, inside = column_indices(start, columns, BLOCK)
        terms, difference = _terms(
            logits, x_n, x_c, peak_x, 1.0 / sum_x, teacher, y_n, y_c, peak_y, 1.0 / sum_y, gap,
            i, n, c, inside, factor, DTYPE,
        )  # fmt: skip
        loss += tl.sum(terms, 1)
        if NEEDS & 1:
            g_x = g_row_logits[:, None] * difference
            at = g_logits + i[:, None] * columns + c[None, :]
            mask = (i < n)[:, None] & inside[None, :]
            tl.store(at, g_x.to(g_logits.dtype.element_ty), mask=mask)
    loss *= slope / factor
    if NEEDS & 2:
        store_block(g_weight, g * loss, i, n)
    if LOSS:
        store_loss(out, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE)


def _call(
    r: common.Reduction, logits: Tensor, teacher: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The tensors and the constants that both kernels take."""
    tensors = (logits, *logits.stride(), teacher, *teacher.stride(), *r.weight.arguments())
    dtype = common.language_dtype(logits)
    return tensors, {"W_MODE": r.weight.mode, "DTYPE": dtype, **rows.block(logits)}


def forward(
    logits: Tensor, teacher: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    temperature: float, divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    r = rows.reduction(logits, weight, avg_factor, divisor, reduction)
    tensors, constants = _call(r, logits, teacher)

    def run(out: Tensor) -> None:
        common.launch(
            distillation_fwd, r.programs, *tensors, out, *logits.shape, common.bits(temperature),
            NONE=r.none, **constants,
        )  # fmt: skip

    with torch.cuda.device_of(logits):
        return common.reduce(r, logits, widen, (r.count,), run)


def _backward(r, grad, logits, teacher, temperature, gradients, out, needs):
    tensors, constants = _call(r, logits, teacher)
    incoming = common.operand(grad, logits)
    common.launch(
        distillation_bwd, r.programs, *incoming.arguments(), *tensors, r.avg_factor, r.divisor,
        *gradients, out, *logits.shape, common.bits(temperature), NEEDS=needs, LOSS=grad is None,
        G_MODE=incoming.mode, NONE=r.none, HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, logits: Tensor, teacher: Tensor, weight: Tensor | None,
    avg_factor: Tensor | None, temperature: float, divisor: float | None, reduction: str,
    widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    r = rows.reduction(logits, weight, avg_factor, divisor, reduction)
    gradients = common.gradients_like(needs, logits, weight)
    with torch.cuda.device_of(logits):
        _backward(r, grad, logits, teacher, temperature, gradients, logits, needs)
    return gradients


def with_gradient(
    logits: Tensor, teacher: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    temperature: float, divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r = rows.reduction(logits, weight, avg_factor, divisor, reduction)
    gradients, partial = common.gradients_like(1, logits, weight), common.partial_sums(r, logits)
    with torch.cuda.device_of(logits):
        _backward(r, None, logits, teacher, temperature, gradients, partial, 1)
        return common.finish(r, logits, widen, partial), gradients[0]


implement("distillation", "triton", forward)
implement("distillation_backward", "triton", backward)
implement("distillation_with_gradient", "triton", with_gradient)
