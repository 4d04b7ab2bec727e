"""Losses of aligned pairs of boxes: IoU, GIoU, DIoU, CIoU."""

from torch import Tensor

from .._library import register
from ..reference import box_loss as reference
from . import _arguments as check

_loss = register(
    "box_loss",
    "(Tensor pred, Tensor target, Tensor? weight, Tensor? avg_factor, str kind, str mode, "
    "float eps, float union_eps, float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("pred", "target", "weight"),
)


def box_loss(
    pred: Tensor,
    target: Tensor,
    *,
    kind: str = "giou",
    mode: str = "linear",
    eps: float = 1e-7,
    union_eps: float | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Loss of pairs (pred[i], target[i]) of boxes, weighted and reduced in one pass.

    Formulas, with intersection I, union U, hull H, its squared diagonal c^2 and the distance rho of
    the centres: "iou" :math:`f(\max(I/U, eps))` with f = 1 - x ("linear"), 1 - x^2 ("square"),
    -ln x ("log"); "giou" :math:`1 - I/U + (H-U)/H`; "diou" :math:`1 - I/U + \rho^2/c^2`; "ciou" is
    diou :math:`+ \alpha v` with the aspect term v, clamped to [0, 2]. How eps enters, edge rules
    and sources: `fastloss/reference/box_loss.py`.

    Args:
        pred: (*, 4), x1 y1 x2 y2, floating point. Inverted boxes count with negative area.
        target: (*, 4), likewise. Different floating dtypes are promoted to their common one.
        kind: "iou", "giou", "diou" or "ciou".
        mode: "linear", "square" or "log", for kind "iou" only.
        eps: Floor of IoU and hull area; added to c^2 and heights, >= 0.
        union_eps: Floor of the union (iou, giou) or what is added to it (diou, ciou); eps if None.
        weight: Broadcasts to (*).
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of
            boxes); nothing is added to it.

    Returns:
        A scalar, or (*) for "none", in the input's dtype (float32 for half inputs under autocast).
        0 for empty inputs. NaN for pairs with a coordinate that is not finite; finite, with finite
        gradient, for all proper boxes, and for inverted ones up to 1e9 (beyond, giou, diou and ciou
        divide their area by an empty hull's eps). Differentiable in pred, target and weight.

    Raises:
        TypeError: an argument is not a floating-point tensor, or not a number.
        ValueError: wrong shape, device, kind, mode or reduction, negative eps or avg_factor, or
            avg_factor with "sum".
    """
    check.choice("kind", kind, reference.KINDS)
    check.choice("mode", mode, reference.MODES if kind == "iou" else ("linear",))
    for name, boxes in (("pred", pred), ("target", target)):
        check.floating(name, boxes)
        if boxes.dim() == 0 or boxes.shape[-1] != 4:
            raise ValueError(f"{name} must have shape (*, 4), got {tuple(boxes.shape)}")
    check.tensor_on("target", target, "pred", pred)
    check.same_shape("target", target, "pred", pred)
    eps = check.at_least("eps", eps, 0)
    union_eps = eps if union_eps is None else check.at_least("union_eps", union_eps, 0)
    weight = check.weight_like(weight, pred.shape[:-1], "pred", pred)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "pred", pred)
    pred, target = check.promote(pred, target)
    widen = check.under_autocast(pred)
    return _loss(
        pred, target, weight, avg_factor, kind, mode, eps, union_eps, divisor, reduction, widen
    )
