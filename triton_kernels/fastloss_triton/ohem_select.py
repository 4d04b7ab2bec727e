"""Triton kernels of the stem `ohem_select`; formulas: fastloss/reference/ohem_select.py.

The threshold is found by radix histograms of the bits of the probabilities, which have the order of
integers: a pass for every 10 bits, nothing sorted. Integers alone are added atomically. All of it
stays on the device in `state`, int64: the number of valid pixels, that of pixels up to `thresh`,
how many of the others lie below the bits found so far, and these bits.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common

DIGIT = 10  # bits found in a pass
SELECT_BLOCK = 4096

kernel = triton.jit(
    do_not_specialize=[
        "n", "programs", "rank", "thresh", "shift", "t_columns", "t_row", "t_column", "w_c",
        "classes",
    ]
)  # fmt: skip


@triton.jit
def _wanted(state, rank, MEAN: tl.constexpr):
    """The rank of the threshold among the pixels above `thresh`; 0 or less: none is searched."""
    valid, easy = tl.load(state), tl.load(state + 1)
    if MEAN:
        wanted = tl.where(rank < valid, rank - easy, 0)
    else:
        wanted = tl.minimum(rank, valid - 1) + 1 - easy
    return wanted


@triton.jit
def _is_kept(p, state, rank, thresh, MEAN: tl.constexpr, DTYPE: tl.constexpr):
    """Which of the probabilities p are kept, once the threshold has been found."""
    bits = tl.load(state + 3)
    if DTYPE == tl.float64:
        found = bits.to(tl.float64, bitcast=True)
    else:
        found = bits.to(tl.int32).to(tl.float32, bitcast=True)
    t = tl.where(_wanted(state, rank, MEAN) > 0, found, _number(thresh, DTYPE))
    if MEAN:
        kept = p <= tl.where(rank < tl.load(state), t, 1.0)
    else:
        kept = p < t
    return kept


@triton.jit
def _number(bits, DTYPE: tl.constexpr):
    """A double given by its bits, of which the interpreter has 0 as an int32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(DTYPE)


