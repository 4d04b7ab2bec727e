r"""Element-wise regression losses of d = pred - target, both of any one shape.

    l1          |d|
    smooth_l1   d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere
    mse         d^2
    balanced_l1 alpha / b (b |d| + 1) ln(b |d| / beta + 1) - alpha |d|  where |d| < beta,
                gamma |d| + gamma / b - alpha beta  elsewhere,  b = e^(gamma / alpha) - 1

The derivative of |d| is 0 at 0 and NaN at NaN. Weights and reduction: `_reduce`.
Sources: Girshick, Fast R-CNN, arXiv 1504.08083 (smooth L1); Pang et al. arXiv 1904.02701 (balanced
L1); mmdet 3.3.0 `models/losses/{smooth_l1,mse,balanced_l1}_loss.py`.
"""

import math

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread

KINDS = ("l1", "smooth_l1", "mse", "balanced_l1")


def value(d: Tensor, kind: str, beta: float, alpha: float = 0.5, gamma: float = 1.5) -> Tensor:
    """Loss of differences."""
    if kind == "mse":
        return d * d
    a = d.abs()
    if kind == "l1":
        return a
    if kind == "balanced_l1":
        b = math.expm1(gamma / alpha)
        x = b * a.clamp(max=beta)  # finite in the branch that is not taken
        near = alpha / b * (x + 1) * torch.log1p(x / beta) - alpha * a
        return torch.where(a < beta, near, gamma * a + (gamma / b - alpha * beta))
    return torch.where(a < beta, 0.5 * a * a / beta, a - 0.5 * beta)


def _sign(d: Tensor) -> Tensor:
    """torch.sign, but NaN for NaN."""
    return torch.where(d.isnan(), d, d.sign())


def derivative(d: Tensor, kind: str, beta: float, alpha: float = 0.5, gamma: float = 1.5) -> Tensor:
    """Derivative of `value` with respect to the differences."""
    if kind == "mse":
        return 2 * d
    if kind == "l1":
        return _sign(d)
    if kind == "balanced_l1":
        x = math.expm1(gamma / alpha) * d.abs().clamp(max=beta)
        near = alpha * (torch.log1p(x / beta) + (1 - beta) / (x + beta))
        return _sign(d) * torch.where(d.abs() < beta, near, gamma)
    return torch.where(d.abs() < beta, d / beta, _sign(d))


def forward(
    pred: Tensor,  # (*)
    target: Tensor,  # (*)
    weight: Tensor | None,  # (*)
    avg_factor: Tensor | None,  # ()
    kind: str,
    beta: float,
    alpha: float,
    gamma: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (*) for "none", () otherwise."""
    dtype = compute_dtype(pred)
    loss = value(pred.to(dtype) - target.to(dtype), kind, beta, alpha, gamma)
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
    alpha: float,
    gamma: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred, target and weight."""
    dtype = compute_dtype(pred)
    d = pred.to(dtype) - target.to(dtype)
    g = spread(grad, d, avg_factor, divisor, reduction, d.numel())
    g_pred = derivative(d, kind, beta, alpha, gamma) * (
        g if weight is None else g * weight.to(dtype)
    )
    g_weight = g * value(d, kind, beta, alpha, gamma) if needs & 4 else None
    weight_dtype = pred.dtype if weight is None else weight.dtype
    return gradients(
        needs, pred, (g_pred, pred.dtype), (-g_pred, target.dtype), (g_weight, weight_dtype)
    )
