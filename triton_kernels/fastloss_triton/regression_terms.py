"""Triton kernels of the stem `regression_terms`; formulas: fastloss/reference/regression_terms.py.

Kinds, betas and which losses are means belong to the loss and are compiled in.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference.regression_terms import KINDS as NAMES
from . import _common as common
from ._common import load_block, store_block
from .regression_loss import KINDS, derivative, value

# For balanced L1, which is not among the kinds.
_ALPHA: tl.constexpr = tl.constexpr(0.5)
_GAMMA: tl.constexpr = tl.constexpr(1.5)
_GROWTH: tl.constexpr = tl.constexpr(math.expm1(3.0))


@common.kernel
def regression_terms_fwd(
    pred,  # (n)
    target,  # (n)
    partial,  # (K, programs)
    n,
    programs,
    KIND: tl.constexpr, BETA: tl.constexpr, COUNT: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = load_block(pred, i, n).to(DTYPE)
    d -= load_block(target, i, n).to(DTYPE)
    for k in tl.static_range(COUNT):
        loss = value(d, BETA[k], _ALPHA, _GAMMA, _GROWTH, KIND[k])
        tl.store(partial + k * programs + tl.program_id(0), tl.sum(tl.where(i < n, loss, 0.0), 0))


@common.kernel
def regression_terms_finish(
    partial,  # (K, programs)
    result,  # (K)
    n,
    programs,
    MEANS: tl.constexpr,  # bit k: loss k is a mean
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per loss: its partial sums in a fixed order, over the divisor."""
    k = tl.program_id(0)
    row = partial + k.to(tl.int64) * programs
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), DTYPE)
    whole = programs // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        total += tl.load(row + start + lanes)
    total += tl.load(row + whole + lanes, mask=whole + lanes < programs, other=0.0)
    loss = tl.sum(total, 0)
    loss = tl.where(((MEANS >> k) & 1) == 1, loss / tl.maximum(n, 1).to(DTYPE), loss)
    tl.store(result + k, loss.to(result.dtype.element_ty))


@common.kernel
def regression_terms_bwd(
    grad,  # (K)
    pred,  # (n)
    target,  # (n)
    g_pred, g_target,  # (n) each, if wanted
    n,
    KIND: tl.constexpr, BETA: tl.constexpr, COUNT: tl.constexpr, MEANS: tl.constexpr,
    NEEDS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = load_block(pred, i, n).to(DTYPE)
    d -= load_block(target, i, n).to(DTYPE)
    slope = tl.zeros((BLOCK,), DTYPE)
    for k in tl.static_range(COUNT):
        g = tl.load(grad + k).to(DTYPE)
        if (MEANS >> k) & 1:
            g = g / n.to(DTYPE)
        slope += g * derivative(d, BETA[k], _ALPHA, _GAMMA, _GROWTH, KIND[k])
    if NEEDS & 1:
        store_block(g_pred, slope, i, n)
    if NEEDS & 2:
        store_block(g_target, -slope, i, n)


def _constants(
    like: Tensor, kinds: Sequence[int], betas: Sequence[float], means: Sequence[int]
) -> dict[str, Any]:
    """The constants that choose what is compiled."""
    return {
        "KIND": tuple(KINDS[NAMES[kind]] for kind in kinds),
        "BETA": tuple(betas),
        "COUNT": len(kinds),
        "MEANS": sum(mean << k for k, mean in enumerate(means)),
        "DTYPE": common.language_dtype(like),
        "BLOCK": common.BLOCK,
    }


def forward(
    pred: Tensor, target: Tensor, kinds: Sequence[int], betas: Sequence[float],
    means: Sequence[int], widen: bool,
) -> Tensor:  # fmt: skip
    n, constants = pred.numel(), _constants(pred, kinds, betas, means)
    bits = constants.pop("MEANS")
    programs = triton.cdiv(n, common.BLOCK)
    partial = pred.new_empty(len(kinds), programs, dtype=common.compute_dtype(pred))
    result = pred.new_empty(len(kinds), dtype=common.result_dtype(pred, widen))
    with torch.cuda.device_of(pred):
        common.launch(
            regression_terms_fwd, programs, pred.contiguous(), target.contiguous(), partial, n,
            programs, **constants,
        )  # fmt: skip
        common.launch(
            regression_terms_finish, len(kinds), partial, result, n, programs, MEANS=bits,
            DTYPE=constants["DTYPE"], BLOCK=common.BLOCK,
        )  # fmt: skip
    return result


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, kinds: Sequence[int], betas: Sequence[float],
    means: Sequence[int], widen: bool, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    n = pred.numel()
    gradients = common.gradients_like(needs, pred, target)
    with torch.cuda.device_of(pred):
        common.launch(
            regression_terms_bwd, triton.cdiv(n, common.BLOCK), grad.contiguous(),
            pred.contiguous(), target.contiguous(), *gradients, n,
            **_constants(pred, kinds, betas, means), NEEDS=needs,
        )  # fmt: skip
    return gradients


implement("regression_terms", "triton", forward)
implement("regression_terms_backward", "triton", backward)
