r"""Several reduced regression losses of the same d = pred - target, both of any one shape.

    result_k = sum_i f_k(d_i) / (n if mean_k else 1),   n = max(number of elements, 1)

with f_k "l1", "smooth_l1" (of its own beta) or "mse" of `regression_loss`, which also has the
sources. The gradient of an element is sum_k grad_k / n_k f_k'(d_i).
"""

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread
from .regression_loss import derivative, value

KINDS = ("l1", "smooth_l1", "mse")


def _reduction(mean: int) -> str:
    return "mean" if mean else "sum"


def forward(
    pred: Tensor,  # (*)
    target: Tensor,  # (*)
    kinds: list[int],  # K indices in KINDS
    betas: list[float],  # K
    means: list[int],  # K, 1 for the mean
    widen: bool,
) -> Tensor:
    """(K,)."""
    dtype, out = compute_dtype(pred), result_dtype(pred, widen)
    d = pred.to(dtype) - target.to(dtype)
    results = [
        reduce(value(d, KINDS[kind], beta), None, None, None, _reduction(mean), d.numel(), out)
        for kind, beta, mean in zip(kinds, betas, means, strict=True)
    ]
    return torch.stack(results)


def backward(
    grad: Tensor,  # (K,)
    pred: Tensor,
    target: Tensor,
    kinds: list[int],
    betas: list[float],
    means: list[int],
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred and target."""
    dtype = compute_dtype(pred)
    d = pred.to(dtype) - target.to(dtype)
    slope = torch.zeros_like(d)
    for g, kind, beta, mean in zip(grad.unbind(), kinds, betas, means, strict=True):
        weight = spread(g, d, None, None, _reduction(mean), d.numel())
        slope = slope + weight * derivative(d, KINDS[kind], beta)
    return gradients(needs, pred, (slope, pred.dtype), (-slope, target.dtype))
