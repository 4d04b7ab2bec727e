r"""What online hard example mining (OHEM) needs of every pixel: probability and cross entropy.

x (N, C, P) are logits, y (N, P) class indices, p = softmax(x) over C. The result (2, N, P) is

    0: p_y     1: -ln p_y

in the dtype the kernels compute in. The probability stands for the state of the pixel too: -1 where
it is NaN or y is out of range, so that it is the hardest of all and NaN reaches the loss; 2 where
y = ignore_index, and -ln p is 0 there. Probabilities below twice the smallest normal number are 0.
They are e^(x_y - max) over the sum of these, so that equal logits have p = 1 / C rounded once.

Only -ln p has a gradient: `cross_entropy` gives it, 0 at pixels where the incoming one is 0.
"""

from typing import Any

import torch
from torch import Tensor

from . import cross_entropy
from ._reduce import compute_dtype
from .segmentation_table import check_indices

IGNORED, HARDEST = 2.0, -1.0


def _nll(ignore_index: int | None) -> tuple[Any, ...]:
    """The arguments of `cross_entropy` that make it -ln p, after logits and target."""
    return None, None, None, ignore_index, 0.0, None, "none", True


def check(logits: Tensor, target: Tensor, ignore_index: int | None) -> None:
    """Raise IndexError for the first class index out of range; reads the target's values."""
    check_indices(target, logits.shape[1], ignore_index)


def forward(
    logits: Tensor,  # (N, C, P)
    target: Tensor,  # (N, P)
    ignore_index: int | None,
) -> Tensor:
    """(2, N, P)"""
    nll = cross_entropy.forward(logits, target, *_nll(ignore_index))
    x, label = logits.detach().to(compute_dtype(logits)), target.long()
    inside = (label >= 0) & (label < x.shape[1])
    p = x.softmax(1).gather(1, torch.where(inside, label, 0)[:, None])[:, 0]
    p = torch.where(p < 2 * torch.finfo(p.dtype).tiny, 0, p)
    p = torch.where(inside & ~p.isnan(), p, HARDEST)
    if ignore_index is not None:
        p = torch.where(label == ignore_index, IGNORED, p)
    return torch.stack((p, nll))


def backward(
    grad: Tensor,  # (2, N, P)
    logits: Tensor,
    target: Tensor,
    ignore_index: int | None,
    needs: int,
) -> list[Tensor]:
    """Gradient to the logits."""
    return cross_entropy.backward(grad[1], logits, target, *_nll(ignore_index), needs)[:1]
