r"""Binary losses per element with a modulating factor.

x is the input, t in [0, 1] the target, p = sigmoid(x) (p = x if `activated`, and for
gaussian_focal), q = 1 - p, bce = -(t ln p + (1 - t) ln q):

    focal                 a (q t + p (1 - t))^gamma bce,
                          a = alpha t + (1 - alpha)(1 - t), or 1 if alpha < 0
    quality_focal         |p - t|^gamma bce
    varifocal             t bce where t > 0 (bce if pos_weight is 0),
                          alpha |p - t|^gamma bce elsewhere
    gaussian_focal        -[t = 1] pos_weight q^alpha ln(p + e)
                          - neg_weight (1 - t)^gamma p^alpha ln(q + e),  e = 1e-12
    binary_cross_entropy  -(c t ln p + (1 - t) ln q),  c = class_weight of the last dimension;
                          t < 0 and t = ignore_index are ignored: value and gradient 0

The target is dense, of the input's shape (*, C), or holds class indices (*): t = [class = index],
times score (*) if given; index C is background, a row with ignore_index is ignored, any other index
is out of range: its row is NaN here (see `check` for CPU and debug mode).

Edge rules: ln of a given probability is floored at -100 as in torch; 0^0 = 1; the derivative of
|p - t| at 0 is 0; a negative power of m is taken of max(m, smallest normal number).

Sources: Lin et al. arXiv 1708.02002 (focal), Li et al. arXiv 2006.04388 (quality), Zhang et al.
arXiv 2008.13367 (varifocal), Law & Deng arXiv 1808.01244 (Gaussian); mmdet 3.3.0
`models/losses/{focal,gfocal,varifocal,gaussian_focal,cross_entropy}_loss.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread

KINDS = ("focal", "quality_focal", "varifocal", "gaussian_focal", "binary_cross_entropy")
EPS = 1e-12


def is_index(logits: Tensor, target: Tensor) -> bool:
    """Whether target holds class indices, one dimension less than the logits."""
    return target.dim() == logits.dim() - 1


def check(
    logits: Tensor,
    target: Tensor,
    score: Tensor | None,
    class_weight: Tensor | None,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    kind: str,
    activated: bool,
    alpha: float,
    gamma: float,
    pos_weight: float,
    neg_weight: float,
    ignore_index: int | None,
    *rest: object,
) -> None:
    """Raise IndexError for the first class index out of range; reads the target's values."""
    if not is_index(logits, target):
        return
    classes = logits.shape[-1]
    bad = (target < 0) | (target > classes)
    if ignore_index is not None:
        bad &= target != ignore_index
    position = bad.flatten().nonzero()
    if len(position):
        i = int(position[0])
        raise IndexError(
            f"target must hold class indices in [0, {classes}], {classes} meaning background; "
            f"got {int(target.flatten()[i])} at index {i}"
        )


