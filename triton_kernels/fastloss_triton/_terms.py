"""The terms of `segmentation_loss` and their derivatives, in float64; formulas:
fastloss/reference/segmentation_loss.py.

OPTIONS are those of all terms, one after the other; a term's begin AT.
"""

import triton
import triton.language as tl

from ._common import at_least, power
from ._statistics import (
    BCE_NEGATIVE,
    BCE_POSITIVE,
    NEG_LOG_PROB,
    NLL,
    OVERLAP,
    PROBABILITY,
    PRODUCT,
    SIGMOID_FOCAL,
    SIGMOID_TERM,
    SOFTMAX_FOCAL,
    SOFTMAX_TERM,
    TARGET,
    VALID,
    column_of,
)

CROSS_ENTROPY, SOFTMAX, SIGMOID = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
SOFT_BCE, REGION = tl.constexpr(3), tl.constexpr(4)
NORMALIZER = tl.constexpr(1e-6)


@triton.jit
def column(source, g, BIT: tl.constexpr, STATISTICS: tl.constexpr):
    """Statistic BIT of groups g, (groups, C); `source` is the table, its strides and sizes."""
    table, t_g, t_s, t_c, groups, classes, c = source
    at = table + g[:, None] * t_g + t_s * column_of(BIT, STATISTICS) + c[None, :] * t_c
    return tl.load(at, mask=(g < groups)[:, None] & (c < classes)[None, :], other=0.0)


@triton.jit
def _total(source, BIT: tl.constexpr, STATISTICS: tl.constexpr, GB: tl.constexpr):
    """Statistic BIT summed over the groups, (C)."""
    total = column(source, tl.arange(0, GB), BIT, STATISTICS)
    for start in range(GB, source[4], GB):
        total += column(source, start + tl.arange(0, GB), BIT, STATISTICS)
    return tl.sum(total, 0)


@triton.jit
def _sum(source, BIT: tl.constexpr, STATISTICS: tl.constexpr, GB: tl.constexpr):
    """Statistic BIT summed over groups and classes."""
    return tl.sum(_total(source, BIT, STATISTICS, GB), 0)


@triton.jit
def _divisor(
    source, u, divisor, KIND: tl.constexpr, OPTIONS: tl.constexpr, AT: tl.constexpr,
    STATISTICS: tl.constexpr, GB: tl.constexpr,
):  # fmt: skip
    """The number if one is given, else a sum of the table: (C) for sigmoid focal, else a scalar."""
    if OPTIONS[AT] != 0.0:
        d = divisor.to(tl.float64, bitcast=True)
    else:
        if KIND == SIGMOID:
            total = _total(source, VALID, STATISTICS, GB)
        elif KIND == SOFT_BCE:
            total = _sum(source, VALID, STATISTICS, GB)
        else:
            total = tl.sum(u * _total(source, TARGET, STATISTICS, GB), 0)
        d = at_least(total, OPTIONS[AT + 1])
    return d


@triton.jit
def averaged(
    source, u, v, divisor, KIND: tl.constexpr, OPTIONS: tl.constexpr, AT: tl.constexpr,
    STATISTICS: tl.constexpr, GB: tl.constexpr,
):  # fmt: skip
    """An averaged term, and its derivatives with respect to the two columns that it reads.

    OPTIONS are: the divisor is given, its floor, and smoothing or normalized.
    """
    classes, c = source[5], source[6]
    d = _divisor(source, u, divisor, KIND, OPTIONS, AT, STATISTICS, GB)
    zero = tl.zeros_like(u)
    if KIND == CROSS_ENTROPY:
        a, b = (1.0 - OPTIONS[AT + 2]) * u, u * OPTIONS[AT + 2] / classes
        losses = a * _total(source, NLL, STATISTICS, GB)
        if OPTIONS[AT + 2] != 0.0:
            losses += b * _total(source, NEG_LOG_PROB, STATISTICS, GB)
        value, a, b = tl.sum(losses, 0) / d, a / d, b / d
    elif KIND == SOFT_BCE:
        losses = v * _total(source, BCE_POSITIVE, STATISTICS, GB)
        losses += u * _total(source, BCE_NEGATIVE, STATISTICS, GB)
        value, a, b = tl.sum(losses, 0) / d, v / d, u / d
    elif KIND == SOFTMAX:
        a, b = u / d, zero
        value = tl.sum(a * _total(source, SOFTMAX_FOCAL, STATISTICS, GB), 0)
        if OPTIONS[AT + 2] != 0.0:
            terms = _sum(source, SOFTMAX_TERM, STATISTICS, GB)
            k = at_least(terms, NORMALIZER)
            b = zero - value / (k * k) * (terms >= NORMALIZER)
            value, a = value / k, a / k
    else:
        a, b = tl.where(c < classes, u / d, 0.0) / tl.sum(u, 0), zero
        losses = a * _total(source, SIGMOID_FOCAL, STATISTICS, GB)
        if OPTIONS[AT + 2] != 0.0:
            terms = _total(source, SIGMOID_TERM, STATISTICS, GB)
            k = at_least(terms, NORMALIZER)
            b = -losses / (k * k) * (terms >= NORMALIZER)
            losses, a = losses / k, a / k
        value = tl.sum(losses, 0)
    return value, a, b


@triton.jit
def _score(overlap, p, t, OPTIONS: tl.constexpr, AT: tl.constexpr):
    """r of a region term, its denominator and that clamped; see `region` for OPTIONS."""
    below = (
        overlap + OPTIONS[AT] * (p - overlap) + OPTIONS[AT + 1] * (t - overlap) + OPTIONS[AT + 2]
    )
    clamped = at_least(below, OPTIONS[AT + 3])
    return (overlap + OPTIONS[AT + 2]) / clamped, below, clamped


