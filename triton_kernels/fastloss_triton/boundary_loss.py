"""Triton kernels of the stem `boundary_loss`; formulas: fastloss/reference/boundary_loss.py.

Some images at a time: the softmax, both pools, sums for each image and class; then back through the
pools to the logits. The truth is one bit per pixel and class, 32 classes to a word.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference.boundary_loss import score
from . import _common as common
from . import _pixels
from ._common import load_block, store_block
from ._pixels import NO_IGNORE, image_and_pixels, load_labels, load_tile, strides, tiles
from .boundary_pool import pool, unpool

BITS = tl.constexpr(32)
# Images are taken together until they have so many probabilities, of which there are then up to ten
# copies: 0.7 GB, and enough for the largest GPU.
AT_ONCE = 2**24
CHUNK = 2**15  # pixels that a program sums

kernel = triton.jit(do_not_specialize=["n", "classes", "words", "chunks"])


@triton.jit
def _softmax(x):
    """Of a tile (C, P) over C."""
    e = tl.exp(x - tl.max(x, 0)[None, :])
    return e / tl.sum(e, 0)[None, :]


@_pixels.kernel
def boundary_loss_fwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    target, t_n, t_p,  # (N, P)
    out,  # (N, C, P)
    ignore_index: tl.int64, pixels, classes, chunks, blocks,
    DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    """1 - softmax, NaN where the label is out of range."""
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        _, known, _ = load_labels(target + n * t_n, p, t_p, ignore_index, classes, pixels)
        inverse = tl.where(known[None, :], 1.0 - _softmax(x), float("nan"))
        at = out + (n * classes + c.to(tl.int64)[:, None]) * pixels + p[None, :]
        tl.store(at, inverse, mask=(c < classes)[:, None] & (p < pixels)[None, :])


@triton.jit
def _has(sets, i, pixels, classes, words):
    """Whether the word of element i of (N, C, P) has the bit of its class; sets: (N, words, P)."""
    plane, pixel = i // pixels, i % pixels
    c = plane % classes
    at = (plane // classes * words + c // BITS) * pixels + pixel
    return (tl.load(sets + at) >> (c % BITS).to(tl.int32)) & 1


@kernel
def boundary_loss_sums(
    b, e,  # (N, C, P)
    near, edge,  # (N, words, P)
    out,  # (N, C, chunks, 4)
    pixels, classes, words, chunks,
    DTYPE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a chunk of a plane sum(b e*), sum(b), sum(e b*), sum(b*)."""
    program = tl.program_id(0).to(tl.int64)
    plane, begin = program // chunks, program % chunks * CHUNK
    hits = tl.zeros((BLOCK,), DTYPE)
    predicted, found, true = hits, hits, hits
    for start in range(begin, tl.minimum(begin + CHUNK, pixels), BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        inside = pixel < pixels
        i = plane * pixels + tl.minimum(pixel, pixels - 1)
        value = tl.where(inside, tl.load(b + i), 0.0)
        wide = tl.where(inside, tl.load(e + i), 0.0)
        there = tl.where(inside, _has(edge, i, pixels, classes, words), 0).to(DTYPE)
        hits += value * _has(near, i, pixels, classes, words).to(DTYPE)
        predicted += value
        found += wide * there
        true += there
    at = out + program * 4
    tl.store(at, tl.sum(hits, 0))
    tl.store(at + 1, tl.sum(predicted, 0))
    tl.store(at + 2, tl.sum(found, 0))
    tl.store(at + 3, tl.sum(true, 0))


@kernel
def boundary_loss_slopes(
    near,  # (N, words, P)
    times,  # (N, C, P), how often a pixel is the maximum for a true boundary
    weights,  # (N, C, 3): by_hits, by_predicted, by_found
    out,  # (N, C, P)
    n, pixels, classes, words,
    EDGE: tl.constexpr,  # only whether `near`, then the boundary itself, has the pixel
    DTYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of b."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    at = tl.minimum(i, n - 1)
    there = _has(near, at, pixels, classes, words).to(DTYPE)
    if EDGE:
        slope = there
    else:
        w = weights + at // pixels * 3
        slope = tl.load(w) * there + tl.load(w + 1) + tl.load(w + 2) * load_block(times, i, n)
    store_block(out, slope, i, n)


@_pixels.kernel
def boundary_loss_bwd(
    logits, x_n, x_c, x_p,  # (N, C, P)
    slopes,  # (N, C, P), of b
    outer,  # (N, C, P), these summed up at the maxima of 1 - p
    g_logits, gx_n, gx_c, gx_p,  # (N, C, P)
    pixels, classes, chunks, blocks,
    DTYPE: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    n, begin, end = image_and_pixels(chunks, blocks, pixels, PB)
    c = tl.arange(0, CB)
    for start in range(begin, end, PB):
        p = start + tl.arange(0, PB)
        x = load_tile(logits + n * x_n, c, p, x_c, x_p, classes, pixels, DTYPE)
        inside = (c < classes)[:, None] & (p < pixels)[None, :]
        at = (n * classes + c.to(tl.int64)[:, None]) * pixels + p[None, :]
        g = tl.load(slopes + at, mask=inside, other=0.0)
        g -= tl.load(outer + at, mask=inside, other=0.0)
        probability = tl.where(inside, _softmax(x), 0.0)
        g_x = probability * (g - tl.sum(probability * g, 0)[None, :])
        to = g_logits + n * gx_n + c.to(tl.int64)[:, None] * gx_c + p[None, :] * gx_p
        tl.store(to, g_x.to(g_logits.dtype.element_ty), mask=inside)


class _Truth(NamedTuple):
    """Sets of classes, (N, words, H, W) int32: whose boundary a pixel is on, and near."""

    edge: Tensor
    near: Tensor


def _truth(target: Tensor, classes: int, width: int, theta0: int, theta: int) -> _Truth:
    label = target.long().view(len(target), 1, -1, width)
    words = torch.arange(triton.cdiv(classes, BITS.value), device=label.device)[:, None, None]
    bit = torch.ones_like(label) << label % BITS.value
    own = torch.where(label // BITS.value == words, bit, 0).to(torch.int32)
    around = pool(own, theta0, places=False)[0]
    others = ((around & ~own) != 0).any(1, keepdim=True)
    edge = torch.where(others, own, 0)
    return _Truth(edge, pool(edge, theta, places=False)[0])


def _images(
    logits: Tensor, target: Tensor, width: int, theta0: int, theta: int, grad: Tensor | None,
    g_logits: Tensor,
) -> Tensor:  # fmt: skip
    """F1 of some images, (N, C); where `grad` is given, that of the F1, the gradient of the logits
    is written."""
    n, classes, pixels = logits.shape
    dtype, language = common.compute_dtype(logits), common.language_dtype(logits)
    dealt = tiles(logits, 8)
    inverse = logits.new_empty(n, classes, pixels // width, width, dtype=dtype)
    common.launch(
        boundary_loss_fwd, dealt.programs, logits, *strides(logits), target, *target.stride(),
        inverse, NO_IGNORE, pixels, *dealt.sizes(), DTYPE=language, **dealt.constants(),
    )  # fmt: skip
    wanted = grad is not None
    b, outer = pool(inverse, theta0, wanted)
    b -= inverse
    e, inner = pool(b, theta, wanted)
    truth = _truth(target, classes, width, theta0, theta)
    words, chunks = truth.near.shape[1], triton.cdiv(pixels, CHUNK)
    partial = logits.new_empty(n, classes, chunks, 4, dtype=dtype)
    common.launch(
        boundary_loss_sums, n * classes * chunks, b, e, truth.near, truth.edge, partial, pixels,
        classes, words, chunks, DTYPE=language, CHUNK=CHUNK, BLOCK=common.BLOCK,
    )  # fmt: skip
    s = score(*partial.sum(2, dtype=torch.float64).unbind(-1))
    if not wanted:
        return s.f1
    programs = triton.cdiv(b.numel(), common.BLOCK)
    weights = torch.stack((s.by_hits, s.by_predicted, s.by_found), -1)
    weights = (grad[..., None] * weights).to(dtype)

    def slopes(near: Tensor, times: Tensor, out: Tensor, edge: bool) -> Tensor:
        common.launch(
            boundary_loss_slopes, programs, near, times, weights, out, b.numel(), pixels, classes,
            words, EDGE=edge, DTYPE=language, BLOCK=common.BLOCK,
        )  # fmt: skip
        return out

    found = slopes(truth.edge, b, torch.empty_like(b), edge=True)
    times = unpool(found, inner, theta, dtype)
    g_b = slopes(truth.near, times, b, edge=False)
    common.launch(
        boundary_loss_bwd, dealt.programs, logits, *strides(logits), g_b,
        unpool(g_b, outer, theta0, dtype), g_logits, *strides(g_logits), pixels, *dealt.sizes(),
        DTYPE=language, **dealt.constants(),
    )  # fmt: skip
    return s.f1


def _run(
    logits: Tensor, target: Tensor, width: int, theta0: int, theta: int, grad: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The losses (N, C) in float64, and the gradient that `grad`, of each, has at the logits."""
    n, classes, pixels = logits.shape
    g_logits = logits if grad is None else torch.empty_like(logits)
    f1 = logits.new_ones(n, classes, dtype=torch.float64)
    group = max(1, AT_ONCE // max(classes * pixels, 1))
    with torch.cuda.device_of(logits):
        for i in range(0, n if classes * pixels else 0, group):
            part = slice(i, i + group)
            f1[part] = _images(
                logits[part], target[part], width, theta0, theta,
                None if grad is None else -grad[part], g_logits[part],
            )  # fmt: skip
    return 1 - f1, g_logits


def _reduced(loss: Tensor, logits: Tensor, reduction: str, widen: bool) -> Tensor:
    dtype = common.result_dtype(logits, widen)
    if reduction == "none":
        return loss.to(dtype)
    total = loss.sum()
    return (total / max(loss.numel(), 1) if reduction == "mean" else total).to(dtype)


def forward(
    logits: Tensor, target: Tensor, width: int, theta0: int, theta: int, reduction: str,
    widen: bool,
) -> Tensor:  # fmt: skip
    loss, _ = _run(logits, target, width, theta0, theta, None)
    return _reduced(loss, logits, reduction, widen)


def _spread(grad: Tensor, logits: Tensor, reduction: str) -> Tensor:
    """The gradient of each loss, (N, C)."""
    n, classes, _ = logits.shape
    divisor = max(n * classes, 1) if reduction == "mean" else 1
    return (grad.double() / divisor).expand(n, classes)


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, width: int, theta0: int, theta: int,
    reduction: str, widen: bool, needs: int,
) -> Tensor:  # fmt: skip
    if not needs & 1:
        return logits.new_empty(0)
    incoming = _spread(grad, logits, reduction)
    return _run(logits, target, width, theta0, theta, incoming)[1]


def with_gradient(
    logits: Tensor, target: Tensor, width: int, theta0: int, theta: int, reduction: str,
    widen: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    one = logits.new_ones((), dtype=torch.float64)
    incoming = _spread(one, logits, reduction)
    loss, gradient = _run(logits, target, width, theta0, theta, incoming)
    return _reduced(loss, logits, reduction, widen), gradient


implement("boundary_loss", "triton", forward, helper="torch operations on the labels")
implement("boundary_loss_backward", "triton", backward, helper="torch operations on the labels")
implement(
    "boundary_loss_with_gradient", "triton", with_gradient, helper="torch operations on the labels"
)
