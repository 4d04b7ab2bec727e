"""Triton kernels of the stem `lovasz`; formulas: fastloss/reference/lovasz.py.

Class by class: a kernel writes the errors of all pixels, torch sorts them (CUB's radix sort), and a
scan over the sorted positives gives every pixel its slope; at last a kernel takes the slopes of all
classes through the softmax. There are errors and their order of one class at a time. Counts and
increments are in float64.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference import lovasz as reference
from ..reference._reduce import reduce, result_dtype, spread
from . import _common as common
from ._lovasz import HINGE, KINDS, SOFTMAX, error_of, load_targets, through_error
from ._pixels import NO_IGNORE, image_and_pixels, kernel, load_tile, strides, tiles

BLOCK = 1024  # sorted pixels of a program


@kernel
def lovasz_softmax_fwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    peak, inverse,  # (N, P)
    pixels, classes, chunks, blocks,
    DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    """The largest logit of every pixel, and 1 / sum exp(x - peak)."""
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        highest = tl.max(x, 0)
        total = tl.sum(tl.exp(x - highest[None, :]), 0)
        tl.store(peak + n * pixels + p, highest, mask=p < pixels)
        tl.store(inverse + n * pixels + p, 1.0 / total, mask=p < pixels)


@kernel
def lovasz_errors_fwd(
    logits, x_n, x_p,  # (N, P), one class
    target, t_n, t_p,  # (N, P)
    peak, inverse,  # (N, P) for softmax
    errors, positives,  # (N, P): -inf where ignored; t
    c, ignore_index: tl.int64, pixels, classes, programs,
    KIND: tl.constexpr, STRICT: tl.constexpr, DTYPE: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    n, p = program // programs, program % programs * PB + tl.arange(0, PB)
    inside = p < pixels
    x = tl.load(logits + n * x_n + p * x_p, mask=inside, other=0.0).to(DTYPE)
    if KIND == SOFTMAX:
        highest = tl.load(peak + n * pixels + p, mask=inside, other=0.0)
        x = tl.exp(x - highest) * tl.load(inverse + n * pixels + p, mask=inside, other=0.0)
    t, valid = load_targets(
        target + n * t_n, p, t_p, tl.zeros((1, 1), tl.int32) + c, ignore_index, classes, pixels,
        KIND, STRICT, DTYPE,
    )  # fmt: skip
    t = tl.reshape(t, (PB,))
    error = tl.where(valid, error_of(x, t, KIND), float("-inf"))
    tl.store(errors + n * pixels + p, error, mask=inside)
    tl.store(positives + n * pixels + p, t, mask=inside)


@kernel
def lovasz_count_fwd(
    order,  # (G, K), pixels of a group by error
    positives,  # (G, K), t by pixel
    out,  # (G, programs)
    count, programs,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of t of every block of sorted pixels."""
    g, i = _block_of(programs, BLOCK)
    at = tl.load(order + g * count + i, mask=i < count, other=0)
    t = tl.load(positives + g * count + at, mask=i < count, other=0.0)
    tl.store(out + tl.program_id(0), tl.sum(t.to(tl.float64), 0))


@kernel
def lovasz_offsets_fwd(
    sums,  # (G, programs), replaced by the sum of those before
    totals,  # (G)
    programs,
    BLOCK: tl.constexpr,
):  # fmt: skip
    g, lanes = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    total = tl.zeros((1,), tl.float64)
    for start in range(0, programs, BLOCK):
        i = start + lanes
        here = tl.load(sums + g * programs + i, mask=i < programs, other=0.0)
        tl.store(sums + g * programs + i, total + tl.cumsum(here, 0) - here, mask=i < programs)
        total += tl.sum(here, 0)
    tl.store(totals + g + tl.arange(0, 1), total)


