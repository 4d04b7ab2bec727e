"""Similarity of all pairs of boxes of two sets: IoU, GIoU, DIoU, CIoU."""

import torch
from torch import Tensor

from .._library import register
from ..reference import pairwise_iou as reference
from . import _arguments as check

_similarity = register(
    "pairwise_iou",
    "(Tensor boxes1, Tensor boxes2, str kind, float eps, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("boxes1", "boxes2"),
)


def pairwise_iou(boxes1: Tensor, boxes2: Tensor, *, kind: str = "iou", eps: float = 1e-7) -> Tensor:
    r"""Similarity of every box of one set with every box of another, batch by batch.

    Formulas, with intersection I, union U, hull H, its squared diagonal c^2 and the distance rho of
    the centres: "iou" :math:`I/U`; "giou" :math:`I/U - (H-U)/H`; "diou" :math:`I/U - \rho^2/c^2`;
    "ciou" is diou :math:`- \alpha v` with the aspect term v, clamped to [-1, 1]. The linear loss of
    `box_loss` is one minus this, but for the floor that it puts under IoU. No N x M tensor is made
    besides the result and its gradient (kernels keep sums of tiles, less than a third of one). How
    eps enters, edge rules and sources: `fastloss/reference/box_similarity.py`.

    Args:
        boxes1: (*, N, 4), x1 y1 x2 y2, floating point. Inverted boxes count with negative area.
        boxes2: (*, M, 4), likewise. Batch dimensions broadcast, so that one set of anchors (N, 4)
            goes with the targets (B, M, 4) of a batch. Different floating dtypes are promoted.
        kind: "iou", "giou", "diou" or "ciou".
        eps: Floor of union and hull area (iou, giou; 0: none) or what is added to union, c^2 and
            heights (diou, ciou), >= 0.

    Returns:
        (*, N, M) in the input's dtype (float32 for half inputs under autocast). NaN for pairs with
        a coordinate that is not finite; otherwise finite, as is the gradient, for all proper boxes
        (in float64 up to 1e150; beyond it may be NaN). Differentiable in both sets.

    Raises:
        TypeError: an argument is not a floating-point tensor, or eps not a number.
        ValueError: wrong shape, batch dimensions that do not broadcast, different devices, unknown
            kind or negative eps.
    """
    check.choice("kind", kind, reference.KINDS)
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        check.floating(name, boxes)
        if boxes.dim() < 2 or boxes.shape[-1] != 4:
            raise ValueError(f"{name} must have shape (*, N, 4), got {tuple(boxes.shape)}")
    check.tensor_on("boxes2", boxes2, "boxes1", boxes1)
    eps = check.at_least("eps", eps, 0)
    boxes1, boxes2 = check.promote(boxes1, boxes2)
    try:
        torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    except RuntimeError:
        raise ValueError(
            "boxes2 must have batch dimensions that broadcast with those of boxes1, "
            f"{tuple(boxes1.shape[:-2])}, got {tuple(boxes2.shape[:-2])}"
        ) from None
    return _similarity(boxes1, boxes2, kind, eps, check.under_autocast(boxes1))