def _dense(
    x: Tensor, target: Tensor, score: Tensor | None, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """t of shape (*, C), -1 where ignored and NaN where out of range, and [class = index]."""
    if not is_index(x, target):
        t = target.to(x.dtype)
        return (t if ignore_index is None else t.masked_fill(t == ignore_index, -1)), t.new_ones(())
    index = target[..., None]  # (*, 1)
    hot = (index == torch.arange(x.shape[-1], device=x.device)).to(x.dtype)  # (*, C)
    t = hot if score is None else hot * score.to(x.dtype)[..., None]
    t = t.masked_fill((index < 0) | (index > x.shape[-1]), torch.nan)
    return (t if ignore_index is None else t.masked_fill(index == ignore_index, -1)), hot


class _Input:
    """p, q, bce and their derivatives, from a logit or (activated) from a probability."""

    def __init__(self, x: Tensor, t: Tensor, activated: bool):
        if activated:
            self.p, self.q, self.dp = x, 1 - x, torch.ones_like(x)
            outside = torch.where((x >= 0) & (x <= 1), 0.0, torch.nan)
            # log of a positive number only: the gradient of a floored logarithm is taken as 0
            log_p = (x.clamp(min=torch.finfo(x.dtype).tiny).log()).clamp(min=-100)
            log_q = torch.where(x < 1, torch.log1p(-x.clamp(max=1 - 2.0**-53)), -100.0)
            log_p = torch.where(x > 0, log_p, -100.0)
            self.bce = -(t * log_p + (1 - t) * log_q) + outside
            self.bce_dt = log_q - log_p + outside
        else:
            self.p, self.q = x.sigmoid(), (-x).sigmoid()
            self.dp = self.p * self.q
            self.bce = -t * F.logsigmoid(x) - (1 - t) * F.logsigmoid(-x)
            self.bce_dt = -x
        self.residual = self.p * (1 - t) - self.q * t  # p - t without cancellation at p = t = 1
        self.bce_dx = self.residual
        if activated:
            self.bce_dx = self.residual / (self.p * self.q).clamp(min=EPS) + outside


def _slope(m: Tensor, gamma: float) -> Tensor:
    """Derivative of m^gamma, finite at 0."""
    if gamma == 0:
        return torch.zeros_like(m)
    return gamma * m.clamp(min=torch.finfo(m.dtype).tiny).pow(gamma - 1)


def _loss(x, t, c, kind, activated, alpha, gamma, pos_weight, neg_weight) -> Tensor:
    if kind == "gaussian_focal":
        positive = pos_weight * (t == 1).to(x.dtype) * (1 - x).pow(alpha) * (x + EPS).log()
        return -positive - neg_weight * (1 - t).pow(gamma) * x.pow(alpha) * (1 - x + EPS).log()
    if kind == "binary_cross_entropy":
        loss = -(1 - t) * F.logsigmoid(-x) - c * t * F.logsigmoid(x)
        return torch.where(t < 0, 0, loss)
    i = _Input(x, t, activated)
    if kind == "focal":
        a = 1 if alpha < 0 else alpha * t + (1 - alpha) * (1 - t)
        return a * (i.q * t + i.p * (1 - t)).pow(gamma) * i.bce
    modulation = i.residual.abs().pow(gamma)
    if kind == "varifocal":
        modulation = torch.where(t > 0, t if pos_weight else 1, alpha * modulation)
    return modulation * i.bce


def _gradient(
    x, t, c, kind, activated, alpha, gamma, pos_weight, neg_weight
) -> tuple[Tensor, Tensor]:
    """Derivatives of `_loss` with respect to x and t."""
    if kind == "gaussian_focal":
        q, log_p, log_q = 1 - x, (x + EPS).log(), (1 - x + EPS).log()
        positive = pos_weight * (t == 1).to(x.dtype)
        negative = neg_weight * (1 - t).pow(gamma)
        g_x = positive * (log_p * _slope(q, alpha) - q.pow(alpha) / (x + EPS))
        g_x = g_x + negative * (x.pow(alpha) / (q + EPS) - log_q * _slope(x, alpha))
        return g_x, neg_weight * _slope(1 - t, gamma) * log_q * x.pow(alpha)
    if kind == "binary_cross_entropy":
        g_x = (1 - t) * x.sigmoid() - c * t * (-x).sigmoid()
        g_t = F.logsigmoid(-x) - c * F.logsigmoid(x)
        return torch.where(t < 0, 0, g_x), torch.where(t < 0, 0, g_t)
    i = _Input(x, t, activated)
    if kind == "focal":
        a, da = (1, 0) if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t), 2 * alpha - 1)
        m = i.q * t + i.p * (1 - t)
        power, slope = m.pow(gamma), _slope(m, gamma)
        g_x = a * (slope * i.dp * (1 - 2 * t) * i.bce + power * i.bce_dx)
        g_t = da * power * i.bce + a * (slope * (i.q - i.p) * i.bce + power * i.bce_dt)
        return g_x, g_t
    m = i.residual.abs()
    factor, slope, factor_dt = m.pow(gamma), _slope(m, gamma) * i.residual.sign(), 0
    if kind == "varifocal":
        positive = t > 0
        factor = torch.where(positive, t if pos_weight else 1, alpha * factor)
        slope = torch.where(positive, 0, alpha * slope)
        factor_dt = positive.to(x.dtype) if pos_weight else 0
    g_x = slope * i.dp * i.bce + factor * i.bce_dx
    return g_x, (factor_dt - slope) * i.bce + factor * i.bce_dt


def _count(x: Tensor, kind: str, target: Tensor) -> int:
    """n of the mean: elements, but rows for quality_focal, whose loss is summed over classes."""
    if kind == "quality_focal" and x.dim():
        return x.numel() // max(x.shape[-1], 1)
    return x.numel()


def forward(
    logits: Tensor,  # (*, C), or any shape with a dense target
    target: Tensor,  # (*, C) dense, or (*) class indices
    score: Tensor | None,  # (*) target value at the class index
    class_weight: Tensor | None,  # (C)
    weight: Tensor | None,  # (*, C)
    avg_factor: Tensor | None,  # ()
    kind: str,
    activated: bool,
    alpha: float,
    gamma: float,
    pos_weight: float,
    neg_weight: float,
    ignore_index: int | None,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (*, C) for "none", () otherwise."""
    x = logits.to(compute_dtype(logits))
    t, _ = _dense(x, target, score, ignore_index)
    c = 1 if class_weight is None else class_weight.to(x.dtype)
    loss = _loss(x, t, c, kind, activated, alpha, gamma, pos_weight, neg_weight)
    out, count = result_dtype(logits, widen), _count(x, kind, target)
    return reduce(loss, weight, avg_factor, divisor, reduction, count, out)


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    score: Tensor | None,
    class_weight: Tensor | None,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    kind: str,
    activated: bool,
    alpha: float,
    gamma: float,
    pos_weight: float,
    neg_weight: float,
    ignore_index: int | None,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits, target (if dense), score and weight."""
    x = logits.to(compute_dtype(logits))
    t, hot = _dense(x, target, score, ignore_index)
    c = 1 if class_weight is None else class_weight.to(x.dtype)
    parameters = (c, kind, activated, alpha, gamma, pos_weight, neg_weight)
    g = spread(grad, x, avg_factor, divisor, reduction, _count(x, kind, target))
    g_weight = g * _loss(x, t, *parameters) if needs & 8 else None
    g = g if weight is None else g * weight.to(x.dtype)
    g_x, g_t = (g * part for part in _gradient(x, t, *parameters))
    index = is_index(logits, target)
    weight_dtype = logits.dtype if weight is None else weight.dtype
    return gradients(
        needs,
        logits,
        (g_x, logits.dtype),
        (None if index else g_t, target.dtype),
        (
            None if score is None else (g_t * hot).sum(-1),
            logits.dtype if score is None else score.dtype,
        ),
        (g_weight, weight_dtype),
    )
