r"""Boundary loss: one minus a differentiable F1 score of boundaries.

x (N, C, H, W) are logits, y (N, H, W) class indices. From a map m, which is softmax(x) over C or
the one-hot form of y, and with pool_k the maximum over a sliding k x k window (`boundary_pool`),

    b = pool_theta0(1 - m) - (1 - m)    the boundary: of a hard map, its pixels near another class
    e = pool_theta(b)                   the boundary made wider

For each image and class, with b, e of the prediction, b*, e* of the truth and eps = 1e-7,

    P = sum(b e*) / (sum(b) + eps),   R = sum(e b*) / (sum(b*) + eps)
    loss = 1 - F1,   F1 = 2 P R / (P + R + eps)

so that a class without a boundary in the truth has loss 1. 1 - p is taken in the precision of p:
probabilities that differ by less are ties, and of those the first pixel is the maximum. The
gradient goes through both pools to their maxima. A label out of range makes the loss of its image
NaN (see `check` for CPU and debug mode). An image without pixels has loss 0.

Sources: Bokhovkin and Burnaev, arXiv 1905.07852; geo-deep-learning `losses/boundary_loss.py`, after
github.com/yiskw713/boundary_loss_for_remote_sensing, which has no eps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread
from .boundary_pool import pool, unpool
from .segmentation_table import check_indices

EPS = 1e-7


def check(logits: Tensor, target: Tensor, *rest: object) -> None:
    """Raise IndexError for the first class index out of range; reads the target's values."""
    check_indices(target, logits.shape[1], None)


class Score(NamedTuple):
    """F1 and its derivatives by sum(b e*), sum(b) and sum(e b*), each (N, C)."""

    f1: Tensor
    by_hits: Tensor
    by_predicted: Tensor
    by_found: Tensor


def score(hits: Tensor, predicted: Tensor, found: Tensor, true: Tensor) -> Score:
    """From sum(b e*), sum(b), sum(e b*), sum(b*), each (N, C)."""
    precision, recall = hits / (predicted + EPS), found / (true + EPS)
    total = precision + recall + EPS
    by_precision = 2 * recall * (recall + EPS) / total.square()
    by_recall = 2 * precision * (precision + EPS) / total.square()
    by_hits = by_precision / (predicted + EPS)
    f1 = 2 * precision * recall / total
    return Score(f1, by_hits, -precision * by_hits, by_recall / (true + EPS))


class _Boundary(NamedTuple):
    """Each (N, C, H, W)."""

    b: Tensor
    outer: Tensor  # the places of the maxima of 1 - m
    e: Tensor
    places: Tensor  # those of the maxima of b


def _boundary(m: Tensor, theta0: int, theta: int) -> _Boundary:
    inverse = 1 - m
    outside, outer = pool(inverse, theta0)
    b = outside - inverse
    return _Boundary(b, outer, *pool(b, theta))


class _Maps(NamedTuple):
    p: Tensor  # (N, C, H, W)
    predicted: _Boundary
    true: _Boundary
    score: Score


def _maps(logits: Tensor, target: Tensor, width: int, theta0: int, theta: int) -> _Maps:
    n, classes, _ = logits.shape
    x = logits.to(compute_dtype(logits)).reshape(n, classes, -1, width)
    label = target.long().reshape(n, 1, -1, width)
    hot = label == torch.arange(classes, device=x.device)[:, None, None]
    p = x.masked_fill((label < 0) | (label >= classes), torch.nan).softmax(1)
    predicted, true = _boundary(p, theta0, theta), _boundary(hot.to(p.dtype), theta0, theta)

    def total(map: Tensor) -> Tensor:
        return map.sum((2, 3), dtype=torch.float64)

    sums = (predicted.b * true.e, predicted.b, predicted.e * true.b, true.b)
    return _Maps(p, predicted, true, score(*map(total, sums)))


def forward(
    logits: Tensor,  # (N, C, H * W)
    target: Tensor,  # (N, H * W)
    width: int,
    theta0: int,
    theta: int,
    reduction: str,
    widen: bool,
) -> Tensor:
    """(N, C) for reduction "none", else a scalar."""
    if logits.numel() == 0:
        values = logits.double().sum(2)
    else:
        values = 1 - _maps(logits, target, width, theta0, theta).score.f1
    dtype = result_dtype(logits, widen)
    return reduce(values, None, None, None, reduction, values.numel(), dtype)


def backward(
    grad: Tensor,  # (N, C) or scalar
    logits: Tensor,
    target: Tensor,
    width: int,
    theta0: int,
    theta: int,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradient to the logits."""
    if logits.numel() == 0 or not needs & 1:
        return [torch.empty_like(logits) if needs & 1 else logits.new_empty(0)]
    p, predicted, true, s = _maps(logits, target, width, theta0, theta)
    g = -spread(grad, s.f1, None, None, reduction, s.f1.numel())  # d result / d f1, (N, C)
    hits, every, found = (
        (g * slope)[..., None, None].to(p.dtype)
        for slope in (s.by_hits, s.by_predicted, s.by_found)
    )
    g_b = hits * true.e + every + unpool(found * true.b, predicted.places)
    g_p = g_b - unpool(g_b, predicted.outer)
    g_x = p * (g_p - (p * g_p).sum(1, keepdim=True))
    (result,) = gradients(needs, logits, (g_x.flatten(2), logits.dtype))
    return [torch.empty_like(logits).copy_(result)]  # in the layout of the logits
