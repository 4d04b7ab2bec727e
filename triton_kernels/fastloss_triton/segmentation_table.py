"""Triton kernels of the stem `segmentation_table`; formulas: the reference of that name.

A program of the forward sums its blocks of pixels into a table of its own, and one sum over the
programs makes the result: no atomics, so the same bits on every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference.segmentation_table import ACTIVATIONS, is_index
from . import _common as common
from ._modulation import balance, binary, focal_slope, logistic, modulation
from ._pixels import (
    NO_IGNORE,
    Tiles,
    elements_per_lane,
    image_and_pixels,
    kernel,
    load_tile,
    strides,
    tiles,
)
from ._statistics import (
    BCE_NEGATIVE,
    BCE_POSITIVE,
    NEG_LOG_PROB,
    NLL,
    OF_LABEL,
    OF_LOGIT,
    OVERLAP,
    PROBABILITY,
    PRODUCT,
    SIGMOID,
    SIGMOID_FOCAL,
    SIGMOID_TERM,
    SOFTMAX,
    SOFTMAX_FOCAL,
    SOFTMAX_TERM,
    TARGET,
    column_of,
    load_target,
    probability,
    values_of,
)


@kernel
def segmentation_table_fwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_c, t_p,  # (N, P) or (N, C, P)
    out,  # (programs, S, C)
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    STATISTICS: tl.constexpr, COUNT: tl.constexpr, ACTIVATION: tl.constexpr,
    SOFTMAX_GAMMA: tl.constexpr, SOFTMAX_THRESHOLD: tl.constexpr, ALPHA: tl.constexpr,
    GAMMA: tl.constexpr, THRESHOLD: tl.constexpr, SMOOTHING: tl.constexpr, INDEX: tl.constexpr,
    STRICT: tl.constexpr, DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    sums = ()
    for _ in tl.static_range(COUNT):  # four pixels, those of a lane, are added up at once
        sums = sums + (tl.zeros((CB, PB // 4), DTYPE),)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        t, valid, label, inside = load_target(
            target + n * t_n, p, t_c, t_p, c, ignore_index, classes, pixels, INDEX, STRICT, DTYPE
        )
        if INDEX and STRICT:
            x = tl.where(inside[None, :], x, float("nan"))
        values = values_of(
            x, t, label, inside, c, STATISTICS, ACTIVATION, SOFTMAX_GAMMA, SOFTMAX_THRESHOLD,
            ALPHA, GAMMA, THRESHOLD, SMOOTHING, INDEX, CB,
        )  # fmt: skip
        added = ()
        for i in tl.static_range(COUNT):
            value = tl.reshape(tl.where(valid, values[i], 0.0), (CB, PB // 4, 4))
            added = added + (sums[i] + tl.sum(value, 2),)
        sums = added
    row = out + tl.program_id(0).to(tl.int64) * COUNT * classes
    for i in tl.static_range(COUNT):
        tl.store(row + i * classes + c, tl.sum(sums[i], 1), mask=c < classes)


@triton.jit
def _lower(a, b):
    """d min(a, b) / da."""
    return tl.where(a < b, 1.0, tl.where(a > b, 0.0, 0.5)).to(a.dtype)


@triton.jit
def _coefficient(
    grad, at, g_s, mask, BIT: tl.constexpr, STATISTICS: tl.constexpr, DTYPE: tl.constexpr
):
    """The gradient of statistic BIT at offsets `at` of classes; 0 if it was not asked."""
    if BIT & STATISTICS:
        column = column_of(BIT, STATISTICS)
        value = tl.load(grad + g_s * column + at, mask=mask, other=0.0).to(DTYPE)
    else:
        value = tl.zeros(at.shape, DTYPE)
    return value


@kernel
def segmentation_table_bwd(
    grad, g_g, g_s, g_c,  # (G, S, C), g_g = 0 for one group
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_c, t_p,  # (N, P) or (N, C, P)
    g_logits, gx_n, gx_c, gx_p,  # (N, C, P) if wanted
    g_target, gt_n, gt_c, gt_p,  # (N, C, P) if wanted
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    STATISTICS: tl.constexpr, ACTIVATION: tl.constexpr,
    SOFTMAX_GAMMA: tl.constexpr, SOFTMAX_THRESHOLD: tl.constexpr, ALPHA: tl.constexpr,
    GAMMA: tl.constexpr, THRESHOLD: tl.constexpr, SMOOTHING: tl.constexpr, INDEX: tl.constexpr,
    STRICT: tl.constexpr, NEEDS: tl.constexpr, DTYPE: tl.constexpr, CB: tl.constexpr,
    PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    grad += n * g_g
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        t, valid, label, inside = load_target(
            target + n * t_n, p, t_c, t_p, c, ignore_index, classes, pixels, INDEX, False, DTYPE
        )
        g_x, g_t = _gradient(
            x, t, label, inside, c, grad, g_s, g_c, classes, STATISTICS, ACTIVATION,
            SOFTMAX_GAMMA, SOFTMAX_THRESHOLD, ALPHA, GAMMA, THRESHOLD, SMOOTHING, INDEX, DTYPE,
        )  # fmt: skip
        if INDEX and STRICT:
            g_x = tl.where(inside[None, :], g_x, float("nan"))
        mask = (c < classes)[:, None] & (p < pixels)[None, :]
        column = c.to(tl.int64)[:, None]
        if NEEDS & 1:
            at = g_logits + n * gx_n + column * gx_c + p[None, :] * gx_p
            tl.store(at, tl.where(valid, g_x, 0.0).to(g_logits.dtype.element_ty), mask=mask)
        if NEEDS & 2:
            at = g_target + n * gt_n + column * gt_c + p[None, :] * gt_p
            tl.store(at, tl.where(valid, g_t, 0.0).to(g_target.dtype.element_ty), mask=mask)


@triton.jit
def _gradient(
    x, t, label, inside, c, grad, g_s, g_c, classes,
    STATISTICS: tl.constexpr, ACTIVATION: tl.constexpr,
    SOFTMAX_GAMMA: tl.constexpr, SOFTMAX_THRESHOLD: tl.constexpr, ALPHA: tl.constexpr,
    GAMMA: tl.constexpr, THRESHOLD: tl.constexpr, SMOOTHING: tl.constexpr, INDEX: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile to x and t."""
    at, mask = (c * g_c)[:, None], (c < classes)[:, None]
    own_at = label * g_c
    p, shifted, log_p, nll, miss, own = probability(x, label, inside, c, ACTIVATION)
    g_p = tl.zeros_like(x)
    g_t = _coefficient(grad, at, g_s, mask, TARGET, STATISTICS, DTYPE) + g_p
    g_p += _coefficient(grad, at, g_s, mask, PROBABILITY, STATISTICS, DTYPE)
    if OVERLAP & STATISTICS:
        g = _coefficient(grad, at, g_s, mask, OVERLAP, STATISTICS, DTYPE)
        g_p += g * _lower(p, t)
        g_t += g * _lower(t, p)
    if PRODUCT & STATISTICS:
        g = _coefficient(grad, at, g_s, mask, PRODUCT, STATISTICS, DTYPE)
        g_p += g * t
        g_t += g * p
    if ACTIVATION == SOFTMAX:
        g_x = tl.zeros_like(x)
        if (PROBABILITY + OVERLAP + PRODUCT) & STATISTICS:
            g_x = p * (g_p - tl.sum(p * g_p, 0)[None, :])
        if OF_LABEL & STATISTICS:
            factor = _coefficient(grad, own_at, g_s, inside, NLL, STATISTICS, DTYPE)
            if (SOFTMAX_FOCAL + SOFTMAX_TERM) & STATISTICS:
                product, slope = focal_slope(nll, miss, own, SOFTMAX_GAMMA, SOFTMAX_THRESHOLD)
                g = _coefficient(grad, own_at, g_s, inside, SOFTMAX_FOCAL, STATISTICS, DTYPE)
                factor += g * product
                g = _coefficient(grad, own_at, g_s, inside, SOFTMAX_TERM, STATISTICS, DTYPE)
                factor += g * slope
            g_x += factor[None, :] * shifted
        if NEG_LOG_PROB & STATISTICS:
            g = _coefficient(grad, at, g_s, mask, NEG_LOG_PROB, STATISTICS, DTYPE)
            g_x += p * tl.sum(g, 0)[None, :] - g
    elif ACTIVATION == SIGMOID:
        g_x = g_p * (p * logistic(x)[1])
    else:
        g_x = g_p
    if OF_LOGIT & STATISTICS:
        s, s_other, positive, negative = logistic(x)
    if (SIGMOID_FOCAL + SIGMOID_TERM) & STATISTICS:
        b, m, u, b_x = binary(t, s, s_other, positive, negative, INDEX)
        product, slope = focal_slope(b, m, u, GAMMA, THRESHOLD)
        focal = _coefficient(grad, at, g_s, mask, SIGMOID_FOCAL, STATISTICS, DTYPE)
        g_b = focal * balance(t, ALPHA) * product
        g_b += _coefficient(grad, at, g_s, mask, SIGMOID_TERM, STATISTICS, DTYPE) * slope
        g_x += g_b * b_x
        g_t -= g_b * x
        if ALPHA is not None:
            g_t += focal * (2.0 * ALPHA - 1.0) * modulation(m, u, GAMMA, THRESHOLD) * b
    if (BCE_POSITIVE + BCE_NEGATIVE) & STATISTICS:
        g_positive = _coefficient(grad, at, g_s, mask, BCE_POSITIVE, STATISTICS, DTYPE)
        g_negative = _coefficient(grad, at, g_s, mask, BCE_NEGATIVE, STATISTICS, DTYPE)
        smooth = t + SMOOTHING * (1.0 - 2.0 * t)
        g_x += g_negative * (1.0 - smooth) * s - g_positive * smooth * s_other
        g_t += (1.0 - 2.0 * SMOOTHING) * (g_positive * positive - g_negative * negative)
    return g_x, g_t


