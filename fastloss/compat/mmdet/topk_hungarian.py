"""TopkHungarianAssigner, which DDQAuxLoss assigns targets with, for a whole batch at once.

Source: mmdet 3.3.0, task_modules/assigners/{topk_hungarian_assigner,match_cost}.py.

Shapes: B images, P predictions, C classes, M targets of the image that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastloss import functional
from fastloss.compat.mmdet.registry import Registry

IOU_EPS = 1e-6  # of mmdet's bbox_overlaps
ASSIGNERS = Registry("assigner")
COSTS = Registry("match cost")
IOU_CALCULATOR = {"type": "BboxOverlaps2D"}
CLS_COST = {"type": "FocalLossCost", "weight": 2.0}
REG_COST = {"type": "BBoxL1Cost", "weight": 5.0}
IOU_COST = {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0}


class Targets(NamedTuple):
    """The targets of a batch; the rest is padding."""

    boxes: Tensor  # (B, M, 4) xyxy, in pixels
    labels: Tensor  # (B, M) int64, 0 for padding
    real: Tensor  # (B, M) bool
    size: Tensor  # (B, 1, 4): width, height, width, height of the image


def padded(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], metas: Sequence[dict], like: Tensor
) -> Targets:
    """Of boxes (m_i, 4), labels (m_i,) and ``meta["img_shape"]`` (height, width) of each image."""
    sizes = [meta["img_shape"] for meta in metas]
    rows = [(w, h, w, h, len(label)) for (h, w), label in zip(sizes, labels, strict=True)]
    numbers = torch.tensor(rows, dtype=torch.float64).to(like.device, non_blocking=True)
    padded_labels = pad_sequence([label.long() for label in labels], batch_first=True)
    place = torch.arange(padded_labels.shape[1], device=like.device)
    return Targets(
        pad_sequence([box.reshape(-1, 4).to(like.dtype) for box in boxes], batch_first=True),
        padded_labels,
        place < numbers[:, 4:],
        numbers[:, None, :4].to(like.dtype),
    )


class Assignment(NamedTuple):
    """What each target has been assigned, up to K predictions."""

    rows: Tensor  # (B, K, M) int64: predictions, -1 for none
    metrics: Tensor  # (B, K, M): score * IoU^6, of any value where rows is -1
    overlaps: Tensor  # (B, K, M): IoU, likewise


@COSTS.register_module()
class FocalLossCost:
    """alpha (1 - p)^gamma (-ln(p + eps)) - (1 - alpha) p^gamma (-ln(1 - p + eps)), times weight;
    p is the sigmoid of the score of the target's class, though the scores are probabilities."""

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2,
        eps: float = 1e-12,
        binary_input: bool = False,
        weight: float = 1.0,
    ) -> None:
        if binary_input:
            raise ValueError("binary_input must be False: masks are not assigned")
        self.alpha, self.gamma, self.eps, self.weight = alpha, gamma, eps, weight

    def __call__(self, scores: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        p = of_labels(scores, targets.labels).sigmoid()
        negative = -(1 - p + self.eps).log() * (1 - self.alpha) * p.pow(self.gamma)
        positive = -(p + self.eps).log() * self.alpha * (1 - p).pow(self.gamma)
        return (positive - negative) * self.weight


@COSTS.register_module()
class ClassificationCost:
    """Minus the softmax of the scores at the target's class, times weight."""

    def __init__(self, weight: float = 1) -> None:
        self.weight = weight

    def __call__(self, scores: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        return -of_labels(scores.softmax(-1), targets.labels) * self.weight


@COSTS.register_module()
class BBoxL1Cost:
    """L1 distance of the boxes in units of the image, of their corners ("xyxy") or of centre and
    size ("xywh"), times weight."""

    def __init__(self, box_format: str = "xyxy", weight: float = 1.0) -> None:
        if box_format not in ("xyxy", "xywh"):
            raise AssertionError(f'box_format must be "xyxy" or "xywh", got {box_format!r}')
        self.box_format, self.weight = box_format, weight

    def __call__(self, scores: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        pred, target = (self._converted(x) / targets.size for x in (boxes, targets.boxes))
        options = {"cls_cost": None, "l1_weight": self.weight, "iou_weight": 0}
        return functional.matching_cost(None, pred, None, target, targets.real, **options)

    def _converted(self, boxes: Tensor) -> Tensor:
        if self.box_format == "xyxy":
            return boxes
        first, second = boxes.split(2, -1)
        return torch.cat(((first + second) / 2, second - first), -1)


@COSTS.register_module()
class IoUCost:
    """Minus the IoU or GIoU of the boxes, times weight."""

    def __init__(self, iou_mode: str = "giou", weight: float = 1.0) -> None:
        if iou_mode not in ("iou", "giou"):
            raise ValueError(f'iou_mode must be "iou" or "giou", got {iou_mode!r}')
        self.iou_mode, self.weight = iou_mode, weight

    def __call__(self, scores: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        iou = functional.pairwise_iou(boxes, targets.boxes, kind=self.iou_mode, eps=IOU_EPS)
        return -iou * self.weight


@ASSIGNERS.register_module()
class TopkHungarianAssigner:
    """Assigns predictions to targets at the least total cost, k to each target.

    Args:
        topk: each target gets min(topk, P // m) predictions, m the targets of its image (none if
            there are more targets than predictions); AssertionError unless >= 1.
        iou_calculator: ``dict(type="BboxOverlaps2D")``, no other; ValueError.
        cls_cost: ``dict(type="FocalLossCost", alpha=0.25, gamma=2, eps=1e-12, weight=1.0)`` or
            ``dict(type="ClassificationCost", weight=1.0)``.
        reg_cost: ``dict(type="BBoxL1Cost", box_format="xyxy", weight=1.0)``, or "xywh".
        iou_cost: ``dict(type="IoUCost", iou_mode="giou", weight=1.0)``, or "iou".

    KeyError: another type of cost. TypeError: an option it does not have.
    """

    def __init__(
        self,
        topk: int,
        iou_calculator: dict[str, Any] = IOU_CALCULATOR,
        cls_cost: dict[str, Any] = CLS_COST,
        reg_cost: dict[str, Any] = REG_COST,
        iou_cost: dict[str, Any] = IOU_COST,
    ) -> None:
        if not topk >= 1:
            raise AssertionError(f"topk must be >= 1, got {topk}")
        if iou_calculator != IOU_CALCULATOR:
            raise ValueError(f"iou_calculator must be a plain BboxOverlaps2D, got {iou_calculator}")
        self.topk = topk
        self.cls_cost = COSTS.build(cls_cost)
        self.reg_cost = COSTS.build(reg_cost)
        self.iou_cost = COSTS.build(iou_cost)

    @torch.no_grad()
    def assign(
        self, scores: Tensor, boxes: Tensor, targets: Targets, counts: Sequence[int]
    ) -> Assignment:
        """Scores (B, P, C), boxes (B, P, 4) xyxy in pixels, the targets and how many they are.

        ValueError: a cost that is not a number, on the CPU (as from SciPy). On a GPU such an image
        is assigned nothing.
        """
        costs = (self.cls_cost, self.reg_cost, self.iou_cost)
        cost = sum(cost(scores, boxes, targets) for cost in costs)  # (B, P, M)
        images, predictions, most = cost.shape
        copies = [min(self.topk, predictions // max(count, 1)) for count in counts]
        k = max(copies, default=0)
        wanted = torch.tensor(copies).to(cost.device, non_blocking=True)
        taken = torch.arange(k, device=cost.device) < wanted[:, None]  # (B, K)
        taken = taken[:, :, None] & targets.real[:, None]  # (B, K, M)
        repeated = cost[:, :, None].expand(-1, -1, k, -1).reshape(images, predictions, k * most)
        rows = functional.linear_assignment(repeated, taken.flatten(1)).view(images, k, most)

        chosen = rows.clamp(min=0)
        score = of_labels(scores, targets.labels).gather(1, chosen)
        iou = functional.pairwise_iou(boxes, targets.boxes, eps=IOU_EPS).gather(1, chosen)
        return Assignment(rows, score * iou**6, iou)


def of_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores (B, P, C) at the labels (B, M) -> (B, P, M)."""
    return scores.gather(2, labels[:, None].expand(-1, scores.shape[1], -1))