@triton.jit
def _block(BLOCK: tl.constexpr):
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@kernel
def ohem_select_count(pixels, state, n, thresh: tl.int64, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    i = _block(BLOCK)
    p = common.load_block(pixels, i, n)
    tl.atomic_add(state, tl.sum(((i < n) & (p <= 1.0)).to(tl.int64), 0))
    easy = (i < n) & (p <= _number(thresh, DTYPE))
    tl.atomic_add(state + 1, tl.sum(easy.to(tl.int64), 0))


@kernel
def ohem_select_digit(
    pixels, state, histogram, n, rank: tl.int64, thresh: tl.int64, shift,
    MEAN: tl.constexpr, DIGIT: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The histogram of the digit at bit `shift` of the pixels with the bits found so far."""
    if _wanted(state, rank, MEAN) > 0:
        i = _block(BLOCK)
        p = common.load_block(pixels, i, n)
        if DTYPE == tl.float64:
            key = p.to(tl.int64, bitcast=True) >> shift
        else:
            key = p.to(tl.int32, bitcast=True).to(tl.int64) >> shift
        searched = (i < n) & (p > _number(thresh, DTYPE)) & (p <= 1.0)
        searched &= key >> DIGIT == tl.load(state + 3)
        BINS: tl.constexpr = 1 << DIGIT
        digit = (key & (BINS - 1)).to(tl.int32)
        counts = tl.histogram(tl.where(searched, digit, 0), BINS, mask=searched)
        at = histogram + tl.arange(0, BINS)
        tl.atomic_add(at, counts.to(tl.int64), mask=counts > 0)


@kernel
def ohem_select_descend(state, histogram, rank: tl.int64, MEAN: tl.constexpr, DIGIT: tl.constexpr):
    """Find the next digit of the threshold."""
    counts = tl.load(histogram + tl.arange(0, 1 << DIGIT))
    below, bits = tl.load(state + 2), tl.load(state + 3)
    passed = tl.cumsum(counts, 0) < _wanted(state, rank, MEAN) - below
    digit = tl.minimum(tl.sum(passed.to(tl.int64), 0), (1 << DIGIT) - 1)
    tl.store(state + 2, below + tl.sum(tl.where(passed, counts, 0), 0))
    tl.store(state + 3, (bits << DIGIT) | digit)


@triton.jit
def _weights(
    i, n, target, t_columns, t_row, t_column, class_weight, w_c, classes, T_MODE: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The class weights of pixels i; T_MODE 0: ones."""
    if T_MODE == 0:
        w = tl.zeros(i.shape, DTYPE) + 1.0
    else:
        label = common.load_operand(target, t_columns, t_row, t_column, i, n, T_MODE).to(tl.int64)
        inside = (label >= 0) & (label < classes)
        w = tl.load(class_weight + tl.where(inside, label, 0) * w_c, mask=inside, other=0.0)
        w = w.to(DTYPE)
    return w


@kernel
def ohem_select_sum(
    pixels, losses,  # (N P) each
    target, t_columns, t_row, t_column, class_weight, w_c, classes,
    state, partial,  # (2, programs)
    n, rank: tl.int64, thresh: tl.int64, programs,
    T_MODE: tl.constexpr, MEAN: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums over the pixels kept of w nll and of w, in this program's block."""
    i = _block(BLOCK)
    p, nll = common.load_block(pixels, i, n), common.load_block(losses, i, n)
    kept = (i < n) & _is_kept(p, state, rank, thresh, MEAN, DTYPE)
    w = _weights(
        i, n, target, t_columns, t_row, t_column, class_weight, w_c, classes, T_MODE, DTYPE
    )
    at = partial + tl.program_id(0)
    tl.store(at, tl.sum(tl.where(kept, w * nll, 0.0), 0))
    tl.store(at + programs, tl.sum(tl.where(kept, w, 0.0), 0))


@kernel
def ohem_select_gradient(
    grad,  # ()
    pixels,  # (N P)
    target, t_columns, t_row, t_column, class_weight, w_c, classes,
    state, divisor,  # (4), ()
    out, losses_out,  # (N P) each
    n, rank: tl.int64, thresh: tl.int64,
    T_MODE: tl.constexpr, MEAN: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = _block(BLOCK)
    kept = _is_kept(common.load_block(pixels, i, n), state, rank, thresh, MEAN, DTYPE)
    w = _weights(
        i, n, target, t_columns, t_row, t_column, class_weight, w_c, classes, T_MODE, DTYPE
    )
    scale = (tl.load(grad).to(tl.float64) / tl.load(divisor)).to(DTYPE)
    common.store_block(out, tl.zeros(i.shape, DTYPE), i, n)
    common.store_block(losses_out, tl.where(kept, scale * w, 0.0), i, n)


class _Call:
    """The launches of one call: the search for the threshold, then what depends on it."""

    def __init__(
        self, pixels: Tensor, target: Tensor, class_weight: Tensor | None, rank: int,
        thresh: float, rule: str, dtype: torch.dtype,
    ):  # fmt: skip
        self.pixels, self.dtype, self.mean = pixels.contiguous(), dtype, rule == "gdl"
        self.n = target.numel()
        self.numbers = (rank, common.bits(thresh))
        absent = self.pixels if class_weight is None else target
        labels = common.operand(None if class_weight is None else target, absent)
        weight = (self.pixels, 0, 0)
        if class_weight is not None:
            weight = (class_weight, class_weight.stride(0), len(class_weight))
        self.weights = (*labels.arguments(), *weight)
        self.constants = {"MEAN": self.mean, "DTYPE": common.language_dtype(pixels)}
        self.mode = {"T_MODE": labels.mode}
        self.state = torch.zeros(4, dtype=torch.int64, device=pixels.device)
        with torch.cuda.device_of(pixels):
            self._search()
            self.sums = self._add_up()
        if self.mean:
            self.divisor = torch.where(self.sums[1] == 0, 1.0, self.sums[1])
        else:
            self.divisor = self.sums.new_full((), max(self.n, 1))

    def _launch(self, kernel: Callable[..., Any], block: int, *args: Any, **constants: Any) -> None:
        common.launch(
            kernel, triton.cdiv(self.n, block), *args, BLOCK=block,
            **self.constants, **constants,
        )  # fmt: skip

    def _search(self) -> None:
        p, (rank, thresh) = self.pixels[0], self.numbers
        common.launch(
            ohem_select_count, triton.cdiv(self.n, SELECT_BLOCK), p, self.state, self.n, thresh,
            DTYPE=self.constants["DTYPE"], BLOCK=SELECT_BLOCK,
        )  # fmt: skip
        bits = 8 * p.element_size() - 2  # those in front are 0 for numbers up to 1
        levels = range(DIGIT * triton.cdiv(bits, DIGIT), 0, -DIGIT)
        histograms = self.state.new_zeros(len(levels), 1 << DIGIT)
        for histogram, above in zip(histograms, levels):
            self._launch(
                ohem_select_digit, SELECT_BLOCK, p, self.state, histogram, self.n, rank, thresh,
                above - DIGIT, DIGIT=DIGIT,
            )  # fmt: skip
            common.launch(
                ohem_select_descend, 1, self.state, histogram, rank, MEAN=self.mean, DIGIT=DIGIT
            )

    def _add_up(self) -> Tensor:
        """Sums over the pixels kept of w nll and of w, float64."""
        programs = triton.cdiv(self.n, common.BLOCK)
        partial = self.pixels.new_empty(2, programs)
        self._launch(
            ohem_select_sum, common.BLOCK, *self.pixels, *self.weights, self.state, partial, self.n,
            *self.numbers, programs, **self.mode,
        )  # fmt: skip
        return partial.sum(1, dtype=torch.float64)

    def loss(self) -> Tensor:
        return (self.sums[0] / self.divisor).to(self.dtype)

    def gradient(self, grad: Tensor) -> Tensor:
        out = torch.empty_like(self.pixels)
        with torch.cuda.device_of(out):
            self._launch(
                ohem_select_gradient, common.BLOCK, grad, self.pixels[0], *self.weights, self.state,
                self.divisor, *out, self.n, *self.numbers, **self.mode,
            )  # fmt: skip
        return out


def forward(*args: Any) -> Tensor:
    return _Call(*args).loss()


def with_gradient(*args: Any) -> tuple[Tensor, Tensor]:
    call = _Call(*args)
    return call.loss(), call.gradient(call.divisor.new_ones(()))


def backward(grad: Tensor, pixels: Tensor, *rest: Any) -> Tensor:
    *args, needs = rest
    return _Call(pixels, *args).gradient(grad) if needs & 1 else pixels.new_empty(0)


implement("ohem_select", "triton", forward)
implement("ohem_select_with_gradient", "triton", with_gradient)
implement("ohem_select_backward", "triton", backward)
