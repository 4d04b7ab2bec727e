"""Triton kernels of the stem `cross_entropy`; formulas: fastloss/reference/cross_entropy.py."""

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference.cross_entropy import average
from . import _common as common
from ._common import load_divisor
from ._pixels import (
    NO_IGNORE,
    Tiles,
    elements_per_lane,
    image_and_pixels,
    kernel,
    load_labels,
    load_tile,
    softmax,
    strides,
    tiles,
)


@triton.jit
def _class_weights(class_weight, w_c, c, label, inside, classes, WEIGHTED: tl.constexpr, DTYPE):
    """w of the classes c (C, 1), 0 beyond them, and of the labels (P)."""
    column = c[:, None] < classes
    if WEIGHTED:
        w = tl.load(class_weight + c[:, None] * w_c, mask=column, other=0.0).to(DTYPE)
        w_y = tl.load(class_weight + label * w_c, mask=inside, other=0.0).to(DTYPE)
    else:
        w = column.to(DTYPE)
        w_y = inside.to(DTYPE)
    return w, w_y


@triton.jit
def _loss(log_p, nll, w, w_y, c, inside, valid, classes, SMOOTHING: tl.constexpr):
    """The losses of a tile."""
    loss = (1.0 - SMOOTHING) * w_y * nll
    if SMOOTHING != 0.0:
        loss -= tl.sum(tl.where(c[:, None] < classes, w * log_p, 0.0), 0) * SMOOTHING / classes
    return tl.where(valid, tl.where(inside, loss, float("nan")), 0.0)


@triton.jit
def _pixel_weight(weight, w_n, w_p, n, p, pixels, WEIGHTED: tl.constexpr, DTYPE):
    if WEIGHTED:
        value = tl.load(weight + n * w_n + p * w_p, mask=p < pixels, other=0.0).to(DTYPE)
    else:
        value = tl.zeros(p.shape, DTYPE) + 1.0
    return value


@kernel
def cross_entropy_fwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    class_weight, w_c,  # (C)
    weight, w_n, w_p,  # (N, P)
    out,  # the weighted losses (N, P), if NONE, or their sum for each program
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    NONE: tl.constexpr, SMOOTHING: tl.constexpr, CLASS_WEIGHTED: tl.constexpr,
    WEIGHTED: tl.constexpr, DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    total = tl.zeros((), DTYPE)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        label, inside, valid = load_labels(target + n * t_n, p, t_p, ignore_index, classes, pixels)
        _, _, log_p, nll, _, _ = softmax(x, c[:, None] == label[None, :], inside)
        w, w_y = _class_weights(class_weight, w_c, c, label, inside, classes, CLASS_WEIGHTED, DTYPE)
        loss = _loss(log_p, nll, w, w_y, c, inside, valid, classes, SMOOTHING)
        loss *= _pixel_weight(weight, w_n, w_p, n, p, pixels, WEIGHTED, DTYPE)
        if NONE:
            tl.store(out + n * pixels + p, loss.to(out.dtype.element_ty), mask=p < pixels)
        else:
            total += tl.sum(loss, 0)
    if not NONE:
        tl.store(out + tl.program_id(0), total)


