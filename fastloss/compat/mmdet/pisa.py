"""isr_p and carl_loss (mmdet 3.3.0, losses/pisa_loss.py): PISA, https://arxiv.org/abs/1904.04821.

Positives are the rows whose label is in [0, num_class). mmdet selects them, and loops over classes
and objects, which reads labels on the host; here they are sorted, or the other rows count 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastloss import functional
from fastloss._library import values_may_be_read
from fastloss.reference._reduce import compute_dtype

IOU_EPS = 1e-6  # of mmdet's bbox_overlaps


def isr_p(
    cls_score: Tensor,
    bbox_pred: Tensor,
    bbox_targets: tuple[Tensor, Tensor, Tensor, Tensor],
    rois: Tensor,
    sampling_results: Sequence[Any],
    loss_cls: Callable[..., Tensor],
    bbox_coder: Any,
    k: float = 2,
    bias: float = 0,
    num_class: int = 80,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Importance-based sample reweighting: new label weights for the positives.

    The positives of an object and class are ranked by the IoU of their decoded prediction with
    their target, those of a class by this rank and then by IoU: r = 0, 1, ... With n the size of
    the largest class, a label weight w becomes s (bias + (1 - bias) w (n - r) / n)^k, where s keeps
    the sum of the classification losses of all positives. Of equal IoUs the first row comes first.

    Args:
        cls_score: scores (N, C), whatever `loss_cls` takes.
        bbox_pred: box deltas (N, 4), or (N, 4 C) for each class its own.
        bbox_targets: labels (N,), label weights (N,), targets of the deltas (N, 4), their weights.
        rois: boxes (N, 4), or (N, 5) with the image first.
        sampling_results: for each image an object whose ``pos_assigned_gt_inds`` (n_i,) are the
            objects of its positives, in the order of the rows. (As in mmdet image i + 1 begins to
            count where the numbers of image i alone end.)
        loss_cls: ``loss_cls(scores, labels, reduction_override="none")`` -> (P,) or (P, *).
        bbox_coder: ``bbox_coder.decode(rois (P, 4), deltas (P, 4))`` -> boxes (P, 4) xyxy.
        k, bias: exponent and least weight.
        num_class: number of classes.

    Returns:
        bbox_targets with other label weights, in a new tensor (mmdet writes to the given one); as
        they are if no image has positives. No gradient to cls_score and bbox_pred.

    AssertionError: other than sum n_i positives, where labels may be read without waiting (on the
    CPU, and in debug mode); elsewhere the label weights are NaN then.
    """
    labels, label_weights, delta_targets, delta_weights = bbox_targets
    is_positive = (labels >= 0) & (labels < num_class)
    objects = [result.pos_assigned_gt_inds for result in sampling_results]
    count = sum(map(len, objects))
    if values_may_be_read(labels):
        found = int(is_positive.sum())
        if found not in (0, count):
            raise AssertionError(f"sampling_results have {count} positives, labels {found}")
        count = found
    if count == 0:
        return labels, label_weights, delta_targets, delta_weights

    rows = is_positive.logical_not().sort(stable=True).indices[:count]  # (P,)
    classes = labels[rows].clamp(0, num_class - 1)
    boxes = rois[rows, 1:] if rois.shape[-1] == 5 else rois[rows]
    deltas = bbox_pred.detach()
    if deltas.shape[-1] > 4:
        deltas = deltas.reshape(len(deltas), -1, 4)[rows, classes]
    else:
        deltas = deltas[rows]
    predicted = bbox_coder.decode(boxes, deltas)
    wanted = bbox_coder.decode(boxes, delta_targets[rows].view(-1, 4))
    iou = functional.pairwise_iou(predicted[:, None], wanted[:, None], eps=IOU_EPS).flatten()

    weights = label_weights[rows]
    factor = _importance(iou.detach(), classes, _numbered(objects))
    new = (bias + weights * factor * (1 - bias)).pow(k)
    losses = loss_cls(cls_score.detach()[rows], classes, reduction_override="none")  # (P, *)
    shape = (-1, *[1] * (losses.dim() - 1))
    scale = (losses * weights.view(shape)).sum() / (losses * new.view(shape)).sum()
    scale = torch.where(is_positive.sum() == count, scale, torch.nan)
    label_weights = label_weights.index_copy(0, rows, new * scale)
    return labels, label_weights, delta_targets, delta_weights


