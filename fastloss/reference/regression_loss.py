r"""Element-wise regression losses of d = pred - target, both of any one shape.

    l1          |d|
    smooth_l1   d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere
    mse         d^2

The derivative of |d| is 0 at 0 and NaN at NaN. Weights and reduction: `_reduce`.
Sources: Girshick, Fast R-CNN, arXiv 1504.08083 (smooth L1); mmdet 3.3.0
`models/losses/smooth_l1_loss.py` and `mse_loss.py`.
"""

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread

KINDS = ("l1", "smooth_l1", "mse")


def _loss(d: Tensor, kind: str, beta: float) -> Tensor:
    if kind == "mse":
        return d * d
    a = d.abs()
    if kind == "l1":
        return a
    return torch.where(a < beta, 0.5 * a * a / beta, a - 0.5 * beta)


def _sign(d: Tensor) -> Tensor:
    """torch.sign, but NaN for NaN."""
    return torch.where(d.isnan(), d, d.sign())


def _derivative(d: Tensor, kind: str, beta: float) -> Tensor:
    if kind == "mse":
        return 2 * d
    if kind == "l1":
        return _sign(d)
    return torch.where(d.abs() < beta, d / beta, _sign(d))


def forward(
    pred: Tensor,  # (*)
    target: Tensor,  # (*)
    weight: Tensor | None,  # (*)
    avg_factor: Tensor | None,  # ()
    kind: str,
    beta: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (*) for "none", () otherwise."""
    dtype = compute_dtype(pred)
    loss = _loss(pred.to(dtype) - target.to(dtype), kind, beta)
    out = result_dtype(pred, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, loss.numel(), out)


def backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    kind: str,
    beta: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred, target and weight."""
    dtype = compute_dtype(pred)
    d = pred.to(dtype) - target.to(dtype)
    g = spread(grad, d, avg_factor, divisor, reduction, d.numel())
    g_pred = _derivative(d, kind, beta) * (g if weight is None else g * weight.to(dtype))
    g_weight = g * _loss(d, kind, beta) if needs & 4 else None
    weight_dtype = pred.dtype if weight is None else weight.dtype
    return gradients(
        needs, pred, (g_pred, pred.dtype), (-g_pred, target.dtype), (g_weight, weight_dtype)
    )
