"""The statistics of `segmentation_table`, for a tile of classes by pixels; formulas:
fastloss/reference/segmentation_table.py."""

import triton
import triton.language as tl

from ._modulation import balance, binary, logistic, modulation, times
from ._pixels import load_labels, softmax

SOFTMAX, SIGMOID = tl.constexpr(0), tl.constexpr(1)
# Bits of `statistics`, in the order of the reference's STATISTICS.
VALID, TARGET, PROBABILITY = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)
OVERLAP, PRODUCT, NLL = tl.constexpr(8), tl.constexpr(16), tl.constexpr(32)
NEG_LOG_PROB = tl.constexpr(64)
SOFTMAX_FOCAL, SOFTMAX_TERM = tl.constexpr(128), tl.constexpr(256)
SIGMOID_FOCAL, SIGMOID_TERM = tl.constexpr(512), tl.constexpr(1024)
BCE_POSITIVE, BCE_NEGATIVE = tl.constexpr(2048), tl.constexpr(4096)
PREDICTED, CORRECT = tl.constexpr(8192), tl.constexpr(16384)
# Several of them: those that only the label's class has in each pixel, and those of softplus.
OF_LABEL, OF_LOGIT = tl.constexpr(32 + 128 + 256), tl.constexpr(512 + 1024 + 2048 + 4096)


@triton.jit
def column_of(BIT: tl.constexpr, STATISTICS: tl.constexpr):
    """The column of statistic BIT in the table."""
    column = 0
    for i in tl.static_range(15):
        column += ((BIT - 1) & STATISTICS) >> i & 1
    return column


@triton.jit
def load_target(
    target, p, t_c, t_p, c, ignore_index, classes, pixels,
    INDEX: tl.constexpr, STRICT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """t (C, P), what is valid of it, the label of each pixel and whether it is a class.

    A label out of range makes t NaN, if STRICT, or background of every class.
    """
    if INDEX:
        label, inside, valid = load_labels(target, p, t_p, ignore_index, classes, pixels)
        t = (c[:, None] == label[None, :]).to(DTYPE)
        if STRICT:
            t = tl.where(inside[None, :], t, float("nan"))
        valid = valid[None, :]
    else:
        at = c.to(tl.int64)[:, None] * t_c + p[None, :] * t_p
        mask = (c < classes)[:, None] & (p < pixels)[None, :]
        raw = tl.load(target + at, mask=mask, other=0)
        t = raw.to(DTYPE)
        if raw.dtype == tl.float64:
            valid = raw != ignore_index.to(tl.float64)
        elif raw.dtype.is_floating():
            valid = raw.to(tl.float32) != ignore_index.to(tl.float32)
        else:
            valid = raw.to(tl.int64) != ignore_index
        valid &= mask
        label, inside = p.to(tl.int32), p < 0  # of no meaning
    return t, valid, label, inside


@triton.jit
def probability(x, label, inside, c, ACTIVATION: tl.constexpr):
    """p (C, P) and, for softmax, the other results of `softmax`."""
    if ACTIVATION == SOFTMAX:
        p, shifted, log_p, nll, miss, own = softmax(x, c[:, None] == label[None, :], inside)
    else:
        p = x
        if ACTIVATION == SIGMOID:
            p, _, _, _ = logistic(x)
        shifted, log_p, nll, miss, own = x, x, x, x, x
    return p, shifted, log_p, nll, miss, own


@triton.jit
def _predicted(x, p, c, CB: tl.constexpr, INDEX: tl.constexpr):
    """Whether a class is the first of the largest, none if one is NaN; dense: p > 1/2."""
    if INDEX:
        largest = x == tl.max(x, 0)[None, :]
        first = tl.min(tl.where(largest, c[:, None], CB), 0)
        known = tl.max((x != x).to(tl.int32), 0) == 0
        hit = (c[:, None] == first[None, :]) & known[None, :]
    else:
        hit = p > 0.5
    return hit


@triton.jit
def values_of(
    x, t, label, inside, c,
    STATISTICS: tl.constexpr, ACTIVATION: tl.constexpr, SOFTMAX_GAMMA: tl.constexpr,
    SOFTMAX_THRESHOLD: tl.constexpr, ALPHA: tl.constexpr, GAMMA: tl.constexpr,
    THRESHOLD: tl.constexpr, SMOOTHING: tl.constexpr, INDEX: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """What the asked statistics are sums of, in ascending order of their bits."""
    p, shifted, log_p, nll, miss, own = probability(x, label, inside, c, ACTIVATION)
    values = ()
    if VALID & STATISTICS:
        values = values + (tl.zeros_like(x) + 1.0,)
    if TARGET & STATISTICS:
        values = values + (t,)
    if PROBABILITY & STATISTICS:
        values = values + (p,)
    if OVERLAP & STATISTICS:
        values = values + (tl.where((p < t) | (p != p), p, t),)
    if PRODUCT & STATISTICS:
        values = values + (p * t,)
    if OF_LABEL & STATISTICS:
        hot = c[:, None] == label[None, :]
        other = t * 0.0  # NaN where t is
        term = modulation(miss, own, SOFTMAX_GAMMA, SOFTMAX_THRESHOLD)
    if NLL & STATISTICS:
        values = values + (tl.where(hot, nll[None, :], other),)
    if NEG_LOG_PROB & STATISTICS:
        values = values + (-log_p,)
    if SOFTMAX_FOCAL & STATISTICS:
        values = values + (tl.where(hot, (term * nll)[None, :], other),)
    if SOFTMAX_TERM & STATISTICS:
        values = values + (tl.where(hot, term[None, :], other),)
    if OF_LOGIT & STATISTICS:
        s, s_other, positive, negative = logistic(x)
    if (SIGMOID_FOCAL + SIGMOID_TERM) & STATISTICS:
        b, m, u, _ = binary(t, s, s_other, positive, negative, INDEX)
        f = modulation(m, u, GAMMA, THRESHOLD)
        if SIGMOID_FOCAL & STATISTICS:
            values = values + (balance(t, ALPHA) * f * b,)
        if SIGMOID_TERM & STATISTICS:
            values = values + (f,)
    smooth = t + SMOOTHING * (1.0 - 2.0 * t)
    if BCE_POSITIVE & STATISTICS:
        values = values + (times(smooth, positive),)
    if BCE_NEGATIVE & STATISTICS:
        values = values + (times(1.0 - smooth, negative),)
    if (PREDICTED + CORRECT) & STATISTICS:
        hit = _predicted(x, p, c, CB, INDEX)
        if PREDICTED & STATISTICS:
            values = values + (hit.to(x.dtype),)
        if CORRECT & STATISTICS:
            values = values + ((hit & (t > 0.5)).to(x.dtype),)
    return values
