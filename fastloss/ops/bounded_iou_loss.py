"""The bounded IoU loss: the kind of `box_loss` with a value per coordinate."""

from .._library import register
from ..reference import bounded_iou_loss as reference

bounded_iou_loss = register(
    "bounded_iou_loss",
    "(Tensor pred, Tensor target, Tensor? weight, Tensor? avg_factor, float beta, float eps, "
    "float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("pred", "weight"),
)
