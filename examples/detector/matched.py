"""Losses that match predictions with the objects of their image: uotod's DetectionLoss written in
plain PyTorch, and the same from fastloss."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from common.training import Trainer
from torch import Tensor, nn

from detector import plain_losses
from detector import plain_matching as plain
from detector.data import Objects
from fastloss.compat import uotod

L1_WEIGHT = 0.05  # the distance is in pixels, GIoU lies in 0..2
# The costs of boxes alone decide: a cell belongs to an object that costs less than the background,
# and almost all of its mass is handed out.
TRANSPORT = {"background_cost": 1.0, "reg_pred": 1e3, "reg_target": 1e-3}


class Plain:
    """Every pair of prediction and object has its cost and its loss."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, logits: Tensor, boxes: Tensor, target: Objects) -> Tensor:
        matching = self.match(logits, boxes, target)
        batch, labels = len(target.mask), target.labels.argmax(-1)
        return plain.detection_loss(
            logits.view(batch, -1, 1), boxes.view(batch, -1, 4), labels, target.boxes, target.mask,
            matching, L1_WEIGHT,
        )  # fmt: skip

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, target: Objects) -> Tensor:
        """(B, P, T + 1), the last column that of the background."""
        batch, mask = len(target.mask), target.mask
        boxes = boxes.view(batch, -1, 4)
        cost = L1_WEIGHT * plain.of_pairs(plain.l1_distance, boxes, target.boxes)
        cost = cost + plain.of_pairs(plain_losses.giou_loss, boxes, target.boxes)
        if self.kind == "sinkhorn":
            return plain.sinkhorn(cost, mask, *TRANSPORT.values())
        labels = target.labels.argmax(-1)
        return plain.hungarian(cost + plain.focal_cost(logits.view(batch, -1, 1), labels), mask)


class Fused:
    """uotod's own classes, imported from fastloss."""

    def __init__(self, kind: str) -> None:
        if kind == "sinkhorn":
            matcher = uotod.UnbalancedSinkhorn(loc_match_module=_boxes(), **TRANSPORT)
        else:
            matcher = uotod.Hungarian(
                cls_match_module=uotod.SigmoidFocalCost(reduction="none"), loc_match_module=_boxes()
            )
        self.loss = uotod.DetectionLoss(
            cls_loss_module=uotod.SigmoidFocalLoss(reduction="none", alpha=0.25),
            loc_loss_module=_boxes(),
            matching_method=matcher,
            bg_class_position="none",
        )

    def __call__(self, logits: Tensor, boxes: Tensor, target: Objects) -> Tensor:
        return self.loss(_inputs(logits, boxes, target), target._asdict())

    def match(self, logits: Tensor, boxes: Tensor, target: Objects) -> Tensor:
        """(B, P, T + 1), the last column that of the background."""
        return self.loss.matching_method(_inputs(logits, boxes, target), target._asdict())


class Moment(NamedTuple):
    """What one image is matched with at a step, per variant."""

    step: int
    image: Tensor  # (H, W)
    targets: Tensor  # (T, 4)
    boxes: dict[str, Tensor]  # (P, 4)
    matchings: dict[str, Tensor]  # (P, T)


class Moments:
    """Records the matchings of the first image of a batch after chosen steps."""

    def __init__(self, steps: Collection[int]) -> None:
        self.steps, self.recorded = steps, []

    def record(self, step: int, trainers: Mapping[str, Trainer], images: Tensor, target: Objects):
        if step not in self.steps:
            return
        real, boxes, matchings = target.mask[0].cpu(), {}, {}
        for name, trainer in trainers.items():
            with torch.no_grad():
                logits, found = trainer.model(images)
            matching = trainer.losses.match(logits, found, target)
            boxes[name] = found.view(len(images), -1, 4)[0].cpu()
            matchings[name] = matching[0, :, :-1].cpu()[:, real]
        image, targets = images[0, 0].cpu(), target.boxes[0].cpu()[real]
        self.recorded.append(Moment(step, image, targets, boxes, matchings))


def _boxes() -> nn.Module:
    losses = [nn.L1Loss(reduction="none"), uotod.GIoULoss(reduction="none")]
    return uotod.MultipleObjectiveLoss(losses, [L1_WEIGHT, 1.0])


def _inputs(logits: Tensor, boxes: Tensor, target: Objects) -> dict[str, Tensor]:
    batch = len(target.mask)
    return {"pred_logits": logits.view(batch, -1, 1), "pred_boxes": boxes.view(batch, -1, 4)}
