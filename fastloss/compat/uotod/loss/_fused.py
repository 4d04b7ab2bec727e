"""What `fastloss.functional.matched_detection` knows of the modules of a DetectionLoss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastloss.compat.uotod._terms import NotFused, flatten, is_plain
from fastloss.compat.uotod.loss.boxes import GIoULoss, IoULoss
from fastloss.compat.uotod.loss.classification import NegativeProbLoss, SigmoidFocalLoss


def class_options(module: nn.Module) -> dict[str, Any]:
    """Options of `matched_detection` for a class loss; NotFused if there are none."""
    parts = flatten(module)
    if len(parts) != 1:
        raise NotFused(f"the class loss has {len(parts)} terms")
    [(weight, loss)] = parts
    options: dict[str, Any] = {"cls_weight": weight}
    if is_plain(loss, nn.CrossEntropyLoss):
        if loss.label_smoothing or loss.ignore_index >= 0:
            raise NotFused("CrossEntropyLoss has label_smoothing or an ignore_index")
        return {**options, "cls_loss": "cross_entropy", "class_weight": loss.weight}
    if is_plain(loss, NegativeProbLoss):
        return {**options, "cls_loss": "negative_prob"}
    if is_plain(loss, SigmoidFocalLoss):
        if loss.alpha > 1:
            raise NotFused(f"SigmoidFocalLoss has alpha {loss.alpha} > 1")
        focal = {"alpha": loss.alpha, "gamma": loss.gamma}
        return {**options, "cls_loss": "sigmoid_focal", **focal}
    raise NotFused(f"{type(loss).__name__} is not among the class losses known")


def box_options(module: nn.Module) -> dict[str, Any]:
    """Options of `matched_detection` for a box loss; NotFused if there are none."""
    options: dict[str, Any] = {"distance_weight": 0.0, "iou_weight": 0.0, "eps": 0.0}
    distances, ious = 0, 0
    for weight, loss in flatten(module):
        if is_plain(loss, IoULoss, GIoULoss):
            options.update(iou_kind=loss.kind, iou_weight=weight)
            ious += 1
            continue
        if is_plain(loss, nn.L1Loss):
            options.update(distance="l1")
        elif is_plain(loss, nn.SmoothL1Loss) and loss.beta > 0:
            options.update(distance="smooth_l1", beta=loss.beta)
        elif is_plain(loss, nn.MSELoss):
            options.update(distance="mse")
        else:
            raise NotFused(f"{type(loss).__name__} is not among the box losses known")
        options.update(distance_weight=weight)
        distances += 1
    if distances > 1 or ious > 1:
        raise NotFused("the box loss has several distances, or several kinds of IoU")
    return options


def indices(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Classes (B, T) of one-hot labels (B, T, C), C for those without a class and -1 for what is
    not one-hot, and whether each is (B, T)."""
    total = labels.sum(-1)
    one_hot = (labels * labels == labels).all(-1) & (total <= 1)
    index = torch.where(total == 0, labels.shape[-1], labels.argmax(-1))
    return torch.where(one_hot, index, -1), one_hot
