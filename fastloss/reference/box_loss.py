r"""Losses of aligned pairs of boxes, pred and target of shape (*, 4) in xyxy.

    iou    f(max(iou, eps)),  f = 1 - x | 1 - x^2 | -ln x for mode linear | square | log
    giou, diou, ciou   1 - the similarity of that name
    eiou, siou         see `box_shape`

The similarities iou, giou, diou and ciou, their edge rules and sources: `box_similarity`.
Coordinates beyond 2^60 (float32; 2^500 float64) are scaled by a power of two s first, and eps with
s^2 or s, so that no product overflows. A pair with a coordinate that is not finite has loss and
gradient NaN. Places of eps: mmdet 3.3.0 `models/losses/iou_loss.py`.
"""

import torch
from torch import Tensor

from . import box_shape, box_similarity
from ._boxes import scaled
from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread

KINDS = (*box_similarity.KINDS, "eiou", "siou")
MODES = ("linear", "square", "log")


def _loss(
    p: Tensor, t: Tensor, s: Tensor, kind: str, mode: str, eps: float, union_eps: float,
    smooth_point: float, neg_gamma: bool,
) -> Tensor:  # fmt: skip
    """Unreduced loss (*) of boxes that were multiplied by s (*, 1)."""
    s = s.squeeze(-1)
    if kind == "eiou":
        return box_shape.eiou(p, t, s, union_eps, smooth_point)
    if kind == "siou":
        return box_shape.siou(p, t, s, eps, union_eps, neg_gamma)
    similarity = box_similarity.similarity(p, t, s, kind, eps, union_eps)
    if kind != "iou":
        return 1 - similarity
    iou = similarity.clamp(min=eps)
    return {"linear": 1 - iou, "square": 1 - iou * iou, "log": -iou.log()}[mode]


def _gradient(
    p: Tensor, t: Tensor, s: Tensor, kind: str, mode: str, eps: float, union_eps: float,
    smooth_point: float, neg_gamma: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Derivatives of `_loss` with respect to p and t, (*, 4) each."""
    s = s.squeeze(-1)
    if kind == "eiou":
        return box_shape.eiou_gradient(p, t, s, union_eps, smooth_point)
    if kind == "siou":
        return box_shape.siou_gradient(p, t, s, eps, union_eps, neg_gamma)
    slope = -torch.ones_like(s)
    if kind == "iou":
        similarity = box_similarity.similarity(p, t, s, kind, eps, union_eps)
        iou = similarity.clamp(min=eps)
        slope = {"linear": slope, "square": -2 * iou, "log": -1 / iou}[mode]
        slope = torch.where(similarity >= eps, slope, 0)
    g_p, g_t = box_similarity.gradient(p, t, s, kind, eps, union_eps)
    return slope[..., None] * g_p, slope[..., None] * g_t


def forward(
    pred: Tensor,  # (*, 4) xyxy
    target: Tensor,  # (*, 4) xyxy
    weight: Tensor | None,  # (*)
    avg_factor: Tensor | None,  # ()
    kind: str,
    mode: str,
    eps: float,
    union_eps: float,
    smooth_point: float,
    neg_gamma: bool,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (*) for "none", () otherwise."""
    options = (kind, mode, eps, union_eps, smooth_point, neg_gamma)
    dtype = compute_dtype(pred)
    p, t, s, poison = scaled(pred.to(dtype), target.to(dtype))
    loss = _loss(p, t, s, *options) + poison
    out = result_dtype(pred, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, loss.numel(), out)


def backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    kind: str,
    mode: str,
    eps: float,
    union_eps: float,
    smooth_point: float,
    neg_gamma: bool,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred, target and weight."""
    options = (kind, mode, eps, union_eps, smooth_point, neg_gamma)
    dtype = compute_dtype(pred)
    p, t, s, poison = scaled(pred.to(dtype), target.to(dtype))
    g = spread(grad, poison, avg_factor, divisor, reduction, poison.numel())
    g_weight = g * (_loss(p, t, s, *options) + poison) if needs & 4 else None
    g = (g if weight is None else g * weight.to(dtype))[..., None] * s + poison[..., None]
    g_pred, g_target = (g * part for part in _gradient(p, t, s, *options))
    weight_dtype = pred.dtype if weight is None else weight.dtype
    return gradients(
        needs, pred, (g_pred, pred.dtype), (g_target, target.dtype), (g_weight, weight_dtype)
    )
