"""Triton kernels of the stem `contrastive`; definition: fastloss/reference/contrastive.py.

A program has a row. Its sums are kept relative to the largest terms met so far, so that one read
gives them; the gradient reads the row once more, from the cache.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import load_divisor, log1p_unit

INFINITY = tl.constexpr(float("inf"))
WIDEST = 4096  # columns that a program holds at a time
kernel = triton.jit(do_not_specialize=["columns", "w_row", "g_row", "divisor"])


@triton.jit
def _load(logits, x_m, target, t_m, j, columns, DTYPE: tl.constexpr):
    """The logits of columns j; whether they are positives, negatives, and neither."""
    inside = j < columns
    x = tl.load(logits + j * x_m, mask=inside, other=0.0).to(DTYPE)
    t = tl.load(target + j * t_m, mask=inside, other=0)
    positive, negative = inside & (t == 1), inside & (t == 0)
    return x, positive, negative, inside & ~(positive | negative)


@triton.jit
def _exp(x, largest):
    """e^(x - largest), 1 where both are the same infinity."""
    return tl.exp(tl.where(x == largest, 0.0, x - largest))


@triton.jit
def _larger(largest, x, members):
    """The largest of the members among x and of `largest`; a NaN may be lost."""
    return tl.maximum(largest, tl.max(tl.where(members & (x == x), x, -INFINITY), 0))


@triton.jit
def _sums(logits, x_m, target, t_m, columns, OTHERS: tl.constexpr, DTYPE, BLOCK: tl.constexpr):
    """Of a row z, -inf without a loss, a and S_Q of its negatives, -b and S_P of its positives."""
    a, b = tl.full((), -INFINITY, DTYPE), tl.full((), -INFINITY, DTYPE)
    sum_q, sum_p = tl.zeros((), DTYPE), tl.zeros((), DTYPE)
    for start in range(0, columns, BLOCK):
        j = start + tl.arange(0, BLOCK).to(tl.int64)
        x, positive, negative, other = _load(logits, x_m, target, t_m, j, columns, DTYPE)
        x = tl.where(other, 0.0, x)
        if OTHERS:
            positive, negative = positive | other, negative | other
        new_a, new_b = _larger(a, x, negative), _larger(b, -x, positive)
        sum_q *= tl.where(sum_q == 0.0, 0.0, _exp(a, new_a))
        sum_p *= tl.where(sum_p == 0.0, 0.0, _exp(b, new_b))
        sum_q += tl.sum(tl.where(negative, _exp(x, new_a), 0.0), 0)
        sum_p += tl.sum(tl.where(positive, _exp(-x, new_b), 0.0), 0)
        a, b = new_a, new_b
    empty = (sum_q == 0.0) | (sum_p == 0.0)
    z = tl.where(empty, -INFINITY, (a + b) + (tl.log(sum_q) + tl.log(sum_p)))
    return z, a, sum_q, b, sum_p


@triton.jit
def _softplus(z):
    """ln(1 + e^z), and the sigmoid of z."""
    e = tl.exp(-tl.abs(z))
    return tl.where(z > 0.0, z, 0.0) + log1p_unit(e), tl.where(z < 0.0, e, 1.0) / (1.0 + e)


@kernel
def contrastive_fwd(
    logits, x_n, x_m,  # (N, M)
    target, t_n, t_m,  # (N, M)
    weight, w_row,  # (N)
    out,  # (N), weighted
    columns,
    OTHERS: tl.constexpr, WEIGHTED: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    z, _, _, _, _ = _sums(
        logits + row * x_n, x_m, target + row * t_n, t_m, columns, OTHERS, DTYPE, BLOCK
    )
    loss, _ = _softplus(z)
    if WEIGHTED:
        loss *= tl.load(weight + row * w_row).to(DTYPE)
    tl.store(out + row, loss.to(out.dtype.element_ty))


@kernel
def contrastive_bwd(
    grad, g_row,  # (N) or ()
    logits, x_n, x_m,  # (N, M)
    target, t_n, t_m,  # (N, M)
    weight, w_row,  # (N)
    avg_factor, divisor: tl.int64,
    g_logits,  # (N, M), if wanted
    g_weight,  # (N), if wanted
    out,  # (N), the weighted losses, if LOSS; the incoming gradient is 1 then
    columns,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, OTHERS: tl.constexpr, WEIGHTED: tl.constexpr,
    NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * x_n
    target += row * t_n
    z, a, sum_q, b, sum_p = _sums(logits, x_m, target, t_m, columns, OTHERS, DTYPE, BLOCK)
    loss, slope = _softplus(z)
    g = tl.full((), 1.0, DTYPE)
    if not LOSS:
        g = tl.load(grad + row * g_row).to(DTYPE)
    if not NONE:
        g /= load_divisor(avg_factor, divisor, HAS_AVG_FACTOR, DTYPE)
    if NEEDS & 2:
        tl.store(g_weight + row, (g * loss).to(g_weight.dtype.element_ty))
    if WEIGHTED:
        w = tl.load(weight + row * w_row).to(DTYPE)
        g *= w
        loss *= w
    if LOSS:
        tl.store(out + row, loss)
    if NEEDS & 1:
        slope *= g
        of_negatives, of_positives = slope / sum_q, -slope / sum_p
        for start in range(0, columns, BLOCK):
            j = start + tl.arange(0, BLOCK).to(tl.int64)
            x, positive, negative, _ = _load(logits, x_m, target, t_m, j, columns, DTYPE)
            e = _exp(tl.where(positive, -x, x), tl.where(positive, b, a))
            g_x = tl.where(positive, of_positives, of_negatives) * e
            g_x = tl.where(positive | negative, g_x, 0.0)
            g_x = tl.where(z == -INFINITY, 0.0, g_x)
            at = g_logits + row * columns + j
            tl.store(at, g_x.to(g_logits.dtype.element_ty), mask=j < columns)


def _call(
    logits: Tensor, target: Tensor, weight: Tensor | None, others: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The tensors and the constants that both kernels take."""
    rows = (logits, 0) if weight is None else (weight, weight.stride(0))
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    block = min(max(triton.next_power_of_2(logits.shape[1]), 16), WIDEST)
    constants = {
        "OTHERS": others, "WEIGHTED": weight is not None, "DTYPE": common.language_dtype(logits),
        "BLOCK": block, "num_warps": 8 if block == WIDEST else common.NUM_WARPS,
    }  # fmt: skip
    return (logits, *logits.stride(), target, *target.stride(), *rows), constants


