"""Triton kernels of the stem `lovasz_histogram`; formulas: the reference of that name.

One read of the logits counts errors with integer atomics, so that the order of adding does not
matter; the slopes of the bins, a small table, are made by the reference's own torch operations; one
more read looks them up.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference import lovasz_histogram as reference
from ..reference._reduce import reduce, result_dtype, spread
from ..reference.lovasz import class_factors
from . import _common as common
from ._lovasz import HINGE, KINDS, SOFTMAX, error_of, load_targets, through_error
from ._pixels import NO_IGNORE, image_and_pixels, kernel, load_tile, strides, tiles


@triton.jit
def _tile(
    logits, target, t_p, p, c, x_c, x_p, ignore_index, classes, pixels, bins, shift, size,
    KIND: tl.constexpr, STRICT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Of a tile (C, P): p or the logits of hinge, t, the bin of the error, whether it is positive;
    of its pixels whether they are valid."""
    x = load_tile(logits, c, p, x_c, x_p, classes, pixels, DTYPE)
    if KIND == SOFTMAX:
        x = tl.exp(x - tl.max(x, 0)[None, :])
        x *= (1.0 / tl.sum(x, 0))[None, :]
    t, valid = load_targets(
        target, p, t_p, c[:, None], ignore_index, classes, pixels, KIND, STRICT, DTYPE
    )
    positive = (t > 0.5) | (t != t)
    if KIND == HINGE:
        t = tl.where(t == t, tl.where(positive, 1.0, 0.0), t).to(DTYPE)
    error = error_of(x, t, KIND)
    if KIND == HINGE:
        narrow = tl.where(error > 0.0, error, 0.0).to(tl.float32)
        k = narrow.to(tl.int32, bitcast=True) >> shift
    else:
        k = tl.where(error == error, tl.minimum(error * bins, bins - 1.0), 0.0).to(tl.int32)
    k = tl.where(error == error, k, size - 1)
    return x, t, k, positive, valid


@kernel
def lovasz_histogram_fwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    counts,  # (2, G, C, K + 1): negatives and positives
    valid_counts,  # (G)
    ignore_index: tl.int64, pixels, classes, chunks, blocks, groups, bins, shift, size,
    PER_IMAGE: tl.constexpr, KIND: tl.constexpr, STRICT: tl.constexpr, DTYPE: tl.constexpr,
    CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    """Negatives of the lowest bin, which may be most of all pixels, are not counted: they are what
    the valid pixels leave."""
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c, seen = tl.arange(0, CB), tl.zeros((PB,), tl.int64)
    if PER_IMAGE:
        group = n
    else:
        group = n * 0
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        _, _, k, positive, valid = _tile(
            logits + n * x_n, target + n * t_n, t_p, p, c, x_c, x_p, ignore_index, classes, pixels,
            bins, shift, size, KIND, STRICT, DTYPE,
        )  # fmt: skip
        row = tl.where(positive, groups, 0).to(tl.int64) + group
        at = (row * classes + c[:, None]) * size + k
        counted = (c < classes)[:, None] & valid[None, :] & (positive | (k > 0))
        tl.atomic_add(counts + at, 1, mask=counted, sem="relaxed")
        seen += valid.to(tl.int64)
    tl.atomic_add(valid_counts + group, tl.sum(seen, 0), sem="relaxed")


@kernel
def lovasz_histogram_bwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    slopes,  # (2, G, C, K + 1)
    g_logits, gx_n, gx_c, gx_p,  # (N, C, P)
    ignore_index: tl.int64, pixels, classes, chunks, blocks, groups, bins, shift, size,
    PER_IMAGE: tl.constexpr, KIND: tl.constexpr, STRICT: tl.constexpr, DTYPE: tl.constexpr,
    CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    if PER_IMAGE:
        group = n
    else:
        group = n * 0
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x, t, k, positive, valid = _tile(
            logits + n * x_n, target + n * t_n, t_p, p, c, x_c, x_p, ignore_index, classes, pixels,
            bins, shift, size, KIND, STRICT, DTYPE,
        )  # fmt: skip
        row = tl.where(positive, groups, 0).to(tl.int64) + group
        at = (row * classes + c[:, None]) * size + k
        mask = (c < classes)[:, None] & (p < pixels)[None, :]
        slope = tl.load(slopes + at, mask=mask & valid[None, :], other=0.0)
        g = through_error(x, t, valid, slope, KIND)
        to = g_logits + n * gx_n + c.to(tl.int64)[:, None] * gx_c + p[None, :] * gx_p
        tl.store(to, g.to(g_logits.dtype.element_ty), mask=mask)


