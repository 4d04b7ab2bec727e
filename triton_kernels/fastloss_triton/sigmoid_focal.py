"""Triton kernels of the stem `sigmoid_focal`; formulas: fastloss/reference/sigmoid_focal.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import (
    TINY,
    at_least,
    load_block,
    load_incoming,
    load_operand,
    log1p_unit,
    power,
    power_slope,
    store_block,
    store_loss,
)

KINDS = {
    "focal": 0, "quality_focal": 1, "varifocal": 2, "gaussian_focal": 3, "binary_cross_entropy": 4,
}  # fmt: skip
NO_IGNORE = -(2**63)
EPS = tl.constexpr(1e-12)


@triton.jit
def _log(x):
    """log of a positive x, counted as the smallest normal number at least; NaN stays NaN."""
    return tl.log(at_least(x, TINY))


@triton.jit
def _from_logit(x, t):
    """p, 1 - p, dp/dx, bce, its derivatives to x and t, and log(1 + exp(-|x|)), for logits x."""
    e = tl.exp(-tl.abs(x))
    r = 1.0 / (1.0 + e)
    p = tl.where(x < 0.0, e * r, r)
    q = tl.where(x < 0.0, r, e * r)
    tail = log1p_unit(e)
    pos, neg = tl.where(x < 0.0, -x, 0.0) + tail, tl.where(x > 0.0, x, 0.0) + tail
    bce = t * pos + (1.0 - t) * neg
    return p, q, p * q, bce, p * (1.0 - t) - q * t, -x, tail


@triton.jit
def _from_probability(p, t):
    """The same for probabilities; logarithms are floored at -100."""
    q = 1.0 - p
    poison = tl.where((p >= 0.0) & (q >= 0.0), 0.0, float("nan")).to(p.dtype)
    log_p = tl.where(p > 0.0, tl.maximum(_log(p), -100.0), -100.0) + poison
    # log(1 - p) with the rounding of 1 - p undone (Kahan), for q > 0
    exact = 1.0 - q
    log_q = tl.where(exact == 0.0, -p, _log(q) * (p / tl.where(exact == 0.0, 1.0, exact)))
    log_q = tl.where(q > 0.0, tl.maximum(log_q, -100.0), -100.0) + poison
    bce = -(t * log_p + (1.0 - t) * log_q)
    dx = (p * (1.0 - t) - q * t) / at_least(p * q, 1e-12)
    return p, q, p * 0.0 + 1.0, bce, dx, log_q - log_p, p


@triton.jit
def _gaussian(x, t, ALPHA: tl.constexpr, GAMMA: tl.constexpr, POS: tl.constexpr, NEG: tl.constexpr):
    """Loss and its derivatives to x and t, for probabilities x."""
    q, s = 1.0 - x, 1.0 - t
    log_p, log_q = _log(x + EPS), _log(q + EPS)
    positive = POS * (t == 1.0).to(x.dtype)
    negative = NEG * power(s, GAMMA)
    p_alpha, q_alpha = power(x, ALPHA), power(q, ALPHA)
    loss = -positive * q_alpha * log_p - negative * p_alpha * log_q
    dx = positive * (log_p * power_slope(q, ALPHA) - q_alpha / (x + EPS))
    dx += negative * (p_alpha / (q + EPS) - log_q * power_slope(x, ALPHA))
    return loss, dx, NEG * power_slope(s, GAMMA) * log_q * p_alpha


@triton.jit
def _binary_cross_entropy(x, t, c):
    """Loss and its derivatives to x and t, 0 where t < 0; c weights positives."""
    p, q, dp, bce, bce_dx, bce_dt, tail = _from_logit(x, t)
    pos = tl.where(x < 0.0, -x, 0.0) + tail
    neg = tl.where(x > 0.0, x, 0.0) + tail
    ignored = t < 0.0
    loss = tl.where(ignored, 0.0, (1.0 - t) * neg + c * t * pos)
    dx = tl.where(ignored, 0.0, (1.0 - t) * p - c * t * q)
    return loss, dx, tl.where(ignored, 0.0, c * pos - neg)


@triton.jit
def _modulated(
    x, t,
    ALPHA: tl.constexpr, GAMMA: tl.constexpr, POS: tl.constexpr, KIND: tl.constexpr,
    ACTIVATED: tl.constexpr,
):  # fmt: skip
    """Loss and its derivatives to x and t, for the kinds that are a factor times bce."""
    if ACTIVATED:
        p, q, dp, bce, bce_dx, bce_dt, tail = _from_probability(x, t)
    else:
        p, q, dp, bce, bce_dx, bce_dt, tail = _from_logit(x, t)
    zero = tl.zeros_like(t)
    if KIND == 0:
        if ALPHA < 0.0:
            a, da = zero + 1.0, zero
        else:
            a, da = ALPHA * t + (1.0 - ALPHA) * (1.0 - t), zero + (2.0 * ALPHA - 1.0)
        modulator = q * t + p * (1.0 - t)
        power_, slope_ = power(modulator, GAMMA), power_slope(modulator, GAMMA)
        factor, factor_dp = a * power_, a * slope_ * (1.0 - 2.0 * t)
        factor_dt = da * power_ + a * slope_ * (q - p)
    else:
        d = p * (1.0 - t) - q * t
        sign = tl.where(d > 0.0, zero + 1.0, tl.where(d < 0.0, zero - 1.0, zero))
        factor, factor_dp = power(tl.abs(d), GAMMA), power_slope(tl.abs(d), GAMMA) * sign
        factor_dt = -factor_dp
        if KIND == 2:
            positive = t > 0.0
            if POS != 0.0:
                own, own_dt = t, zero + 1.0
            else:
                own, own_dt = zero + 1.0, zero
            factor = tl.where(positive, own, ALPHA * factor)
            factor_dp = tl.where(positive, zero, ALPHA * factor_dp)
            factor_dt = tl.where(positive, own_dt, ALPHA * factor_dt)
    return factor * bce, factor_dp * dp * bce + factor * bce_dx, factor_dt * bce + factor * bce_dt


@triton.jit
def _formula(
    x, t, c,
    ALPHA: tl.constexpr, GAMMA: tl.constexpr, POS: tl.constexpr, NEG: tl.constexpr,
    KIND: tl.constexpr, ACTIVATED: tl.constexpr,
):  # fmt: skip
    """Loss and its derivatives to x and t."""
    if KIND == 3:
        loss, dx, dt = _gaussian(x, t, ALPHA, GAMMA, POS, NEG)
    elif KIND == 4:
        loss, dx, dt = _binary_cross_entropy(x, t, c)
    else:
        loss, dx, dt = _modulated(x, t, ALPHA, GAMMA, POS, KIND, ACTIVATED)
    return loss, dx, dt


@triton.jit
def _rows_and_classes(CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """Row and class of the elements of this program, without a division of 64 bits for each."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = (start % CLASSES).to(tl.int32) + tl.arange(0, BLOCK)
    return start // CLASSES + at // CLASSES, at % CLASSES


