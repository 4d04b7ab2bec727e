"""Losses of aligned pairs of boxes: IoU, GIoU, DIoU, CIoU, EIoU, SIoU, bounded IoU."""

from torch import Tensor

from .._library import register
from ..reference import box_loss as reference
from . import _arguments as check
from .bounded_iou_loss import bounded_iou_loss

KINDS = (*reference.KINDS, "bounded_iou")

_loss = register(
    "box_loss",
    "(Tensor pred, Tensor target, Tensor? weight, Tensor? avg_factor, str kind, str mode, "
    "float eps, float union_eps, float smooth_point, bool neg_gamma, float? divisor, "
    "str reduction, bool widen)",
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
    smooth_point: float = 0.1,
    neg_gamma: bool = False,
    beta: float = 0.2,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Loss of pairs (pred[i], target[i]) of boxes, weighted and reduced in one pass.

    Formulas, with intersection I, union U, hull H, its squared diagonal c^2 and the distance rho of
    the centres: "iou" :math:`f(\max(I/U, eps))` with f = 1 - x ("linear"), 1 - x^2 ("square"),
    -ln x ("log"); "giou" :math:`1 - I/U + (H-U)/H`; "diou" :math:`1 - I/U + \rho^2/c^2`; "ciou" is
    diou :math:`+ \alpha v` with the aspect term v, clamped to [0, 2]; "eiou" smooth L1 of 1 - I/U
    with I continued below 0 for disjoint boxes; "siou" :math:`1 - I/U + (D + S)/2` with costs of
    angle and distance D and of shape S, clamped to [0, 2]; "bounded_iou" smooth L1 of 1 minus the
    score of each of centre x, centre y, width and height. How eps enters, edge rules and sources:
    `fastloss/reference/{box_loss,box_shape,bounded_iou_loss}.py`.

    Args:
        pred: (*, 4), x1 y1 x2 y2, floating point. Inverted boxes count with negative area.
        target: (*, 4), likewise. Different floating dtypes are promoted to their common one.
        kind: "iou", "giou", "diou", "ciou", "eiou", "siou" or "bounded_iou".
        mode: "linear", "square" or "log", for kind "iou" only.
        eps: Floor of IoU, hull area and, for siou, hull extents; added to c^2, heights, siou's
            offsets and bounded_iou's denominators, >= 0.
        union_eps: Floor of the union (iou, giou; 0: none) or what is added to it (diou, ciou, eiou,
            siou); eps if None.
        smooth_point: Where eiou turns from square to linear, > 0.
        neg_gamma: For siou: the distance cost grows with the distance, as in its paper; False has
            the sign of mmdet's default.
        beta: Where bounded_iou turns from square to linear, > 0.
        weight: Broadcasts to the unreduced loss.
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of
            boxes, for bounded_iou of coordinates); nothing is added to it.

    Returns:
        A scalar, or for "none" (*), for bounded_iou (*, 4), in the input's dtype (float32 for half
        inputs under autocast). 0 for empty inputs. NaN for pairs with a coordinate that is not
        finite; finite, with finite gradient, for all proper boxes (mode "log": if eps > 0), and for
        inverted ones up to 1e9 (beyond, giou, diou and ciou divide their area by an empty hull's
        eps). Differentiable in pred, weight and, except for bounded_iou, target.

    Raises:
        TypeError: an argument is not a floating-point tensor, or not a number.
        ValueError: wrong shape, device, kind, mode or reduction, negative eps or avg_factor,
            smooth_point or beta <= 0, or avg_factor with "sum".
    """
    check.choice("kind", kind, KINDS)
    check.choice("mode", mode, reference.MODES if kind == "iou" else ("linear",))
    for name, boxes in (("pred", pred), ("target", target)):
        check.floating(name, boxes)
        if boxes.dim() == 0 or boxes.shape[-1] != 4:
            raise ValueError(f"{name} must have shape (*, 4), got {tuple(boxes.shape)}")
    check.tensor_on("target", target, "pred", pred)
    check.same_shape("target", target, "pred", pred)
    eps = check.at_least("eps", eps, 0)
    union_eps = eps if union_eps is None else check.at_least("union_eps", union_eps, 0)
    smooth_point = check.at_least("smooth_point", smooth_point, 0, strict=True)
    neg_gamma = check.flag("neg_gamma", neg_gamma)
    beta = check.at_least("beta", beta, 0, strict=True)
    shape = pred.shape if kind == "bounded_iou" else pred.shape[:-1]
    weight = check.weight_like(weight, shape, "pred", pred)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "pred", pred)
    pred, target = check.promote(pred, target)
    rest = (divisor, reduction, check.under_autocast(pred))
    if kind == "bounded_iou":
        return bounded_iou_loss(pred, target.detach(), weight, avg_factor, beta, eps, *rest)
    options = (kind, mode, eps, union_eps, smooth_point, neg_gamma)
    return _loss(pred, target, weight, avg_factor, *options, *rest)
