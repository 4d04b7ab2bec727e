"""Triton kernels of the stem `seesaw`; definition: fastloss/reference/seesaw.py.

A program has a row. Its sums are kept relative to the largest terms met so far, so that one read
gives each; all reads but the first come from the cache. The logarithms of the counts are taken in
every row, which costs less than a launch that would take them once.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import at_least, load_divisor, log1p

INFINITY = tl.constexpr(float("inf"))
WIDEST = 4096  # columns that a program holds at a time
# The counts stay in the cache, where the width of a load does not matter.
kernel = triton.jit(do_not_specialize=["classes", "n_c", "w_row", "g_row", "divisor"])


@triton.jit
def _load(logits, x_c, j, classes, DTYPE: tl.constexpr):
    return tl.load(logits + j * x_c, mask=j < classes, other=-INFINITY).to(DTYPE)


@triton.jit
def _log_count(class_count, n_c, j, inside, DTYPE: tl.constexpr):
    n = tl.load(class_count + j * n_c, mask=inside, other=1.0).to(DTYPE)
    return tl.log(at_least(n, 1.0))


@triton.jit
def _added(sum, peak, x):
    """A sum relative to e^peak with e^x (BLOCK) added to it, and the new peak; NaN for +inf."""
    new = tl.maximum(peak, tl.max(tl.where(x == x, x, -INFINITY), 0))
    e = tl.where(x == -INFINITY, 0.0, tl.exp(x - new))
    return sum * tl.where(sum == 0.0, 0.0, tl.exp(peak - new)) + tl.sum(e, 0), new


@triton.jit
def _adjusted(
    x, j, class_count, n_c, classes, own_count, pivot,
    P: tl.constexpr, Q: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """z of the classes j that are not the row's own."""
    z = x
    if P > 0:
        rarer = _log_count(class_count, n_c, j, j < classes, DTYPE) - own_count
        z += P * tl.where(rarer > 0.0, 0.0, rarer)
    if Q > 0:
        z += Q * tl.where(x > pivot, x - pivot, 0.0)
    return z