class _Run:
    """The counts of a call and what follows from them."""

    def __init__(
        self, logits: Tensor, target: Tensor, kind: str, present: bool, classes: Any,
        per_image: bool, ignore_index: int | None, strict: bool, bins: int,
    ) -> None:  # fmt: skip
        target = target.view(torch.uint8) if target.dtype == torch.bool else target
        n, c, pixels = logits.shape
        self.logits, self.target = logits, target
        self.groups, size = n if per_image else 1, reference.count_of(kind, bins) + 1
        self.dealt = tiles(logits, 4)
        ignored = NO_IGNORE if ignore_index is None else ignore_index
        sizes = (*self.dealt.sizes(), self.groups, bins, 23 - reference.octave_bits(bins), size)
        self.numbers = (ignored, pixels, *sizes)
        self.constants = {
            "PER_IMAGE": per_image, "KIND": KINDS.index(kind), "STRICT": strict,
            "DTYPE": common.language_dtype(logits), **self.dealt.constants(),
        }  # fmt: skip
        dtype = torch.int32 if n * pixels < 2**31 else torch.int64
        counts = torch.zeros(2, self.groups, c, size, dtype=dtype, device=logits.device)
        valid = torch.zeros(self.groups, dtype=torch.int64, device=logits.device)
        common.launch(
            lovasz_histogram_fwd, self.dealt.programs, logits, *strides(logits), target,
            *target.stride(), counts, valid, *self.numbers, **self.constants,
        )  # fmt: skip
        rest = valid[:, None] - counts.sum((0, 3))
        counts[0, ..., 0] = rest.to(dtype)
        self.kind, self.bins, self.counts = kind, bins, counts
        self.slopes = reference.slopes(counts[1], counts[0])
        there = counts[1].sum(-1) > 0
        if kind == "hinge":
            self.factors = torch.ones_like(there, dtype=torch.float64)
        else:
            self.factors = class_factors(there, present, classes).expand_as(there)

    def value(self, reduction: str, widen: bool) -> Tensor:
        middles = reference.middles(self.kind, self.bins, self.logits.device)
        values = reference.values(self.counts, self.slopes, middles)
        values = torch.where(self.factors == 0, 0, values * self.factors).sum(-1)
        dtype = result_dtype(self.logits, widen)
        return reduce(values, None, None, None, reduction, len(values), dtype)

    def gradient(self, g: Tensor | float) -> Tensor:
        """Of the logits, from that of the values of the groups, (G, 1) or one for all."""
        factors = (self.factors * g)[None, ..., None]
        table = torch.stack((self.slopes.negative, self.slopes.positive)) * factors
        table = torch.where(factors == 0, 0, table).to(common.compute_dtype(self.logits))
        g_logits = torch.empty_like(self.logits)
        common.launch(
            lovasz_histogram_bwd, self.dealt.programs, self.logits, *strides(self.logits),
            self.target, *self.target.stride(), table, g_logits, *strides(g_logits), *self.numbers,
            **self.constants,
        )  # fmt: skip
        return g_logits


def forward(
    logits: Tensor, target: Tensor, kind: str, present: bool, classes: Any, per_image: bool,
    ignore_index: int | None, strict: bool, bins: int, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    with torch.cuda.device_of(logits):
        run = _Run(logits, target, kind, present, classes, per_image, ignore_index, strict, bins)
        return run.value(reduction, widen)


def with_gradient(
    logits: Tensor, target: Tensor, kind: str, present: bool, classes: Any, per_image: bool,
    ignore_index: int | None, strict: bool, bins: int, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    with torch.cuda.device_of(logits):
        run = _Run(logits, target, kind, present, classes, per_image, ignore_index, strict, bins)
        share = 1 / max(run.groups, 1) if reduction == "mean" else 1.0
        return run.value(reduction, widen), run.gradient(share)


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, kind: str, present: bool, classes: Any,
    per_image: bool, ignore_index: int | None, strict: bool, bins: int, reduction: str,
    widen: bool, needs: int,
) -> Tensor:  # fmt: skip
    if not needs & 1:
        return logits.new_empty(0)
    with torch.cuda.device_of(logits):
        run = _Run(logits, target, kind, present, classes, per_image, ignore_index, strict, bins)
        like = run.factors.new_empty(run.groups)
        return run.gradient(spread(grad, like, None, None, reduction, run.groups)[:, None])


implement("lovasz_histogram", "triton", forward, helper="torch.cumsum")
implement("lovasz_histogram_with_gradient", "triton", with_gradient, helper="torch.cumsum")
implement("lovasz_histogram_backward", "triton", backward, helper="torch.cumsum")