@triton.jit
def _load_target(
    target, score, ignore_index, row, column, i, n,
    CLASSES: tl.constexpr, INDEX: tl.constexpr, SCORE: tl.constexpr, KIND: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """t at elements i: -1 where ignored, NaN where the class index is out of range."""
    if INDEX:
        label = tl.load(target + row, mask=i < n, other=0)
        t = (label == column).to(DTYPE)
        if SCORE:
            t *= tl.load(score + row, mask=i < n, other=0.0).to(DTYPE)
        t = tl.where((label < 0) | (label > CLASSES), float("nan"), t)
        t = tl.where(label == ignore_index, -1.0, t)
    else:
        t = load_block(target, i, n).to(DTYPE)
        if KIND == 4:
            t = tl.where(t == ignore_index.to(DTYPE), -1.0, t)
    return t.to(DTYPE)


@triton.jit
def _load_class_weight(class_weight, column, i, n, WEIGHTED: tl.constexpr, DTYPE: tl.constexpr):
    if WEIGHTED:
        c = tl.load(class_weight + column, mask=i < n, other=0.0).to(DTYPE)
    else:
        c = tl.zeros(i.shape, DTYPE) + 1.0
    return c


@common.kernel
def sigmoid_focal_fwd(
    logits,  # (n) = (rows, CLASSES)
    target,  # (n), or (rows) class indices
    score,  # (rows)
    class_weight,  # (CLASSES)
    out,  # (n), or a partial sum per program
    weight, w_columns, w_row, w_column,
    ignore_index: tl.int64, n,
    ALPHA: tl.constexpr, GAMMA: tl.constexpr, POS: tl.constexpr, NEG: tl.constexpr,
    KIND: tl.constexpr, ACTIVATED: tl.constexpr, CLASSES: tl.constexpr, INDEX: tl.constexpr,
    SCORE: tl.constexpr, WEIGHTED: tl.constexpr, W_MODE: tl.constexpr, NONE: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = load_block(logits, i, n).to(DTYPE)
    row, column = _rows_and_classes(CLASSES, BLOCK)
    t = _load_target(
        target, score, ignore_index, row, column, i, n, CLASSES, INDEX, SCORE, KIND, DTYPE
    )
    c = _load_class_weight(class_weight, column, i, n, WEIGHTED, DTYPE)
    loss = _formula(x, t, c, ALPHA, GAMMA, POS, NEG, KIND, ACTIVATED)[0]
    store_loss(out, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@common.kernel
def sigmoid_focal_bwd(
    grad, g_columns, g_row, g_column,
    logits,  # (n) = (rows, CLASSES)
    target,  # (n), or (rows) class indices
    score,  # (rows)
    class_weight,  # (CLASSES)
    weight, w_columns, w_row, w_column,
    avg_factor, divisor: tl.int64,
    g_logits, g_target,  # (n) if wanted
    g_score,  # (rows) if wanted
    g_weight,  # (n) if wanted
    partial,  # (programs), the sum of weighted losses, if LOSS
    ignore_index: tl.int64, n,
    ALPHA: tl.constexpr, GAMMA: tl.constexpr, POS: tl.constexpr, NEG: tl.constexpr,
    KIND: tl.constexpr, ACTIVATED: tl.constexpr, CLASSES: tl.constexpr, INDEX: tl.constexpr,
    SCORE: tl.constexpr, WEIGHTED: tl.constexpr, NEEDS: tl.constexpr, LOSS: tl.constexpr,
    G_MODE: tl.constexpr,
    W_MODE: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = load_block(logits, i, n).to(DTYPE)
    row, column = _rows_and_classes(CLASSES, BLOCK)
    t = _load_target(
        target, score, ignore_index, row, column, i, n, CLASSES, INDEX, SCORE, KIND, DTYPE
    )
    c = _load_class_weight(class_weight, column, i, n, WEIGHTED, DTYPE)
    g = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, n,
        G_MODE, NONE, HAS_AVG_FACTOR, DTYPE,
    )  # fmt: skip
    loss, dx, dt = _formula(x, t, c, ALPHA, GAMMA, POS, NEG, KIND, ACTIVATED)
    if NEEDS & 8:
        store_block(g_weight, g * loss, i, n)
    if LOSS:
        store_loss(partial, loss, i, n, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE)
    if W_MODE != 0:
        g *= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
    if NEEDS & 1:
        store_block(g_logits, g * dx, i, n)
    if NEEDS & 2:
        store_block(g_target, g * dt, i, n)
    if NEEDS & 4:  # one element of each row writes: its class, or the first of a background row
        label = tl.load(target + row, mask=i < n, other=0)
        hot = label == column
        writer = hot | ((column == 0) & ((label < 0) | (label >= CLASSES)))
        value = tl.where(hot, g * dt, 0.0)
        tl.store(g_score + row, value.to(g_score.dtype.element_ty), mask=(i < n) & writer)


def _arguments(
    logits, target, score, class_weight, kind, activated, alpha, gamma, pos, neg, ignore_index
):
    """Tensors, the ignored index and the compile-time constants that both kernels take."""
    index = target.dim() == logits.dim() - 1
    tensors = (
        logits.contiguous(),
        target.contiguous(),
        logits if score is None else score.contiguous(),
        logits if class_weight is None else class_weight.contiguous(),
    )
    constants = {
        "ALPHA": alpha, "GAMMA": gamma, "POS": pos, "NEG": neg, "KIND": KINDS[kind],
        "ACTIVATED": activated, "CLASSES": max(logits.shape[-1], 1) if logits.dim() else 1,
        "INDEX": index, "SCORE": score is not None, "WEIGHTED": class_weight is not None,
        "DTYPE": common.language_dtype(logits), "BLOCK": common.BLOCK,
    }  # fmt: skip
    return tensors, NO_IGNORE if ignore_index is None else ignore_index, constants


def _reduction(logits, weight, avg_factor, kind, divisor, reduction):
    n = logits.numel()
    rows = n // max(logits.shape[-1], 1) if kind == "quality_focal" else n
    return common.reduction_of(logits, weight, avg_factor, divisor, reduction, n, rows)


def forward(
    logits: Tensor, target: Tensor, score: Tensor | None, class_weight: Tensor | None,
    weight: Tensor | None, avg_factor: Tensor | None, kind: str, activated: bool, alpha: float,
    gamma: float, pos_weight: float, neg_weight: float, ignore_index: int | None,
    divisor: float | None, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, kind, divisor, reduction)
    tensors, ignored, constants = _arguments(
        logits, target, score, class_weight, kind, activated, alpha, gamma, pos_weight, neg_weight,
        ignore_index,
    )  # fmt: skip

    def run(out: Tensor) -> None:
        common.launch(
            sigmoid_focal_fwd, r.programs, *tensors, out, *r.weight.arguments(), ignored, r.count,
            W_MODE=r.weight.mode, NONE=r.none, **constants,
        )  # fmt: skip

    with torch.cuda.device_of(logits):
        return common.reduce(r, logits, widen, logits.shape, run)


def _backward(r, grad, gradients, partial, needs, arguments):
    tensors, ignored, constants = _arguments(*arguments)
    incoming = common.operand(grad, arguments[0])
    common.launch(
        sigmoid_focal_bwd, r.programs, *incoming.arguments(), *tensors, *r.weight.arguments(),
        r.avg_factor, r.divisor, *gradients, partial, ignored, r.count, NEEDS=needs,
        LOSS=grad is None, G_MODE=incoming.mode, W_MODE=r.weight.mode, NONE=r.none,
        HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, score: Tensor | None,
    class_weight: Tensor | None, weight: Tensor | None, avg_factor: Tensor | None, kind: str,
    activated: bool, alpha: float, gamma: float, pos_weight: float, neg_weight: float,
    ignore_index: int | None, divisor: float | None, reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, kind, divisor, reduction)
    gradients = common.gradients_like(needs, logits, target, score, weight)
    arguments = (
        logits, target, score, class_weight, kind, activated, alpha, gamma, pos_weight, neg_weight,
        ignore_index,
    )  # fmt: skip
    with torch.cuda.device_of(logits):
        _backward(r, grad, gradients, logits, needs, arguments)
    if needs & 4 and r.count == 0:  # without classes no element writes for its row
        gradients[2].zero_()
    return gradients


def with_gradient(
    logits: Tensor, target: Tensor, score: Tensor | None, class_weight: Tensor | None,
    weight: Tensor | None, avg_factor: Tensor | None, kind: str, activated: bool, alpha: float,
    gamma: float, pos_weight: float, neg_weight: float, ignore_index: int | None,
    divisor: float | None, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, kind, divisor, reduction)
    gradients = common.gradients_like(1, logits, target, score, weight)
    partial = common.partial_sums(r, logits)
    arguments = (
        logits, target, score, class_weight, kind, activated, alpha, gamma, pos_weight, neg_weight,
        ignore_index,
    )  # fmt: skip
    with torch.cuda.device_of(logits):
        _backward(r, None, gradients, partial, 1, arguments)
        return common.finish(r, logits, widen, partial), gradients[0]


implement("sigmoid_focal", "triton", forward)
implement("sigmoid_focal_backward", "triton", backward)
implement("sigmoid_focal_with_gradient", "triton", with_gradient)
