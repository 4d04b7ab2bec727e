"""Scores of given tensors (smp 0.6.0, losses/_functional.py)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Dims = int | Sequence[int] | None


def soft_jaccard_score(
    output: Tensor, target: Tensor, smooth: float = 0.0, eps: float = 1e-7, dims: Dims = None
) -> Tensor:
    """`soft_tversky_score` with alpha = beta = 1."""
    return soft_tversky_score(output, target, 1.0, 1.0, smooth, eps, dims)


def soft_dice_score(
    output: Tensor, target: Tensor, smooth: float = 0.0, eps: float = 1e-7, dims: Dims = None
) -> Tensor:
    """`soft_tversky_score` with alpha = beta = 1/2."""
    return soft_tversky_score(output, target, 0.5, 0.5, smooth, eps, dims)


def soft_tversky_score(
    output: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    smooth: float = 0.0,
    eps: float = 1e-7,
    dims: Dims = None,
) -> Tensor:
    """The score of `region` over the dimensions `dims` (None: all) of two tensors of one shape.

    AssertionError: the shapes differ.
    """
    if output.shape != target.shape:
        raise AssertionError(
            f"target must have the shape of output, {tuple(output.shape)}, "
            f"got {tuple(target.shape)}"
        )
    output_sum, target_sum = output.sum(dims), target.sum(dims)
    intersection = (output_sum + target_sum - (output - target).abs().sum(dims)) / 2
    wrong = alpha * (output_sum - intersection) + beta * (target_sum - intersection)
    return (intersection + smooth) / (intersection + wrong + smooth).clamp(min=eps)