def _call(
    logits: Tensor, target: Tensor, statistics: int, activation: str, ignore_index: int | None,
    strict: bool, softmax_gamma: float, softmax_threshold: float | None, alpha: float | None,
    gamma: float, threshold: float | None, bce_smoothing: float,
) -> tuple[Tiles, tuple[int, ...], dict[str, Any]]:  # fmt: skip
    """The programs, the numbers and the compile-time constants that both kernels take."""
    index = is_index(logits, target)
    lane = elements_per_lane(statistics.bit_count(), not index, softmax_gamma, gamma)
    dealt = tiles(logits, lane)
    numbers = (NO_IGNORE if ignore_index is None else ignore_index, logits.shape[2])
    constants = {
        "STATISTICS": statistics, "ACTIVATION": ACTIVATIONS.index(activation),
        "SOFTMAX_GAMMA": softmax_gamma, "SOFTMAX_THRESHOLD": softmax_threshold, "ALPHA": alpha,
        "GAMMA": gamma, "THRESHOLD": threshold, "SMOOTHING": bce_smoothing,
        "INDEX": index, "STRICT": strict,
        "DTYPE": common.language_dtype(logits), **dealt.constants(),
    }  # fmt: skip
    return dealt, (*numbers, *dealt.sizes()), constants


def forward(
    logits: Tensor, target: Tensor, statistics: int, activation: str, ignore_index: int | None,
    per_image: bool, strict: bool, softmax_gamma: float, softmax_threshold: float | None,
    alpha: float | None, gamma: float, threshold: float | None, bce_smoothing: float,
) -> Tensor:  # fmt: skip
    n, classes, _ = logits.shape
    target = target.view(torch.uint8) if target.dtype == torch.bool else target
    dealt, numbers, constants = _call(
        logits, target, statistics, activation, ignore_index, strict, softmax_gamma,
        softmax_threshold, alpha, gamma, threshold, bce_smoothing,
    )  # fmt: skip
    count = statistics.bit_count()
    out = logits.new_empty(n, dealt.chunks, count, classes, dtype=common.compute_dtype(logits))
    with torch.cuda.device_of(logits):
        common.launch(
            segmentation_table_fwd, dealt.programs, logits, *strides(logits), target,
            *strides(target), out, *numbers, COUNT=count, **constants,
        )  # fmt: skip
        if per_image:
            return out.sum(1, dtype=torch.float64)
        return out.flatten(0, 1).sum(0, keepdim=True, dtype=torch.float64)


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, statistics: int, activation: str,
    ignore_index: int | None, per_image: bool, strict: bool, softmax_gamma: float,
    softmax_threshold: float | None, alpha: float | None, gamma: float, threshold: float | None,
    bce_smoothing: float, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    needs &= 3 if target.is_floating_point() else 1
    target = target.view(torch.uint8) if target.dtype == torch.bool else target
    dealt, numbers, constants = _call(
        logits, target, statistics, activation, ignore_index, strict, softmax_gamma,
        softmax_threshold, alpha, gamma, threshold, bce_smoothing,
    )  # fmt: skip
    absent = logits.new_empty(0)
    g_logits = torch.empty_like(logits) if needs & 1 else absent
    g_target = common.gradients_like(needs, logits, target)[1]
    with torch.cuda.device_of(logits):
        common.launch(
            segmentation_table_bwd, dealt.programs if needs else 0, grad,
            grad.stride(0) if per_image else 0, *grad.stride()[1:], logits, *strides(logits),
            target, *strides(target), g_logits, *strides(g_logits), g_target,
            *strides(g_target), *numbers, NEEDS=needs, **constants,
        )  # fmt: skip
    return g_logits, g_target


implement("segmentation_table", "triton", forward)
implement("segmentation_table_backward", "triton", backward)
