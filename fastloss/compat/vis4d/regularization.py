"""OrthogonalTransformRegularizationLoss (vis4d 1.0.0, op/loss/orthogonal_transform_loss.py)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastloss.compat.vis4d.base import Loss


class OrthogonalTransformRegularizationLoss(Loss):
    """How far linear maps are from orthogonal: the mean over N of ||X X^T - I|| (Frobenius) of
    every batch X (N, d, e), summed over the list.

    Args:
        reducer: kept, but not used, as upstream.

    Call: ``loss(transforms)`` -> scalar, of a list of batches (N, d, e) with any d and e. float64
    stays float64, half precision gives float32. The gradient at an orthogonal matrix is 0. A batch
    of no matrices gives NaN, no batches ``tensor(0.)``.

    Departures: the result is on the device of the batches and in their precision (upstream: float32
    on the CPU, which fails for batches on a GPU), and no buffers are made.
    """

    def forward(self, transforms: Sequence[Tensor]) -> Tensor:
        """List of (N, d, e) -> scalar."""
        losses = [_departure(x) for x in transforms]
        return functools.reduce(torch.add, losses) if losses else torch.tensor(0.0)


def _departure(x: Tensor) -> Tensor:
    """(N, d, e) -> scalar."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    with torch.autocast(x.device.type, enabled=False):
        gram = torch.bmm(x, x.mT)  # (N, d, d)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.vector_norm(gram - identity, dim=(1, 2)).mean()