def _reduction(logits, weight, avg_factor, divisor, reduction) -> common.Reduction:
    n = len(logits)
    return common.reduction_of(logits, weight, avg_factor, divisor, reduction, n, n, block=1)


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, others: bool,
    divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    tensors, constants = _call(logits, target, weight, others)

    def run(out: Tensor) -> None:
        common.launch(contrastive_fwd, r.count, *tensors, out, logits.shape[1], **constants)

    with torch.cuda.device_of(logits):
        return common.reduce(r, logits, widen, (r.count,), run)


def _backward(r, grad, logits, target, weight, others, gradients, out, needs):
    tensors, constants = _call(logits, target, weight, others)
    incoming = (logits, 0) if grad is None else (grad, grad.stride(0) if grad.dim() else 0)
    common.launch(
        contrastive_bwd, r.count, *incoming, *tensors, r.avg_factor, r.divisor, *gradients, out,
        logits.shape[1], NEEDS=needs, LOSS=grad is None, NONE=r.none,
        HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    others: bool, divisor: float | None, reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    gradients = common.gradients_like(needs, logits, weight)
    with torch.cuda.device_of(logits):
        _backward(r, grad, logits, target, weight, others, gradients, logits, needs)
    return gradients


def with_gradient(
    logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None, others: bool,
    divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    gradients, losses = common.gradients_like(1, logits, weight), common.partial_sums(r, logits)
    with torch.cuda.device_of(logits):
        _backward(r, None, logits, target, weight, others, gradients, losses, 1)
        return common.finish(r, logits, widen, losses), gradients[0]


implement("contrastive", "triton", forward)
implement("contrastive_backward", "triton", backward)
implement("contrastive_with_gradient", "triton", with_gradient)
