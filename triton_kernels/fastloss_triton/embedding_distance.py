"""Triton kernels of the stem `embedding_distance`; formulas:
fastloss/reference/embedding_distance.py."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import bits, load_block, load_incoming, load_operand, store_block, store_loss


@triton.jit
def _number(x, DTYPE: tl.constexpr):
    """From the bits of a double, which are a small integer for 0."""
    return x.to(tl.int64).to(tl.float64, bitcast=True).to(DTYPE)


@triton.jit
def _pairs(
    pred, target, weight, w_columns, w_row, w_column, i, n, pos_margin, neg_margin,
    W_MODE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """x - m; the targets; which pairs are positive, which negative, and which have a weight > 0."""
    x, t = load_block(pred, i, n).to(DTYPE), load_block(target, i, n).to(DTYPE)
    valid = i < n
    if W_MODE != 0:
        w = load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
        valid &= w > 0.0
    positive, negative = valid & (t == 1.0), valid & (t == 0.0)
    x -= tl.where(positive, pos_margin, tl.where(negative, neg_margin, 0.0))
    return x, tl.where(valid, t, -1.0), positive, negative, valid


@triton.jit
def _clamp(x):
    """To [0, 1]; NaN stays."""
    return tl.where(x < 0.0, 0.0, tl.where(x > 1.0, 1.0, x))


@triton.jit
def _count(flags):
    return tl.sum(flags.to(tl.int32), 0)


@common.kernel
def embedding_distance_negatives(
    pred,  # (n)
    target,  # (n)
    weight, w_columns, w_row, w_column,
    hardness,  # (n)
    flags,  # (n), as uint8
    counts,  # (3, programs) int32: positives, negatives, pairs with a weight above 0
    n, programs, neg_margin: tl.int64,
    W_MODE: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    margin = _number(neg_margin, DTYPE)
    x, _, positive, negative, valid = _pairs(
        pred, target, weight, w_columns, w_row, w_column, i, n, 0.0, margin, W_MODE, DTYPE
    )
    store_block(hardness, tl.where(negative, _clamp(x), 0.0), i, n)
    store_block(flags, negative, i, n)
    counts += tl.program_id(0)
    tl.store(counts, _count(positive))
    tl.store(counts + programs, _count(negative))
    tl.store(counts + 2 * programs, _count(valid))


@triton.jit
def _difference(
    pred, target, weight, w_columns, w_row, w_column, kept, i, n, pos_margin, neg_margin,
    W_MODE: tl.constexpr, KEPT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """clamp(x - m) - t, 0 for negatives that are not kept; where it grows with x."""
    pos_margin, neg_margin = _number(pos_margin, DTYPE), _number(neg_margin, DTYPE)
    x, t, _, negative, _ = _pairs(
        pred, target, weight, w_columns, w_row, w_column, i, n, pos_margin, neg_margin,
        W_MODE, DTYPE,
    )  # fmt: skip
    d = _clamp(x) - t
    grows = (x >= 0.0) & (x <= 1.0)
    if KEPT:
        counts = (load_block(kept, i, n) != 0) | (negative == 0)
        d = tl.where(counts, d, 0.0)
        grows &= counts
    return d, grows


@common.kernel
def embedding_distance_fwd(
    pred,  # (n)
    target,  # (n)
    kept,  # (n), as uint8
    out,  # (n), or a partial sum per program
    weight, w_columns, w_row, w_column,
    n, pos_margin: tl.int64, neg_margin: tl.int64,
    KEPT: tl.constexpr, W_MODE: tl.constexpr, NONE: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d, _ = _difference(
        pred, target, weight, w_columns, w_row, w_column, kept, i, n, pos_margin, neg_margin,
        W_MODE, KEPT, DTYPE,
    )  # fmt: skip
    store_loss(out, d * d, i, n, weight, w_columns, w_row, w_column, W_MODE, NONE, DTYPE)


@common.kernel
def embedding_distance_bwd(
    grad, g_columns, g_row, g_column,
    pred,  # (n)
    target,  # (n)
    kept,  # (n), as uint8
    weight, w_columns, w_row, w_column,
    avg_factor, divisor: tl.int64,
    g_pred, g_weight,  # (n) each, if wanted
    partial,  # (programs), the sum of weighted losses, if LOSS
    n, pos_margin: tl.int64, neg_margin: tl.int64,
    NEEDS: tl.constexpr, LOSS: tl.constexpr, KEPT: tl.constexpr, G_MODE: tl.constexpr,
    W_MODE: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d, grows = _difference(
        pred, target, weight, w_columns, w_row, w_column, kept, i, n, pos_margin, neg_margin,
        W_MODE, KEPT, DTYPE,
    )  # fmt: skip
    g = load_incoming(
        grad, g_columns, g_row, g_column, avg_factor, divisor, i, n,
        G_MODE, NONE, HAS_AVG_FACTOR, DTYPE,
    )  # fmt: skip
    if NEEDS & 2:
        store_block(g_weight, g * (d * d), i, n)
    if LOSS:
        store_loss(partial, d * d, i, n, weight, w_columns, w_row, w_column, W_MODE, False, DTYPE)
    if W_MODE != 0:
        g *= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
    if NEEDS & 1:
        store_block(g_pred, tl.where(grows, g * (2.0 * d), 0.0), i, n)


def negatives(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    neg_margin: float,
    neg_pos_ub: float,
    min_count: float,
    min_positives: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = pred.numel()
    hardness = pred.new_empty(pred.shape, dtype=common.compute_dtype(pred))
    flags = pred.new_empty(pred.shape, dtype=torch.uint8)
    programs = triton.cdiv(n, common.BLOCK)
    counts = pred.new_empty((3, programs), dtype=torch.int32)
    w = common.operand(weight, pred)
    with torch.cuda.device_of(pred):
        common.launch(
            embedding_distance_negatives, programs, pred.contiguous(), target.contiguous(),
            *w.arguments(), hardness, flags, counts, n, programs, bits(neg_margin),
            W_MODE=w.mode, DTYPE=common.language_dtype(pred), BLOCK=common.BLOCK,
        )  # fmt: skip
    positive, negative, weighted = counts.sum(1).double().unbind()
    limit = (positive.clamp(min=min_positives) * neg_pos_ub).floor().clamp(max=n)
    left = (weighted - (negative - limit).clamp(min=0)).clamp(min=min_count)
    return hardness, flags.view(torch.bool), limit.long().reshape(1), left


def _operands(
    pred: Tensor, target: Tensor, kept: Tensor | None, pos_margin: float, neg_margin: float
) -> tuple[tuple[Tensor, ...], tuple[int, ...], dict[str, Any]]:
    """The tensors, the numbers and the constants that both kernels of the loss take."""
    flags = pred if kept is None else kept.contiguous().view(torch.uint8)
    tensors = (pred.contiguous(), target.contiguous(), flags)
    constants = {
        "KEPT": kept is not None, "DTYPE": common.language_dtype(pred), "BLOCK": common.BLOCK
    }  # fmt: skip
    return tensors, (pred.numel(), bits(pos_margin), bits(neg_margin)), constants


def forward(
    pred: Tensor, target: Tensor, weight: Tensor | None, kept: Tensor | None,
    avg_factor: Tensor | None, pos_margin: float, neg_margin: float, divisor: float | None,
    reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    tensors, numbers, constants = _operands(pred, target, kept, pos_margin, neg_margin)

    def run(out: Tensor) -> None:
        common.launch(
            embedding_distance_fwd, r.programs, *tensors, out, *r.weight.arguments(), *numbers,
            W_MODE=r.weight.mode, NONE=r.none, **constants,
        )  # fmt: skip

    with torch.cuda.device_of(pred):
        return common.reduce(r, pred, widen, pred.shape, run)


def _backward(r, grad, pred, target, kept, margins, gradients, partial, needs):
    tensors, numbers, constants = _operands(pred, target, kept, *margins)
    incoming = common.operand(grad, pred)
    common.launch(
        embedding_distance_bwd, r.programs, *incoming.arguments(), *tensors,
        *r.weight.arguments(), r.avg_factor, r.divisor, *gradients, partial, *numbers,
        NEEDS=needs, LOSS=grad is None, G_MODE=incoming.mode, W_MODE=r.weight.mode, NONE=r.none,
        HAS_AVG_FACTOR=r.has_avg_factor, **constants,
    )  # fmt: skip


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, kept: Tensor | None,
    avg_factor: Tensor | None, pos_margin: float, neg_margin: float, divisor: float | None,
    reduction: str, widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients, margins = common.gradients_like(needs, pred, weight), (pos_margin, neg_margin)
    with torch.cuda.device_of(pred):
        _backward(r, grad, pred, target, kept, margins, gradients, pred, needs)
    return gradients


def with_gradient(
    pred: Tensor, target: Tensor, weight: Tensor | None, kept: Tensor | None,
    avg_factor: Tensor | None, pos_margin: float, neg_margin: float, divisor: float | None,
    reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n = pred.numel()
    r = common.reduction_of(pred, weight, avg_factor, divisor, reduction, n, n)
    gradients, partial = common.gradients_like(1, pred, weight), common.partial_sums(r, pred)
    with torch.cuda.device_of(pred):
        margins = (pos_margin, neg_margin)
        _backward(r, None, pred, target, kept, margins, gradients, partial, 1)
        return common.finish(r, pred, widen, partial), gradients[0]


implement("embedding_distance_negatives", "triton", negatives, "torch operations on the counts")
implement("embedding_distance", "triton", forward)
implement("embedding_distance_backward", "triton", backward)
implement("embedding_distance_with_gradient", "triton", with_gradient)
