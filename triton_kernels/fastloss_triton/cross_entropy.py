"""Triton kernels of the stem `cross_entropy`; formulas: fastloss/reference/cross_entropy.py."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._modulation import focal_slope, modulation
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


@kernel
def cross_entropy_fwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    class_weight, w_c,  # (C)
    out,  # (N, P)
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    SMOOTHING: tl.constexpr, GAMMA: tl.constexpr, THRESHOLD: tl.constexpr, WEIGHTED: tl.constexpr,
    DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        label, inside, valid = load_labels(target + n * t_n, p, t_p, ignore_index, classes, pixels)
        _, _, log_p, nll, miss, own = softmax(x, c[:, None] == label[None, :], inside)
        loss = (1.0 - SMOOTHING) * modulation(miss, own, GAMMA, THRESHOLD) * nll
        if WEIGHTED:
            loss *= tl.load(class_weight + label * w_c, mask=inside, other=0.0).to(DTYPE)
        if SMOOTHING != 0.0:
            column = c[:, None] < classes
            if WEIGHTED:
                w = tl.load(class_weight + c[:, None] * w_c, mask=column, other=0.0).to(DTYPE)
                log_p *= w
            loss -= tl.sum(tl.where(column, log_p, 0.0), 0) * SMOOTHING / classes
        loss = tl.where(inside, loss, float("nan"))
        loss = tl.where(valid, loss, 0.0).to(out.dtype.element_ty)
        tl.store(out + n * pixels + p, loss, mask=p < pixels)


@kernel
def cross_entropy_bwd(
    grad, g_n, g_p,  # (N, P)
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    class_weight, w_c,  # (C)
    g_logits, gx_n, gx_c, gx_p,  # (N, C, P)
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    SMOOTHING: tl.constexpr, GAMMA: tl.constexpr, THRESHOLD: tl.constexpr, WEIGHTED: tl.constexpr,
    DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        g = tl.load(grad + n * g_n + p * g_p, mask=p < pixels, other=0.0).to(DTYPE)
        at = g_logits + n * gx_n + c.to(tl.int64)[:, None] * gx_c + p[None, :] * gx_p
        mask = (c < classes)[:, None] & (p < pixels)[None, :]
        if tl.max((g != 0.0).to(tl.int32), 0) > 0:
            x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
            g_x = _gradient(
                x, g, c, p, target + n * t_n, t_p, class_weight, w_c, ignore_index, pixels,
                classes, SMOOTHING, GAMMA, THRESHOLD, WEIGHTED, DTYPE, CB,
            )  # fmt: skip
            tl.store(at, g_x.to(g_logits.dtype.element_ty), mask=mask)
        else:  # The logits of these pixels do not matter.
            tl.store(at, tl.zeros((CB, PB), g_logits.dtype.element_ty), mask=mask)


@triton.jit
def _gradient(
    x, g, c, p, target, t_p, class_weight, w_c, ignore_index, pixels, classes,
    SMOOTHING: tl.constexpr, GAMMA: tl.constexpr, THRESHOLD: tl.constexpr, WEIGHTED: tl.constexpr,
    DTYPE: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile x of logits whose losses have the gradient g."""
    label, inside, valid = load_labels(target, p, t_p, ignore_index, classes, pixels)
    probability, shifted, _, nll, miss, own = softmax(x, c[:, None] == label[None, :], inside)
    slope = (1.0 - SMOOTHING) * focal_slope(nll, miss, own, GAMMA, THRESHOLD)[0]
    if WEIGHTED:
        slope *= tl.load(class_weight + label * w_c, mask=inside, other=0.0).to(DTYPE)
    g_x = slope[None, :] * shifted
    if SMOOTHING != 0.0:
        column = c[:, None] < classes
        if WEIGHTED:
            w = tl.load(class_weight + c[:, None] * w_c, mask=column, other=0.0).to(DTYPE)
        else:
            w = tl.where(column, tl.zeros((CB, 1), DTYPE) + 1.0, 0.0)
        g_x += (probability * tl.sum(w, 0)[None, :] - w) * SMOOTHING / classes
    g_x *= tl.where(inside, g, float("nan"))[None, :]
    return tl.where((valid & (g != 0.0))[None, :], g_x, 0.0)


def _call(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int | None,
    smoothing: float, gamma: float, threshold: float | None,
) -> tuple[Tiles, tuple[Any, ...], tuple[int, ...], dict[str, Any]]:  # fmt: skip
    """The programs, the tensors, the numbers and the constants that both kernels take."""
    dealt = tiles(logits, elements_per_lane(1, False, gamma))
    weight = (logits, 0) if class_weight is None else (class_weight, class_weight.stride(0))
    tensors = (logits, *strides(logits), target, *target.stride(), *weight)
    ignored = NO_IGNORE if ignore_index is None else ignore_index
    constants = {
        "SMOOTHING": smoothing, "GAMMA": gamma, "THRESHOLD": threshold,
        "WEIGHTED": class_weight is not None, "DTYPE": common.language_dtype(logits),
        **dealt.constants(),
    }  # fmt: skip
    return dealt, tensors, (ignored, logits.shape[2], *dealt.sizes()), constants


def forward(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int | None,
    smoothing: float, gamma: float, threshold: float | None, widen: bool,
) -> Tensor:  # fmt: skip
    dealt, tensors, numbers, constants = _call(
        logits, target, class_weight, ignore_index, smoothing, gamma, threshold
    )
    out = logits.new_empty(target.shape, dtype=common.result_dtype(logits, widen))
    with torch.cuda.device_of(logits):
        common.launch(cross_entropy_fwd, dealt.programs, *tensors, out, *numbers, **constants)
    return out


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, class_weight: Tensor | None,
    ignore_index: int | None, smoothing: float, gamma: float, threshold: float | None, widen: bool,
    needs: int,
) -> Tensor:  # fmt: skip
    if not needs & 1:
        return logits.new_empty(0)
    dealt, tensors, numbers, constants = _call(
        logits, target, class_weight, ignore_index, smoothing, gamma, threshold
    )
    g_logits = torch.empty_like(logits)
    with torch.cuda.device_of(logits):
        common.launch(
            cross_entropy_bwd, dealt.programs, grad, *grad.stride(), *tensors, g_logits,
            *strides(g_logits), *numbers, **constants,
        )  # fmt: skip
    return g_logits


implement("cross_entropy", "triton", forward)
implement("cross_entropy_backward", "triton", backward)
