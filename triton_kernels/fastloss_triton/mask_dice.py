"""Triton kernels of the stem `mask_dice`; definition: fastloss/reference/mask_dice.py.

A program has a mask. One read gives its sums; the gradients read it once more, from the cache.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import load_divisor

WIDEST = 4096  # elements that a program holds at a time
kernel = triton.jit(do_not_specialize=["size", "w_row", "g_row", "divisor", "eps"])


@triton.jit
def _load(
    logits, x_p, target, t_p, start, size, ACTIVATED: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK elements from `start` on: which there are, p, q and t."""
    j = start + tl.arange(0, BLOCK).to(tl.int64)
    inside = j < size
    x = tl.load(logits + j * x_p, mask=inside, other=0.0).to(DTYPE)
    t = tl.load(target + j * t_p, mask=inside, other=0).to(DTYPE)
    if ACTIVATED:
        p, q = x, 1.0 - x
    else:
        e = tl.exp(-tl.abs(x))
        larger = 1.0 / (1.0 + e)
        p, q = tl.where(x < 0.0, e * larger, larger), tl.where(x < 0.0, larger, e * larger)
    return j, inside, p, q, t


@triton.jit
def _mask(
    logits, x_p, target, t_p, size, eps, SQUARED: tl.constexpr, ACTIVATED: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a mask l, s and D."""
    a, b = tl.zeros((BLOCK,), DTYPE), tl.zeros((BLOCK,), DTYPE)
    for start in range(0, size, BLOCK):
        _, inside, p, q, t = _load(
            logits, x_p, target, t_p, start, size, ACTIVATED, DTYPE, BLOCK
        )  # fmt: skip
        a += tl.where(inside, p * t, 0.0)
        only_p, only_t = p * (1.0 - t), q * t
        rest = (only_p - only_t) * (only_p - only_t) if SQUARED else only_p + only_t
        b += tl.where(inside, rest, 0.0)
    added = eps.to(tl.float64, bitcast=True).to(DTYPE)
    rest, product = tl.sum(b, 0), 2.0 * tl.sum(a, 0)
    if SQUARED:
        rest += 2.0 * added
    else:
        product += added
    d = rest + product
    return rest / d, product / d, d


@kernel
def mask_dice_fwd(
    logits, x_n, x_p,  # (N, P)
    target, t_n, t_p,  # (N, P)
    weight, w_row,  # (N)
    eps: tl.int64,
    out,  # (N), weighted
    size,
    SQUARED: tl.constexpr, ACTIVATED: tl.constexpr, WEIGHTED: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    loss, _, _ = _mask(
        logits + n * x_n, x_p, target + n * t_n, t_p, size, eps, SQUARED, ACTIVATED, DTYPE, BLOCK
    )
    if WEIGHTED:
        loss *= tl.load(weight + n * w_row).to(DTYPE)
    tl.store(out + n, loss.to(out.dtype.element_ty))


@kernel
def mask_dice_bwd(
    grad, g_row,  # (N) or ()
    logits, x_n, x_p,  # (N, P)
    target, t_n, t_p,  # (N, P)
    weight, w_row,  # (N)
    eps: tl.int64,
    avg_factor, divisor: tl.int64,
    g_logits,  # (N, P), if wanted
    g_target,  # (N, P), if wanted
    g_weight,  # (N), if wanted
    out,  # (N), the weighted losses, if LOSS; the incoming gradient is 1 then
    size,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, SQUARED: tl.constexpr, ACTIVATED: tl.constexpr,
    WEIGHTED: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    logits += n * x_n
    target += n * t_n
    loss, s, d = _mask(logits, x_p, target, t_p, size, eps, SQUARED, ACTIVATED, DTYPE, BLOCK)
    g = tl.full((), 1.0, DTYPE)
    if not LOSS:
        g = tl.load(grad + n * g_row).to(DTYPE)
    if not NONE:
        g /= load_divisor(avg_factor, divisor, HAS_AVG_FACTOR, DTYPE)
    if NEEDS & 4:
        tl.store(g_weight + n, (g * loss).to(g_weight.dtype.element_ty))
    if WEIGHTED:
        w = tl.load(weight + n * w_row).to(DTYPE)
        g *= w
    if LOSS:
        tl.store(out + n, loss * w if WEIGHTED else loss)
    if NEEDS & 3:
        factor = 2.0 * g / d
        for start in range(0, size, BLOCK):
            j, inside, p, q, t = _load(
                logits, x_p, target, t_p, start, size, ACTIVATED, DTYPE, BLOCK
            )  # fmt: skip
            if NEEDS & 1:
                of_p = s * p * (1.0 - t) - t * (loss * p + q) if SQUARED else 0.5 * s - t
                g_p = factor * of_p
                g_x = g_p if ACTIVATED else g_p * (p * q)
                at = g_logits + n * size + j
                tl.store(at, g_x.to(g_logits.dtype.element_ty), mask=inside)
            if NEEDS & 2:
                of_t = s * q * t - p * ((1.0 - t) + loss * t) if SQUARED else 0.5 * s - p
                g_t = factor * of_t
                at = g_target + n * size + j
                tl.store(at, g_t.to(g_target.dtype.element_ty), mask=inside)


def _call(
    logits: Tensor, target: Tensor, weight: Tensor | None, squared: bool, eps: float,
    activated: bool,
) -> tuple[tuple[Any, ...], dict[str, Any]]:  # fmt: skip
    """The tensors and the constants that both kernels take."""
    rows = (logits, 0) if weight is None else (weight, weight.stride(0))
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    block = min(max(triton.next_power_of_2(logits.shape[1]), 16), WIDEST)
    constants = {
        "SQUARED": squared, "ACTIVATED": activated, "WEIGHTED": weight is not None,
        "DTYPE": common.language_dtype(logits), "BLOCK": block,
        "num_warps": 8 if block == WIDEST else common.NUM_WARPS,
    }  # fmt: skip
    tensors = (logits, *logits.stride(), target, *target.stride(), *rows, common.bits(eps))
    return tensors, constants


def _reduction(logits, weight, avg_factor, divisor, reduction) -> common.Reduction:
    n = len(logits)
    return common.reduction_of(logits, weight, avg_factor, divisor, reduction, n, n, block=1)


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    squared: bool, eps: float, activated: bool, divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    tensors, constants = _call(logits, target, weight, squared, eps, activated)

    def run(out: Tensor) -> None:
        common.launch(mask_dice_fwd, r.count, *tensors, out, logits.shape[1], **constants)

    with torch.cuda.device_of(logits):
        return common.reduce(r, logits, widen, (r.count,), run)


def _backward(r, grad, logits, call, gradients, out, needs):
    tensors, constants = call
    incoming = (out, 0) if grad is None else (grad, grad.stride(0) if grad.dim() else 0)
    common.launch(
        mask_dice_bwd, r.count, *incoming, *tensors, r.avg_factor, r.divisor, *gradients, out,
        logits.shape[1], NEEDS=needs, LOSS=grad is None, NONE=r.none,
        HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    squared: bool, eps: float, activated: bool, divisor: float | None, reduction: str, widen: bool,
    needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    call = _call(logits, target, weight, squared, eps, activated)
    gradients = common.gradients_like(needs, logits, target, weight)
    with torch.cuda.device_of(logits):
        _backward(r, grad, logits, call, gradients, logits, needs)
    return gradients


def with_gradient(
    logits: Tensor, target: Tensor, weight: Tensor | None, avg_factor: Tensor | None,
    squared: bool, eps: float, activated: bool, divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    call = _call(logits, target, weight, squared, eps, activated)
    gradients = common.gradients_like(1, logits, target, weight)
    losses = common.partial_sums(r, logits)
    with torch.cuda.device_of(logits):
        _backward(r, None, logits, call, gradients, losses, 1)
        return common.finish(r, logits, widen, losses), gradients[0]


implement("mask_dice", "triton", forward)
implement("mask_dice_backward", "triton", backward)
implement("mask_dice_with_gradient", "triton", with_gradient)
