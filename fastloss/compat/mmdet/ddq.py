"""DDQAuxLoss (mmdet 3.3.0, losses/ddq_detr_aux_loss.py). Not in LOSSES: it has no forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastloss.compat.mmdet.registry import LOSSES
from fastloss.compat.mmdet.topk_hungarian import ASSIGNERS, padded
from fastloss.ops._arguments import constant
from fastloss.reference._reduce import compute_dtype

LOSS_CLS = {
    "type": "QualityFocalLoss",
    "use_sigmoid": True,
    "activated": True,
    "beta": 2.0,
    "loss_weight": 1.0,
}
LOSS_BBOX = {"type": "GIoULoss", "loss_weight": 2.0}
TRAIN_CFG = {"assigner": {"type": "TopkHungarianAssigner", "topk": 8}, "alpha": 1, "beta": 6}


class DDQAuxLoss(nn.Module):
    """Loss of the dense queries of DDQ DETR, each target assigned to several of them.

    Targets are assigned by `TopkHungarianAssigner`, for all images in one call of
    `fastloss.functional.linear_assignment` (which makes a GPU wait for a transfer each way; nothing
    else does). The quality of a pair is score * IoU^6, and
    with the largest quality and IoU of its target, q / (max q + 1e-7) max IoU.

    Source: https://arxiv.org/abs/2303.12776.

    Args:
        loss_cls: config of a loss of ``(probabilities, (labels, qualities), weights,
            avg_factor=1.0)``, such as QualityFocalLoss of activated inputs.
        loss_bbox: config of a loss of ``(boxes, boxes, weight=qualities, avg_factor=1.0)``.
        train_cfg: ``{"assigner": dict(type="TopkHungarianAssigner", topk=8)}``, with the options
            cls_cost, reg_cost and iou_cost; as in mmdet, alpha and beta have no influence.

    Call: `loss`. KeyError: another type of loss or assigner.
    """

    def __init__(
        self,
        loss_cls: dict[str, Any] = LOSS_CLS,
        loss_bbox: dict[str, Any] = LOSS_BBOX,
        train_cfg: dict[str, Any] = TRAIN_CFG,
    ) -> None:
        super().__init__()
        self.train_cfg = train_cfg
        self.loss_cls = LOSSES.build(loss_cls)
        self.loss_bbox = LOSSES.build(loss_bbox)
        self.assigner = ASSIGNERS.build(train_cfg["assigner"])

    def loss(
        self,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        gt_bboxes: Sequence[Tensor],
        gt_labels: Sequence[Tensor],
        img_metas: Sequence[dict],
        **kwargs: Any,
    ) -> dict[str, list[Tensor]]:
        """The losses of each image, divided by the sum of the qualities of all, at least 1 (under
        torch.distributed, its mean over the processes).

        Args:
            cls_scores: probabilities (B, P, C).
            bbox_preds: boxes (B, P, 4) xyxy, in pixels.
            gt_bboxes, gt_labels: for each image (m, 4) and (m,); classes in [0, C).
            img_metas: for each image ``{"img_shape": (height, width)}``.

        Returns:
            ``{"aux_loss_cls": [...], "aux_loss_bbox": [...]}``, a scalar for each image.

        ValueError: a cost that is not a number, on the CPU.
        """
        targets = self.get_targets(cls_scores, bbox_preds, gt_bboxes, img_metas, gt_labels)
        images = zip(cls_scores, bbox_preds, *targets, strict=True)
        losses = [self.loss_single(*image) for image in images]
        cls, bbox, cls_factors, bbox_factors = map(list, zip(*losses, strict=True))
        cls_factor, bbox_factor = (_total(x) for x in (cls_factors, bbox_factors))
        return {
            "aux_loss_cls": [loss / cls_factor for loss in cls],
            "aux_loss_bbox": [loss / bbox_factor for loss in bbox],
        }

    def loss_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        alignment_metrics: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of one image: (P, C), (P, 4), (P,), (P,), (P, 4), (P,) -> class loss, box loss, and what
        they are to be divided by: the sum of the metrics, of all and of positives; scalars."""
        labels, metrics = labels.reshape(-1), alignment_metrics.reshape(-1)
        weights = label_weights.reshape(-1)
        loss_cls = self.loss_cls(cls_score, (labels, metrics), weights, avg_factor=1.0)
        # Rows that are no positives take part with a weight of 0, as two boxes that coincide.
        positive = (labels >= 0) & (labels < cls_score.shape[-1])
        box = constant((0.0, 0.0, 1.0, 1.0), bbox_pred).to(bbox_pred.dtype)
        pairs = (bbox_pred, bbox_targets.reshape(-1, 4))
        pred, target = (torch.where(positive[:, None], x, box) for x in pairs)
        weight = torch.where(positive, metrics, 0)
        loss_bbox = self.loss_bbox(pred, target, weight=weight, avg_factor=1.0)
        return loss_cls, loss_bbox, metrics.sum(), weight.sum()

    @torch.no_grad()
    def get_targets(
        self,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        gt_bboxes_list: Sequence[Tensor],
        img_metas: Sequence[dict],
        gt_labels_list: Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Labels (P,), C for background, their weights (P,), boxes (P, 4) and qualities (P,) for
        each image. Arguments as of `loss`. As in mmdet the weights of an image are 1, or 0 if it
        has no targets."""
        images, predictions, classes = cls_scores.shape
        counts = [len(labels) for labels in gt_labels_list]
        scores, boxes = (x.detach().to(compute_dtype(x)) for x in (cls_scores, bbox_preds))
        label_weights = [scores.new_full((predictions,), float(count > 0)) for count in counts]
        labels = torch.full((images, predictions), classes, device=scores.device)
        bbox_targets = torch.zeros_like(bbox_preds)
        qualities = scores.new_zeros(images, predictions)
        if any(0 < count <= predictions for count in counts):
            targets = padded(gt_bboxes_list, gt_labels_list, img_metas, boxes)
            rows, metrics, overlaps = self.assigner.assign(scores, boxes, targets, counts)
            none = rows < 0  # (B, K, M)
            best, best_overlap = (
                x.masked_fill(none, -torch.inf).amax(1, keepdim=True) for x in (metrics, overlaps)
            )
            metrics = metrics / (best + 1e-7) * best_overlap
            # From targets to predictions; one more takes what was assigned to none.
            place = rows.masked_fill(none, predictions).flatten(1)
            order = torch.arange(rows.shape[2], device=rows.device).expand_as(rows)
            objects = _spread(order, place, predictions, -1)  # (B, P)
            qualities = _spread(metrics, place, predictions, 0)
            found, index = objects >= 0, objects.clamp(min=0)
            labels = torch.where(found, targets.labels.gather(1, index), labels)
            chosen = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
            chosen = chosen.to(bbox_preds.dtype)
            bbox_targets = torch.where(found[..., None], chosen, bbox_targets)
        return list(labels), label_weights, list(bbox_targets), list(qualities)


def _spread(values: Tensor, place: Tensor, size: int, fill: float) -> Tensor:
    """(B, size) of `fill`, with values (B, *) at `place` (B, n); those at `size` are left out."""
    result = values.new_full((len(values), size + 1), fill)
    return result.scatter_(1, place, values.flatten(1))[:, :size]


def _total(factors: list[Tensor]) -> Tensor:
    """The sum over the images, at least 1."""
    total = torch.stack(factors).sum()
    if dist.is_available() and dist.is_initialized():
        total = total / dist.get_world_size()
        dist.all_reduce(total)
    return total.clamp(min=1)
