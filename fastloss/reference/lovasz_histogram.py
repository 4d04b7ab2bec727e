r"""Lovász losses of errors that are only known to a bin: no sort.

The pixels, problems, kinds and edge rules are those of the reference `lovasz`. There a problem is
the integral of a Jaccard loss J over thresholds of the error; J is a function of counts, so two
histograms of a problem's errors are enough. With f and b positives and negatives in a bin, n all
positives, F- and B- the positives and negatives in the bins above it, F+ = F- + f, B+ = B- + b, and
U = n + B, a pixel of the bin has the slope

    positive   (1/U- + 1/U+) / 2
    negative   (n - (F- + F+) / 2) / (U- U+)

and value = sum over bins of mid (f positive + b negative), mid the middle of the bin. The slopes
are the mean of those of two orders, positives first and negatives first, negatives among themselves
in every order: they add up to J+ - J- and are a subgradient of the loss of the binned errors,
which differs from that of the errors by half a bin at most. Without a positive J is 1 from the
first bin on that has a pixel, whose pixels share the slope 1.

    softmax, probabilities   bins of equal width 1 / `bins` on [0, 1]
    hinge                    2^m >= `bins` / 32 bins of equal width in every octave of float32; one
                             for errors that are 0 or less. A target above 1/2 is a 1.

So the value is within 1 / (2 `bins`) of the exact one for probabilities in [0, 1]; that of hinge
has a relative error of 16 / `bins` at most, or is inf for an error beyond float32. A NaN error has
a bin of its own, above all others, whose middle is NaN.

Source: the Lovász extension as a Choquet integral, Bach arXiv 1111.6453, section 3; the losses are
those of Berman et al. arXiv 1705.08790.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import lovasz as exact
from ._reduce import gradients, reduce, result_dtype, spread

Classes = Sequence[int] | None


def check(*arguments: object) -> None:
    """As of the reference `lovasz`."""
    exact.check(*arguments)


def octave_bits(bins: int) -> int:
    """The m of hinge."""
    return (max(1, (bins + 31) // 32) - 1).bit_length()


def count_of(kind: str, bins: int) -> int:
    """The number of bins, without that of NaN; hinge: up to that of +inf."""
    return (255 << octave_bits(bins)) + 1 if kind == "hinge" else bins


def middles(kind: str, bins: int, device: torch.device) -> Tensor:
    """The middle of every bin and NaN, (K + 1), float64."""
    count = count_of(kind, bins)
    k = torch.arange(count + 1, device=device)
    if kind == "hinge":
        edges = (k << (23 - octave_bits(bins))).int().view(torch.float32).double()
        edges[count - 1] = 2.0**128  # where the numbers of float32 end
        mid = (edges[:-1] + edges[1:]) / 2
        mid = torch.where(k[:-1] == 0, 0, torch.where(k[:-1] == count - 1, torch.inf, mid))
    else:
        mid = (k[:-1].double() + 0.5) / bins
    return torch.cat((mid.double(), mid.new_full((1,), torch.nan, dtype=torch.float64)))


def _bin(error: Tensor, kind: str, bins: int) -> Tensor:
    """The bin of every error; NaN: the last one."""
    count = count_of(kind, bins)
    if kind == "hinge":
        k = error.clamp(min=0).float().contiguous().view(torch.int32) >> (23 - octave_bits(bins))
        k = k.long()
    else:
        k = (error * bins).nan_to_num(0).clamp(0, bins - 1).long()
    return torch.where(error.isnan(), count, k.clamp(0, count - 1))


class Slopes(NamedTuple):
    """Of every bin (G, C, K + 1), float64."""

    positive: Tensor
    negative: Tensor


def slopes(positives: Tensor, negatives: Tensor) -> Slopes:
    """From the counts in every bin (G, C, K + 1), any integer dtype, errors ascending."""

    def with_above(counts: Tensor) -> tuple[Tensor, Tensor]:
        upto = counts.long().flip(-1).cumsum(-1).flip(-1)
        return (upto - counts).double(), upto.double()

    f_above, f_upto = with_above(positives)
    b_above, b_upto = with_above(negatives)
    n = f_upto[..., :1]
    u_above, u_upto = n + b_above, n + b_upto
    empty = n == 0
    first = torch.where((b_above == 0) & (negatives > 0), 1 / negatives.double().clamp(min=1), 0)
    u_above, u_upto = u_above.clamp(min=1), u_upto.clamp(min=1)  # for no positives, see `first`
    positive = (1 / u_above + 1 / u_upto) / 2
    negative = (n - (f_above + f_upto) / 2) / (u_above * u_upto)
    return Slopes(torch.where(empty, 0, positive), torch.where(empty, first, negative))


def values(counts: Tensor, s: Slopes, middle: Tensor) -> Tensor:
    """The values of all problems, (G, C), from their counts (2, G, C, K + 1)."""
    mass = counts[1] * s.positive + counts[0] * s.negative
    return torch.where(mass == 0, 0, mass * middle).sum(-1)


class _Bins(NamedTuple):
    pixels: exact.Pixels
    hot: Tensor  # (N, C, P) bool: positive
    k: Tensor  # (N, C, P) bins
    counts: Tensor  # (2, G, C, K + 1): negatives and positives


def _bins(
    logits: Tensor, target: Tensor, kind: str, per_image: bool, ignore_index: int | None,
    strict: bool, bins: int,
) -> _Bins:  # fmt: skip
    pixels = exact.pixels(logits, target, kind, ignore_index, strict, hard=True)
    n, c, _ = pixels.error.shape
    k, size = _bin(pixels.error, kind, bins), count_of(kind, bins) + 1
    hot = (pixels.t > 0.5) | pixels.t.isnan()  # of a label out of range
    groups = n if per_image else 1
    image = torch.arange(n, device=k.device)[:, None, None] * per_image
    group = image * c + torch.arange(c, device=k.device)[:, None]
    at = (hot * (groups * c) + group) * size + k
    counts = torch.zeros(2 * groups * c * size, dtype=torch.int64, device=k.device)
    counted = pixels.valid.expand_as(k).reshape(-1).long()
    counts = counts.scatter_add(0, at.reshape(-1), counted).view(2, groups, c, size)
    return _Bins(pixels, hot, k, counts)


def _of_pixels(b: _Bins, s: Slopes) -> Tensor:
    """The slope of every pixel and class, (N, C, P)."""
    positive, negative = (table.expand(len(b.k), -1, -1).gather(-1, b.k) for table in s)
    return torch.where(b.hot, positive, negative)


def forward(
    logits: Tensor,  # (N, C, P); (N, 1, P) for hinge
    target: Tensor,  # (N, P)
    kind: str,
    present: bool,
    classes: Classes,
    per_image: bool,
    ignore_index: int | None,
    strict: bool,
    bins: int,
    reduction: str,
    widen: bool,
) -> Tensor:
    """(G,) for reduction "none", else a scalar."""
    b = _bins(logits, target, kind, per_image, ignore_index, strict, bins)
    s = slopes(b.counts[1], b.counts[0])
    result = values(b.counts, s, middles(kind, bins, b.k.device))
    if logits.requires_grad:  # its derivative, which a count has not
        error = torch.where(b.pixels.error.isfinite(), b.pixels.error, 0).relu()
        part = _of_pixels(b, s) * (error - error.detach())
        part = part.sum(-1) if per_image else part.sum((0, 2))[None]
        result = result + part
    if kind != "hinge":
        factor = exact.class_factors(b.counts[1].sum(-1) > 0, present, classes)
        result = torch.where(factor == 0, 0, result * factor)
    result = result.sum(-1)
    return reduce(result, None, None, None, reduction, len(result), result_dtype(logits, widen))


def backward(
    grad: Tensor,  # (G,) or scalar
    logits: Tensor,
    target: Tensor,
    kind: str,
    present: bool,
    classes: Classes,
    per_image: bool,
    ignore_index: int | None,
    strict: bool,
    bins: int,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradient to the logits."""
    b = _bins(logits, target, kind, per_image, ignore_index, strict, bins)
    s = slopes(b.counts[1], b.counts[0])
    groups = b.counts.shape[1]
    g = spread(grad, s.positive.new_empty(groups), None, None, reduction, groups)[:, None]
    if kind != "hinge":
        g = g * exact.class_factors(b.counts[1].sum(-1) > 0, present, classes)
    s = Slopes(*(torch.where(g[..., None] == 0, 0, g[..., None] * table) for table in s))
    g_x = exact.through_error(b.pixels, _of_pixels(b, s).to(b.pixels.x.dtype), kind)
    (result,) = gradients(needs, logits, (g_x, logits.dtype))
    return [torch.empty_like(logits).copy_(result)] if needs & 1 else [result]