@kernel
def lovasz_scan_fwd(
    errors, order,  # (G, K), sorted
    positives,  # (G, K), t by pixel
    offsets,  # (G, programs)
    totals,  # (G)
    partial,  # (G, programs), of the value
    slopes,  # (N, C, P) from this class on, if wanted
    count, pixels, s_n, programs,
    SLOPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    g, i = _block_of(programs, BLOCK)
    inside = i < count
    e = tl.load(errors + g * count + i, mask=inside, other=0.0)
    at = tl.load(order + g * count + i, mask=inside, other=0)
    t = tl.load(positives + g * count + at, mask=inside, other=0.0).to(tl.float64)
    before = tl.load(totals + g) - (tl.load(offsets + tl.program_id(0)) + tl.cumsum(t, 0) - t)
    rank = i.to(tl.float64)
    ratio = tl.where(i == 0, 1.0, before / tl.where(i == 0, 1.0, rank + before))
    jump = (t + (1.0 - t) * ratio) / (rank + 1.0 + before - t)
    counted = inside & (e != float("-inf"))
    part = tl.where(counted & (e != 0.0), tl.where(e < 0.0, 0.0, e).to(tl.float64) * jump, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(part, 0))
    if SLOPES:
        pixel = g * count + at
        to = slopes + pixel // pixels * s_n + pixel % pixels
        tl.store(to, tl.where(counted, jump, 0.0).to(slopes.dtype.element_ty), mask=inside)


@triton.jit
def _block_of(programs, BLOCK: tl.constexpr):
    """The group of this program, and its places in the order."""
    program = tl.program_id(0).to(tl.int64)
    return program // programs, program % programs * BLOCK + tl.arange(0, BLOCK)


@kernel
def lovasz_bwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    peak, inverse,  # (N, P) for softmax
    slopes,  # (N, C, P)
    factors, f_n,  # (N, C) or one row for all
    g_logits, gx_n, gx_c, gx_p,  # (N, C, P)
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    KIND: tl.constexpr, STRICT: tl.constexpr, DTYPE: tl.constexpr, CB: tl.constexpr,
    PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    factor = tl.load(factors + n * f_n + c, mask=c < classes, other=0.0).to(DTYPE)[:, None]
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        if KIND == SOFTMAX:
            highest = tl.load(peak + n * pixels + p, mask=p < pixels, other=0.0)
            x = tl.exp(x - highest[None, :])
            x *= tl.load(inverse + n * pixels + p, mask=p < pixels, other=0.0)[None, :]
        t, valid = load_targets(
            target + n * t_n, p, t_p, c[:, None], ignore_index, classes, pixels, KIND, STRICT, DTYPE
        )
        mask = (c < classes)[:, None] & (p < pixels)[None, :]
        at = (n * classes + c.to(tl.int64))[:, None] * pixels + p[None, :]
        slope = tl.load(slopes + at, mask=mask, other=0.0) * factor
        g = through_error(x, t, valid, tl.where(factor == 0.0, 0.0, slope), KIND)
        to = g_logits + n * gx_n + c.to(tl.int64)[:, None] * gx_c + p[None, :] * gx_p
        tl.store(to, g.to(g_logits.dtype.element_ty), mask=mask)


class _Run:
    """The values (G, C) of all problems, float64, with what the gradient needs of them."""

    def __init__(
        self, logits: Tensor, target: Tensor, kind: str, per_image: bool,
        ignore_index: int | None, strict: bool, wanted: bool,
    ) -> None:  # fmt: skip
        target = target.view(torch.uint8) if target.dtype == torch.bool else target
        n, classes, pixels = logits.shape
        self.logits, self.target, self.kind = logits, target, KINDS.index(kind)
        self.groups, self.dtype = n if per_image else 1, common.compute_dtype(logits)
        self.ignored = NO_IGNORE if ignore_index is None else ignore_index
        self.constants = {
            "KIND": self.kind, "STRICT": strict, "DTYPE": common.language_dtype(logits),
        }  # fmt: skip
        self.dealt = tiles(logits, 8)
        self.peak = self.inverse = self._new(0)
        if self.kind == SOFTMAX.value:
            self.peak, self.inverse = self._new(n, pixels), self._new(n, pixels)
            common.launch(
                lovasz_softmax_fwd, self.dealt.programs, logits, *strides(logits), self.peak,
                self.inverse, pixels, *self.dealt.sizes(), DTYPE=self.constants["DTYPE"],
                **self.dealt.constants(),
            )  # fmt: skip
        self.slopes = self._new(n, classes, pixels) if wanted else self._new(0)
        shape = (self.groups, classes)
        self.totals = torch.zeros(shape, dtype=torch.float64, device=logits.device)
        self.values = torch.zeros(shape, dtype=torch.float64, device=logits.device)
        for c in range(classes if n * pixels else 0):
            self.totals[:, c], self.values[:, c] = self._problems(c, wanted)

    def _new(self, *shape: int) -> Tensor:
        return self.logits.new_empty(shape, dtype=self.dtype)

    def _problems(self, c: int, wanted: bool) -> tuple[Tensor, Tensor]:
        """The sums of t and the values of class c in all groups; writes its slopes."""
        n, _, pixels = self.logits.shape
        count = n * pixels // self.groups
        errors, positives = self._new(self.groups, count), self._new(self.groups, count)
        x, each = self.logits[:, c], triton.cdiv(pixels, BLOCK)
        x_n = x.stride(0) if n > 1 else 0  # one image has any stride, also one that 16 divides not
        common.launch(
            lovasz_errors_fwd, n * each, x, x_n, x.stride(1), self.target, *self.target.stride(),
            self.peak, self.inverse, errors, positives, c, self.ignored, pixels,
            self.logits.shape[1], each, PB=BLOCK, **self.constants,
        )  # fmt: skip
        errors, order = errors.sort(dim=1, descending=True, stable=True)
        programs = triton.cdiv(count, BLOCK)
        sums = errors.new_empty(self.groups, programs, dtype=torch.float64)
        partial, totals = torch.empty_like(sums), sums.new_empty(self.groups)
        launches = self.groups * programs
        common.launch(
            lovasz_count_fwd, launches, order, positives, sums, count, programs, BLOCK=BLOCK
        )
        common.launch(lovasz_offsets_fwd, self.groups, sums, totals, programs, BLOCK=BLOCK)
        slopes = self.slopes[:, c] if wanted else self.slopes
        common.launch(
            lovasz_scan_fwd, launches, errors, order, positives, sums, totals, partial, slopes,
            count, pixels, self.slopes.stride(0) if wanted else 0, programs, SLOPES=wanted,
            BLOCK=BLOCK,
        )  # fmt: skip
        return totals, partial.sum(1)

    def factors(self, present: bool, classes: Any) -> Tensor:
        """Of the values, (G, C)."""
        if self.kind == HINGE.value:
            return torch.ones_like(self.values)
        there = reference.class_factors(self.totals != 0, present, classes)
        return there.expand_as(self.values)

    def gradient(self, factors: Tensor) -> Tensor:
        """Of the logits, from the factors of the values and what comes in, (G, C)."""
        g_logits, factors = torch.empty_like(self.logits), factors.contiguous()
        n, _, pixels = self.logits.shape
        common.launch(
            lovasz_bwd, self.dealt.programs, self.logits, *strides(self.logits), self.target,
            *self.target.stride(), self.peak, self.inverse, self.slopes, factors,
            factors.shape[1] if self.groups == n else 0, g_logits, *strides(g_logits), self.ignored,
            pixels, *self.dealt.sizes(), **self.constants, **self.dealt.constants(),
        )  # fmt: skip
        return g_logits


def _value(values: Tensor, factors: Tensor, logits: Tensor, reduction: str, widen: bool) -> Tensor:
    of_groups = torch.where(factors == 0, 0, values * factors).sum(-1)
    dtype = result_dtype(logits, widen)
    return reduce(of_groups, None, None, None, reduction, len(of_groups), dtype)


def forward(
    logits: Tensor, target: Tensor, kind: str, present: bool, classes: Any, per_image: bool,
    ignore_index: int | None, strict: bool, reduction: str, widen: bool,
) -> Tensor:  # fmt: skip
    with torch.cuda.device_of(logits):
        run = _Run(logits, target, kind, per_image, ignore_index, strict, False)
        return _value(run.values, run.factors(present, classes), logits, reduction, widen)


def with_gradient(
    logits: Tensor, target: Tensor, kind: str, present: bool, classes: Any, per_image: bool,
    ignore_index: int | None, strict: bool, reduction: str, widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    with torch.cuda.device_of(logits):
        run = _Run(logits, target, kind, per_image, ignore_index, strict, True)
        factors = run.factors(present, classes)
        value = _value(run.values, factors, logits, reduction, widen)
        share = 1 / max(run.groups, 1) if reduction == "mean" else 1.0
        return value, run.gradient(factors * share)


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, kind: str, present: bool, classes: Any,
    per_image: bool, ignore_index: int | None, strict: bool, reduction: str, widen: bool,
    needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradient of hinge to its target, which few ask for, is left to the reference."""
    options = (kind, present, classes, per_image, ignore_index, strict)
    if needs & 2 and kind == "hinge" and target.is_floating_point():
        return tuple(reference.backward(grad, logits, target, *options, reduction, widen, needs))
    absent = logits.new_empty(0)
    if not needs & 1:
        return absent, logits.new_empty(0)
    with torch.cuda.device_of(logits):
        run = _Run(logits, target, kind, per_image, ignore_index, strict, True)
        like = run.values.new_empty(run.groups)
        g = spread(grad, like, None, None, reduction, run.groups)[:, None]
        return run.gradient(run.factors(present, classes) * g), absent


implement("lovasz", "triton", forward, helper="torch.sort")
implement("lovasz_with_gradient", "triton", with_gradient, helper="torch.sort")
implement("lovasz_backward", "triton", backward, helper="torch.sort")
