"""Triton kernels of the stem `boundary_pool`; formulas: fastloss/reference/boundary_pool.py.

Rows and columns are pooled one after the other. Within the border, windows of a few elements are
made of single ones, and larger ones of such windows, so that a pass has at most TAPS loads for each
element, which neighbours share in the first-level cache, and two passes make a window of 1,089.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import store_block

TAPS = 33

kernel = triton.jit(do_not_specialize=["n", "length", "stride", "reach", "wanted", "taps"])


@triton.jit
def _positions(stride, length, BLOCK: tl.constexpr):
    """The elements of this program, and where each is along the axis."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return i, (i // stride % length).to(tl.int32)


@kernel
def boundary_pool_fwd(
    values,  # (n), of windows that reach so far to both sides
    places,  # (n), where in the axis their maxima are
    out,  # (n), of windows that reach as far as wanted
    out_places,  # (n)
    n, length, stride, reach, wanted, taps,
    FIRST: tl.constexpr,  # values are of single elements, and there are no places
    PLACES: tl.constexpr,  # places are wanted
    SETS: tl.constexpr,  # values are sets, as bits, to be united
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One axis, on which neighbours are `stride` apart.

    A window that would be centred beyond the border is moved to it. It then lies within the one
    that is wanted all the same, and begins and ends no earlier than the one before it.
    """
    i, position = _positions(stride, length, BLOCK)
    inside = i < n
    offset = reach - wanted
    best = tl.zeros((BLOCK,), DTYPE)
    place = tl.zeros((BLOCK,), tl.int32)
    for t in range(taps):
        centre = position + tl.minimum(offset + t * (2 * reach + 1), -offset)
        centre = tl.minimum(tl.maximum(centre, 0), length - 1)
        at = i + (centre - position).to(tl.int64) * stride
        value = tl.load(values + at, mask=inside, other=0).to(DTYPE)
        if SETS:
            best = best | value
        else:
            later = (t == 0) | (value > best) | (value != value)
            best = tl.where(later, value, best)
            if PLACES:
                if FIRST:
                    found = centre
                else:
                    found = tl.load(places + at, mask=inside, other=0)
                place = tl.where(later, found, place)
    store_block(out, best, i, n)
    if PLACES:
        store_block(out_places, place, i, n)


@kernel
def boundary_pool_bwd(
    grad,  # (n), of the maxima
    places,  # (n)
    out,  # (n)
    n, length, stride, reach,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One axis: to each element the gradients of the maxima that it is."""
    i, position = _positions(stride, length, BLOCK)
    total = tl.zeros((BLOCK,), DTYPE)
    for offset in range(-reach, reach + 1):
        inside = (position + offset >= 0) & (position + offset < length) & (i < n)
        at = i + offset * stride
        chosen = tl.load(places + at, mask=inside, other=-1) == position
        total += tl.load(grad + at, mask=inside & chosen, other=0.0).to(DTYPE)
    store_block(out, total, i, n)


def _step(x: Tensor, axis: int) -> int:
    """How far apart neighbours along an axis of x, contiguous, are. The stride of an axis of one
    element may be anything, also 0."""
    return 1 if axis == -1 else x.shape[-1]


def _pool_axis(x: Tensor, axis: int, window: int, places: bool) -> tuple[Tensor, Tensor]:
    """Along one axis of x, contiguous: values, and positions of the maxima (x itself if they are
    not wanted)."""
    length, stride, sets = x.shape[axis], _step(x, axis), x.dtype == torch.int32
    wanted, reach, place = min(window // 2, length - 1), 0, x
    first = True
    while first or reach < wanted:
        step = 2 * reach + 1
        target = min(reach + TAPS // 2 * step, wanted)
        out = torch.empty_like(x)
        out_place = torch.empty_like(x, dtype=torch.int32) if places else x
        common.launch(
            boundary_pool_fwd, triton.cdiv(x.numel(), common.BLOCK), x, place, out, out_place,
            x.numel(), length, stride, reach, target, triton.cdiv(2 * (target - reach), step) + 1,
            FIRST=first, PLACES=places, SETS=sets, BLOCK=common.BLOCK,
            DTYPE=tl.int32 if sets else common.language_dtype(x),
        )  # fmt: skip
        x, place, reach, first = out, out_place, target, False
    return x, place


def pool(x: Tensor, window: int, places: bool) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Maxima of x (*, H, W), contiguous and not empty; the column of the maximum of each row's
    window, and the row of the maximum of those. Unions, if x holds sets as int32."""
    rows, columns = _pool_axis(x, -1, window, places)
    values, chosen = _pool_axis(rows, -2, window, places)
    return values, (columns, chosen)


def unpool(grad: Tensor, places: tuple[Tensor, Tensor], window: int, dtype: torch.dtype) -> Tensor:
    """The gradient, in `dtype`, to what was pooled from that of its maxima, contiguous."""
    for axis, place in zip((-2, -1), reversed(places)):
        length = grad.shape[axis]
        out = torch.empty_like(grad, dtype=dtype if axis == -1 else common.compute_dtype(grad))
        common.launch(
            boundary_pool_bwd, triton.cdiv(grad.numel(), common.BLOCK), grad, place, out,
            grad.numel(), length, _step(grad, axis), min(window // 2, length - 1),
            DTYPE=common.language_dtype(grad), BLOCK=common.BLOCK,
        )  # fmt: skip
        grad = out
    return grad


def forward(x: Tensor, window: int) -> Tensor:
    if x.numel() == 0:
        return x.new_empty(x.shape)
    with torch.cuda.device_of(x):
        return pool(x.contiguous(), window, places=False)[0]


def backward(grad: Tensor, x: Tensor, window: int, needs: int) -> Tensor:
    if not needs & 1 or x.numel() == 0:
        return x.new_empty(x.shape if needs & 1 else 0)
    with torch.cuda.device_of(x):
        _, places = pool(x.contiguous(), window, places=True)
        return unpool(grad.contiguous(), places, window, x.dtype)


implement("boundary_pool", "triton", forward)
implement("boundary_pool_backward", "triton", backward)