@kernel
def cross_entropy_bwd(
    grad, g_n, g_p,  # (N, P) or ()
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    class_weight, w_c,  # (C)
    weight, w_n, w_p,  # (N, P)
    avg_factor, divisor: tl.int64,
    g_logits, gx_n, gx_c, gx_p,  # (N, C, P), if wanted
    g_weight,  # (N, P), if wanted
    out,  # the sum of the weighted losses for each program, if LOSS: the gradient is 1 then
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr,
    SMOOTHING: tl.constexpr, CLASS_WEIGHTED: tl.constexpr, WEIGHTED: tl.constexpr,
    DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    total = tl.zeros((), DTYPE)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        g = tl.zeros((PB,), DTYPE) + 1.0
        if not LOSS:
            g = tl.load(grad + n * g_n + p * g_p, mask=p < pixels, other=0.0).to(DTYPE)
        if not NONE:
            g /= load_divisor(avg_factor, divisor, HAS_AVG_FACTOR, DTYPE)
        of_pixel = _pixel_weight(weight, w_n, w_p, n, p, pixels, WEIGHTED, DTYPE)
        g_loss = g * of_pixel
        at = g_logits + n * gx_n + c.to(tl.int64)[:, None] * gx_c + p[None, :] * gx_p
        mask = (c < classes)[:, None] & (p < pixels)[None, :]
        needed = tl.max((g_loss != 0.0).to(tl.int32), 0)
        if LOSS or NEEDS & 2:
            needed = 1
        if needed > 0:
            x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
            label, inside, valid = load_labels(
                target + n * t_n, p, t_p, ignore_index, classes, pixels
            )
            probability, shifted, log_p, nll, _, _ = softmax(
                x, c[:, None] == label[None, :], inside
            )
            w, w_y = _class_weights(
                class_weight, w_c, c, label, inside, classes, CLASS_WEIGHTED, DTYPE
            )
            if LOSS or NEEDS & 2:
                loss = _loss(log_p, nll, w, w_y, c, inside, valid, classes, SMOOTHING)
                if LOSS:
                    total += tl.sum(loss * of_pixel, 0)
                else:
                    at_weight = g_weight + n * pixels + p
                    tl.store(at_weight, (g * loss).to(g_weight.dtype.element_ty), mask=p < pixels)
            if NEEDS & 1:
                g_x = (1.0 - SMOOTHING) * w_y[None, :] * shifted
                if SMOOTHING != 0.0:
                    g_x += (probability * tl.sum(w, 0)[None, :] - w) * SMOOTHING / classes
                g_x *= tl.where(inside, g_loss, float("nan"))[None, :]
                g_x = tl.where((valid & (g_loss != 0.0))[None, :], g_x, 0.0)
                tl.store(at, g_x.to(g_logits.dtype.element_ty), mask=mask)
        else:  # The logits of these pixels do not matter.
            tl.store(at, tl.zeros((CB, PB), g_logits.dtype.element_ty), mask=mask)
    if LOSS:
        tl.store(out + tl.program_id(0), total)


def _call(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, weight: Tensor | None,
    avg_factor: Tensor | None, ignore_index: int | None, smoothing: float, divisor: float | None,
    reduction: str,
) -> tuple[Tiles, common.Reduction, tuple[Any, ...], tuple[int, ...], dict[str, Any]]:  # fmt: skip
    """The programs, the reduction, and the tensors, the numbers and the constants that both kernels
    take."""
    dealt = tiles(logits, elements_per_lane(1, False))
    total = average(logits, target, class_weight, avg_factor, ignore_index, divisor, reduction)
    count = target.numel()
    r = common.reduction_of(logits, None, total, divisor, reduction, count, count)
    of_class = (logits, 0) if class_weight is None else (class_weight, class_weight.stride(0))
    of_pixel = (logits, 0, 0) if weight is None else (weight, *weight.stride())
    tensors = (logits, *strides(logits), target, *target.stride(), *of_class, *of_pixel)
    ignored = NO_IGNORE if ignore_index is None else ignore_index
    constants = {
        "NONE": r.none, "SMOOTHING": smoothing, "CLASS_WEIGHTED": class_weight is not None,
        "WEIGHTED": weight is not None, "DTYPE": common.language_dtype(logits),
        **dealt.constants(),
    }  # fmt: skip
    numbers = (ignored, logits.shape[2], *dealt.sizes())
    return dealt, replace(r, programs=dealt.programs), tensors, numbers, constants


def forward(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, weight: Tensor | None,
    avg_factor: Tensor | None, ignore_index: int | None, smoothing: float, divisor: float | None,
    reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    dealt, r, tensors, numbers, constants = _call(
        logits, target, class_weight, weight, avg_factor, ignore_index, smoothing, divisor,
        reduction,
    )  # fmt: skip

    def run(out: Tensor) -> None:
        common.launch(cross_entropy_fwd, dealt.programs, *tensors, out, *numbers, **constants)

    with torch.cuda.device_of(logits):
        return common.reduce(r, logits, widen, target.shape, run)


def _backward(
    grad: Tensor | None, call: Any, g_logits: Tensor, g_weight: Tensor, out: Tensor, needs: int
) -> None:
    dealt, r, tensors, numbers, constants = call
    incoming = (g_logits, 0, 0)
    if grad is not None:
        incoming = (grad, *(grad.stride() if grad.dim() else (0, 0)))
    common.launch(
        cross_entropy_bwd, dealt.programs, *incoming, *tensors, r.avg_factor, r.divisor, g_logits,
        *strides(g_logits), g_weight, out, *numbers, NEEDS=needs, LOSS=grad is None,
        HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, class_weight: Tensor | None,
    weight: Tensor | None, avg_factor: Tensor | None, ignore_index: int | None, smoothing: float,
    divisor: float | None, reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    call = _call(
        logits, target, class_weight, weight, avg_factor, ignore_index, smoothing, divisor,
        reduction,
    )  # fmt: skip
    g_logits = torch.empty_like(logits) if needs & 1 else logits.new_empty(0)
    g_weight = common.gradients_like(needs, logits, weight)[1]
    with torch.cuda.device_of(logits):
        _backward(grad, call, g_logits, g_weight, logits, needs)
    return g_logits, g_weight


def with_gradient(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, weight: Tensor | None,
    avg_factor: Tensor | None, ignore_index: int | None, smoothing: float, divisor: float | None,
    reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    call = _call(
        logits, target, class_weight, weight, avg_factor, ignore_index, smoothing, divisor,
        reduction,
    )  # fmt: skip
    g_logits, sums = torch.empty_like(logits), common.partial_sums(call[1], logits)
    with torch.cuda.device_of(logits):
        _backward(None, call, g_logits, logits, sums, 1)
        return common.finish(call[1], logits, widen, sums), g_logits


implement("cross_entropy", "triton", forward)
implement("cross_entropy_backward", "triton", backward)
implement("cross_entropy_with_gradient", "triton", with_gradient)