@triton.jit
def _region_mean(overlap, p, t, u, mask, OPTIONS: tl.constexpr, AT: tl.constexpr):
    """The class-weighted mean of l for every group, (groups)."""
    score, _, _ = _score(overlap, p, t, OPTIONS, AT)
    if OPTIONS[AT + 4] != 0.0:
        losses = -tl.log(at_least(score, OPTIONS[AT + 3]))
    else:
        losses = 1.0 - score
    losses = u[None, :] * losses * (t > 0.0).to(tl.float64)
    return tl.sum(tl.where(mask[None, :], losses, 0.0), 1) / tl.sum(u, 0)


@triton.jit
def _region_columns(source, g, PER_IMAGE: tl.constexpr, STATISTICS: tl.constexpr, GB: tl.constexpr):
    """Overlap, probability and target of groups g; without PER_IMAGE of all groups as one."""
    if PER_IMAGE:
        overlap = column(source, g, OVERLAP, STATISTICS)
        p = column(source, g, PROBABILITY, STATISTICS)
        t = column(source, g, TARGET, STATISTICS)
    else:
        overlap = _total(source, OVERLAP, STATISTICS, GB)[None, :]
        p = _total(source, PROBABILITY, STATISTICS, GB)[None, :]
        t = _total(source, TARGET, STATISTICS, GB)[None, :]
    return overlap, p, t


@triton.jit
def region(
    source, u, OPTIONS: tl.constexpr, AT: tl.constexpr, STATISTICS: tl.constexpr, GB: tl.constexpr
):
    """A region term. OPTIONS are alpha, beta, smooth, eps, log, gamma, per_image."""
    groups, mask = source[4], source[6] < source[5]
    if OPTIONS[AT + 6] != 0.0:
        total = tl.zeros((GB,), tl.float64)
        for start in range(0, groups, GB):
            g = start + tl.arange(0, GB)
            overlap, p, t = _region_columns(source, g, True, STATISTICS, GB)
            mean = power(_region_mean(overlap, p, t, u, mask, OPTIONS, AT), OPTIONS[AT + 5])
            total += tl.where(g < groups, mean, 0.0)
        value = tl.sum(total, 0) / tl.maximum(groups, 1)
    else:
        overlap, p, t = _region_columns(source, source[6], False, STATISTICS, GB)
        value = tl.sum(power(_region_mean(overlap, p, t, u, mask, OPTIONS, AT), OPTIONS[AT + 5]), 0)
    return value


@triton.jit
def region_slopes(
    source,
    group,
    u,
    OPTIONS: tl.constexpr,
    AT: tl.constexpr,
    STATISTICS: tl.constexpr,
    GB: tl.constexpr,
):
    """Derivatives of a region term with respect to the overlap, probability and target of a group,
    (C) each."""
    g = group + tl.arange(0, 1)
    overlap, p, t = _region_columns(source, g, OPTIONS[AT + 6] != 0.0, STATISTICS, GB)
    score, below, clamped = _score(overlap, p, t, OPTIONS, AT)
    slope = u[None, :] / tl.sum(u, 0) * (t > 0.0).to(tl.float64)  # of the mean to l
    if OPTIONS[AT + 6] != 0.0:
        slope /= source[4]
    if OPTIONS[AT + 5] != 1.0:
        mean = _region_mean(overlap, p, t, u, source[6] < source[5], OPTIONS, AT)[:, None]
        power_slope = OPTIONS[AT + 5] * tl.exp((OPTIONS[AT + 5] - 1.0) * tl.log(mean))
        if OPTIONS[AT + 5] < 1.0:
            power_slope = tl.where(mean == 0.0, 0.0, power_slope)
        slope *= power_slope
    if OPTIONS[AT + 4] != 0.0:
        slope *= (score >= OPTIONS[AT + 3]).to(tl.float64) / at_least(score, OPTIONS[AT + 3])
    g_below = slope * score / clamped * (below >= OPTIONS[AT + 3]).to(tl.float64)
    g_overlap = g_below * (1.0 - OPTIONS[AT] - OPTIONS[AT + 1]) - slope / clamped
    return (
        tl.sum(g_overlap, 0), tl.sum(g_below * OPTIONS[AT], 0), tl.sum(g_below * OPTIONS[AT + 1], 0)
    )  # fmt: skip


@triton.jit
def correlation(
    source, OPTIONS: tl.constexpr, AT: tl.constexpr, STATISTICS: tl.constexpr, GB: tl.constexpr
):
    """1 - Matthews correlation, and its derivatives with respect to product, probability and
    target. OPTIONS are eps."""
    both, t = _sum(source, PRODUCT, STATISTICS, GB), _sum(source, TARGET, STATISTICS, GB)
    p, valid = _sum(source, PROBABILITY, STATISTICS, GB), _sum(source, VALID, STATISTICS, GB)
    tp, tn = both + OPTIONS[AT], valid - p - t + both + OPTIONS[AT]
    fp, fn = p - both + OPTIONS[AT], t - both + OPTIONS[AT]
    root = tl.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    score = (tp * tn - fp * fn) / root
    a, b = 0.5 * score / (tp + fp), 0.5 * score / (tp + fn)
    d, e = 0.5 * score / (tn + fp), 0.5 * score / (tn + fn)
    g_tp, g_tn = a + b - tn / root, d + e - tp / root
    g_fp, g_fn = a + d + fn / root, b + e + fp / root
    return 1.0 - score, g_tp + g_tn - g_fp - g_fn, g_fp - g_tn, g_fn - g_tn