@triton.jit
def _row(
    logits, x_c, label, class_count, n_c, classes,
    P: tl.constexpr, Q: tl.constexpr, LOG_EPS: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a row of class `label` in [0, C): its loss; ln n and the pivot that z is made with; the
    largest z and, relative to it, the sums of e^z of the others and of all classes."""
    own = tl.load(logits + label * x_c).to(DTYPE)
    own_count = _log_count(class_count, n_c, label, label < classes, DTYPE)
    pivot = own
    if Q > 0:
        total, peak = tl.zeros((), DTYPE), tl.full((), -INFINITY, DTYPE)
        for start in range(0, classes, BLOCK):
            j = start + tl.arange(0, BLOCK).to(tl.int64)
            total, peak = _added(total, peak, _load(logits, x_c, j, classes, DTYPE))
        pivot = tl.maximum(own, peak + (tl.log(total) + LOG_EPS))
    rest, peak = tl.zeros((), DTYPE), own
    for start in range(0, classes, BLOCK):
        j = start + tl.arange(0, BLOCK).to(tl.int64)
        z = _adjusted(
            _load(logits, x_c, j, classes, DTYPE), j, class_count, n_c, classes, own_count, pivot,
            P, Q, DTYPE,
        )  # fmt: skip
        rest, peak = _added(rest, peak, tl.where(j == label, -INFINITY, z))
    e_own = tl.exp(own - peak)
    total = rest + e_own
    loss = (peak - own) + tl.where(e_own == 1.0, log1p(rest), tl.log(total))
    return loss, own_count, pivot, peak, rest, total


@triton.jit
def _class_of(target, classes):
    """The class of a row as a place that may be read, whether it is background, and in range."""
    label = tl.load(target).to(tl.int64)
    known = (label >= 0) & (label < classes)
    return tl.where(known, label, 0), label == classes, known


@kernel
def seesaw_fwd(
    logits, x_n, x_c,  # (N, C)
    target, t_n,  # (N)
    class_count, n_c,  # (C)
    weight, w_row,  # (N)
    out,  # (N), weighted
    classes,
    P: tl.constexpr, Q: tl.constexpr, LOG_EPS: tl.constexpr, WEIGHTED: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label, background, known = _class_of(target + row * t_n, classes)
    loss, _, _, _, _, _ = _row(
        logits + row * x_n, x_c, label, class_count, n_c, classes, P, Q, LOG_EPS, DTYPE, BLOCK
    )  # fmt: skip
    loss = tl.where(background, 0.0, tl.where(known, loss, float("nan")))
    if WEIGHTED:
        loss *= tl.load(weight + row * w_row).to(DTYPE)
    tl.store(out + row, loss.to(out.dtype.element_ty))


@kernel
def seesaw_bwd(
    grad, g_row,  # (N) or ()
    logits, x_n, x_c,  # (N, C)
    target, t_n,  # (N)
    class_count, n_c,  # (C)
    weight, w_row,  # (N)
    avg_factor, divisor: tl.int64,
    g_logits,  # (N, C), if wanted
    g_weight,  # (N), if wanted
    out,  # (N), the weighted losses, if LOSS; the incoming gradient is 1 then
    classes,
    P: tl.constexpr, Q: tl.constexpr, LOG_EPS: tl.constexpr, NEEDS: tl.constexpr,
    LOSS: tl.constexpr, WEIGHTED: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * x_n
    label, background, known = _class_of(target + row * t_n, classes)
    loss, own_count, pivot, peak, rest, total = _row(
        logits, x_c, label, class_count, n_c, classes, P, Q, LOG_EPS, DTYPE, BLOCK
    )  # fmt: skip
    loss = tl.where(background, 0.0, tl.where(known, loss, float("nan")))
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
        scale = tl.where(known, g / total, float("nan"))
        for start in range(0, classes, BLOCK):
            j = start + tl.arange(0, BLOCK).to(tl.int64)
            z = _adjusted(
                _load(logits, x_c, j, classes, DTYPE), j, class_count, n_c, classes, own_count,
                pivot, P, Q, DTYPE,
            )  # fmt: skip
            g_x = scale * tl.where(j == label, -rest, tl.exp(z - peak))
            g_x = tl.where(background, 0.0, g_x)
            at = g_logits + row * classes + j
            tl.store(at, g_x.to(g_logits.dtype.element_ty), mask=j < classes)


def _call(
    logits: Tensor, target: Tensor, class_count: Tensor, weight: Tensor | None,
    p: float, q: float, eps: float,
) -> tuple[tuple[Any, ...], dict[str, Any]]:  # fmt: skip
    """The tensors and the constants that both kernels take."""
    rows = (logits, 0) if weight is None else (weight, weight.stride(0))
    classes = logits.shape[1]
    block = min(max(triton.next_power_of_2(classes), 16), WIDEST)
    tensors = (logits, *logits.stride(), target, *target.stride(), class_count)
    constants = {
        "P": max(p, 0.0), "Q": max(q, 0.0), "LOG_EPS": math.log(eps),
        "WEIGHTED": weight is not None, "DTYPE": common.language_dtype(logits), "BLOCK": block,
        "num_warps": 8 if block == WIDEST else common.NUM_WARPS,
    }  # fmt: skip
    return (*tensors, *class_count.stride(), *rows), constants


def _reduction(logits, weight, avg_factor, divisor, reduction) -> common.Reduction:
    n = len(logits)
    return common.reduction_of(logits, weight, avg_factor, divisor, reduction, n, n, block=1)


def forward(
    logits: Tensor, target: Tensor, class_count: Tensor, weight: Tensor | None,
    avg_factor: Tensor | None, p: float, q: float, eps: float, divisor: float | None,
    reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    tensors, constants = _call(logits, target, class_count, weight, p, q, eps)

    def run(out: Tensor) -> None:
        common.launch(seesaw_fwd, r.count, *tensors, out, logits.shape[1], **constants)

    with torch.cuda.device_of(logits):
        return common.reduce(r, logits, widen, (r.count,), run)


def _backward(r, grad, logits, call, gradients, out, needs):
    tensors, constants = call
    incoming = (out, 0) if grad is None else (grad, grad.stride(0) if grad.dim() else 0)
    common.launch(
        seesaw_bwd, r.count, *incoming, *tensors, r.avg_factor, r.divisor, *gradients, out,
        logits.shape[1], NEEDS=needs, LOSS=grad is None, NONE=r.none,
        HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, class_count: Tensor, weight: Tensor | None,
    avg_factor: Tensor | None, p: float, q: float, eps: float, divisor: float | None,
    reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    call = _call(logits, target, class_count, weight, p, q, eps)
    gradients = common.gradients_like(needs, logits, weight)
    with torch.cuda.device_of(logits):
        _backward(r, grad, logits, call, gradients, logits, needs)
    return gradients


def with_gradient(
    logits: Tensor, target: Tensor, class_count: Tensor, weight: Tensor | None,
    avg_factor: Tensor | None, p: float, q: float, eps: float, divisor: float | None,
    reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r = _reduction(logits, weight, avg_factor, divisor, reduction)
    call = _call(logits, target, class_count, weight, p, q, eps)
    gradients, losses = common.gradients_like(1, logits, weight), common.partial_sums(r, logits)
    with torch.cuda.device_of(logits):
        _backward(r, None, logits, call, gradients, losses, 1)
        return common.finish(r, logits, widen, losses), gradients[0]


implement("seesaw", "triton", forward)
implement("seesaw_backward", "triton", backward)
implement("seesaw_with_gradient", "triton", with_gradient)