def _numbered(objects: list[Tensor]) -> Tensor:
    """The objects (P,) of all positives, told apart as mmdet does."""
    first: int | Tensor = 0
    numbered = []
    for of_image in objects:
        numbered.append(of_image + first)
        if len(of_image):
            first = of_image.max() + 1
    return torch.cat(numbered)


def _importance(iou: Tensor, classes: Tensor, objects: Tensor) -> Tensor:
    """(n - r) / n of IoUs, classes and objects, (P,) each -> (P,) float32."""
    largest = _rank(classes, classes).max() + 1  # any order within a class counts it
    in_object = _rank(iou, classes * 2**32 + objects)
    in_class = _rank(iou + (largest - in_object.float()), classes)
    return (largest - in_class.float()) / largest


def _rank(values: Tensor, groups: Tensor) -> Tensor:
    """How many values of its group come before each in descending order, (P,), (P,) -> (P,)."""
    order = values.sort(descending=True, stable=True).indices
    order = order[groups[order].sort(stable=True).indices]
    place = torch.arange(len(order), device=order.device)
    ordered = groups[order]
    first = torch.where(ordered.roll(1) != ordered, place, 0).cummax(0).values  # place 0 if alone
    return torch.empty_like(order).scatter_(0, order, place - first)


def carl_loss(
    cls_score: Tensor,
    labels: Tensor,
    bbox_pred: Tensor,
    bbox_targets: Tensor,
    loss_bbox: Callable[..., Tensor],
    k: float = 1,
    bias: float = 0.2,
    avg_factor: float | Tensor | None = None,
    sigmoid: bool = False,
    num_class: int = 80,
) -> dict[str, Tensor]:
    """Classification-aware regression loss: the box loss of positives, weighted by their scores.

    With p the score of a positive's class, its weight is (bias + (1 - bias) p)^k, scaled so that
    the weights of the positives have a mean of 1.

    Args:
        cls_score: logits (N, C).
        labels: (N,).
        bbox_pred: box deltas (N, 4), or (N, 4 C) for each class its own.
        bbox_targets: their targets (N, 4).
        loss_bbox: ``loss_bbox(pred, target, reduction_override="none")`` of (N, 4), row by row; it
            gets zeros in place of the rows that are no positives. A loss per row, (N,), instead of
            (N, 4), makes every weight meet every loss, as in mmdet: sum(loss) sum(weight).
        k, bias: exponent and least weight.
        avg_factor: divisor, N if not given.
        sigmoid: p is a sigmoid, not a softmax.
        num_class: number of classes.

    Returns:
        ``{"loss_carl": (1,)}``, differentiable in cls_score and bbox_pred; 0 without positives.
        Inputs in half precision are computed with, and the result is, in float32.
    """
    rows = len(labels)
    floats = (cls_score, bbox_pred, bbox_targets)
    cls_score, bbox_pred, bbox_targets = (x.to(compute_dtype(x)) for x in floats)
    if rows == 0:
        return {"loss_carl": cls_score.sum()[None] * 0.0}
    positive = ((labels >= 0) & (labels < num_class))[:, None]  # (N, 1)
    classes = torch.where(positive[:, 0], labels, 0)[:, None]  # (N, 1)

    # Values of other rows are replaced before they are used: what they hold, NaN too, reaches
    # neither the loss nor a gradient.
    if sigmoid:
        scores = torch.where(positive, cls_score.gather(1, classes), 0).sigmoid()
    else:
        scores = torch.where(positive, cls_score, 0).softmax(-1).gather(1, classes)
    weights = torch.where(positive, (bias + (1 - bias) * scores).pow(k), 0)  # (N, 1)
    count = positive.sum()
    total = torch.where(count > 0, weights.sum(), 1)
    weights = weights * (count / total)

    if bbox_pred.shape[-1] > 4:
        bbox_pred = bbox_pred.reshape(rows, -1, 4)
        bbox_pred = bbox_pred.gather(1, classes[:, :, None].expand(-1, 1, 4))[:, 0]
    losses = loss_bbox(
        torch.where(positive, bbox_pred, 0),
        torch.where(positive, bbox_targets, 0),
        reduction_override="none",
    )
    losses = losses / (rows if avg_factor is None else avg_factor)
    if losses.dim() == 1:
        loss = torch.where(positive[:, 0], losses, 0).sum() * weights.sum()
    else:
        loss = (torch.where(positive, losses, 0) * weights).sum()
    return {"loss_carl": loss[None]}
