"""Triton kernels of the stem `ohem_loss`; formulas: fastloss/reference/ohem_loss.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common

kernel = triton.jit(
    do_not_specialize=["n", "programs", "classes", "t_columns", "t_row", "t_column", "w_c"]
)


@triton.jit
def _kept_weights(
    p, threshold, i, n,
    target, t_columns, t_row, t_column,  # (N P)
    class_weight, w_c, classes,  # (C)
    T_MODE: tl.constexpr, MEAN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Which of the pixels i with probabilities p are kept, and their class weights or 0."""
    t = tl.load(threshold)
    if MEAN:
        kept = (i < n) & (p <= t)
    else:
        kept = (i < n) & (p < t)
    if T_MODE == 0:
        w = kept.to(DTYPE)
    else:
        label = common.load_operand(target, t_columns, t_row, t_column, i, n, T_MODE).to(tl.int64)
        inside = kept & (label >= 0) & (label < classes)
        w = tl.load(class_weight + tl.where(inside, label, 0) * w_c, mask=inside, other=1.0)
        w = tl.where(kept, w.to(DTYPE), 0.0)
    return kept, w


@kernel
def ohem_loss_fwd(
    p, nll,  # (N P)
    target, t_columns, t_row, t_column, class_weight, w_c, classes,
    threshold,  # ()
    out,  # (2, programs)
    n, programs,
    T_MODE: tl.constexpr, MEAN: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums over the pixels kept of w nll and of w, in this program's block."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept, w = _kept_weights(
        common.load_block(p, i, n), threshold, i, n, target, t_columns, t_row, t_column,
        class_weight, w_c, classes, T_MODE, MEAN, DTYPE,
    )  # fmt: skip
    at = out + tl.program_id(0)
    tl.store(at, tl.sum(tl.where(kept, w * common.load_block(nll, i, n), 0.0), 0))
    tl.store(at + programs, tl.sum(w, 0))


@kernel
def ohem_loss_bwd(
    grad,  # ()
    p,  # (N P)
    target, t_columns, t_row, t_column, class_weight, w_c, classes,
    threshold, divisor,  # ()
    g_p, g_nll,  # (N P)
    n,
    T_MODE: tl.constexpr, MEAN: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept, w = _kept_weights(
        common.load_block(p, i, n), threshold, i, n, target, t_columns, t_row, t_column,
        class_weight, w_c, classes, T_MODE, MEAN, DTYPE,
    )  # fmt: skip
    scale = (tl.load(grad).to(tl.float64) / tl.load(divisor)).to(DTYPE)
    common.store_block(g_p, tl.zeros((BLOCK,), DTYPE), i, n)
    common.store_block(g_nll, tl.where(kept, scale * w, 0.0), i, n)


class _Call:
    """The arguments that both kernels take, and the sums over the pixels kept."""

    def __init__(
        self, pixels: Tensor, target: Tensor, class_weight: Tensor | None, threshold: Tensor,
        rule: str,
    ):  # fmt: skip
        self.p, self.nll = pixels.contiguous().unbind()
        self.n, mean = target.numel(), rule == "gdl"
        weight = (self.p, 0, 0)  # there is none
        if class_weight is not None:
            weight = (class_weight, class_weight.stride(0), len(class_weight))
        labels = common.operand(None if class_weight is None else target, self.p)
        self.choice = (*labels.arguments(), *weight, threshold)
        self.programs = triton.cdiv(self.n, common.BLOCK)
        self.constants = {
            "T_MODE": labels.mode, "MEAN": mean, "DTYPE": common.language_dtype(pixels),
            "BLOCK": common.BLOCK,
        }  # fmt: skip
        partial = self.p.new_empty(2, self.programs)
        with torch.cuda.device_of(self.p):
            common.launch(
                ohem_loss_fwd, self.programs, self.p, self.nll, *self.choice, partial, self.n,
                self.programs, **self.constants,
            )  # fmt: skip
        self.total, weights = partial.sum(1, dtype=torch.float64).unbind()
        if mean:
            self.divisor = torch.where(weights == 0, 1.0, weights)
        else:
            self.divisor = weights.new_full((), max(self.n, 1))


def forward(
    pixels: Tensor, target: Tensor, class_weight: Tensor | None, threshold: Tensor, rule: str,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    call = _Call(pixels, target, class_weight, threshold, rule)
    return (call.total / call.divisor).to(dtype)


def backward(
    grad: Tensor, pixels: Tensor, target: Tensor, class_weight: Tensor | None, threshold: Tensor,
    rule: str, dtype: torch.dtype, needs: int,
) -> Tensor:  # fmt: skip
    if not needs & 1:
        return pixels.new_empty(0)
    call = _Call(pixels, target, class_weight, threshold, rule)
    out = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(out):
        common.launch(
            ohem_loss_bwd, call.programs, grad, call.p, *call.choice, call.divisor, *out.unbind(),
            call.n, **call.constants,
        )  # fmt: skip
    return out


implement("ohem_loss", "triton", forward)
implement("ohem_loss_backward", "triton", backward)
