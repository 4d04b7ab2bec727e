"""Bounded IoU, the kind of `box_loss` with an op of its own."""

from .box_loss import cases_of

cases = cases_of(("bounded_iou",))
