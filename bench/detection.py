"""The workloads of whole detection losses: matching, then the losses of what is matched."""

from __future__ import annotations

import functools
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench import box_sets
from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload
from fastloss.compat import uotod


def predictions(source: Source, shape: Shape) -> Inputs:
    """Logits, boxes, labels, target boxes, mask and anchors of (images, predictions, most targets,
    classes with the background): the default boxes of SSD300 in pixels; 1 to all of the targets of
    each image are real, the rest padding."""
    images, rows, columns, classes = shape
    logits = source.normal(images, rows, classes)
    generator, device = source.generator, source.device
    labels = torch.randint(1, classes, (images, columns), generator=generator, device=device)
    counts = torch.linspace(1, columns, images, device=device).round()
    mask = torch.arange(columns, device=device) < counts[:, None]
    boxes, targets = box_sets.make(box_sets.ssd_predictions, backward=False)(
        source, (images, rows, columns)
    ).arguments
    anchors = box_sets.ssd_predictions(source, 1, rows)[0]
    return Inputs((logits, boxes, labels, targets, mask, anchors), differentiable=2)


def detection_loss(
    library: SimpleNamespace,
    logits: Tensor,  # (B, P, C)
    boxes: Tensor,  # (B, P, 4)
    labels: Tensor,  # (B, T)
    target_boxes: Tensor,  # (B, T, 4)
    mask: Tensor,  # (B, T)
    anchors: Tensor,  # (P, 4)
    *,
    matcher: str,
) -> Tensor:
    """The DetectionLoss of uotod's documentation with one of its two matchers, from the classes of
    `library`: uotod, or `fastloss.compat.uotod`."""
    loss = _module(library.loss, library.match, matcher)
    target = {"labels": labels, "boxes": target_boxes, "mask": mask}
    inputs = {"pred_logits": logits, "pred_boxes": boxes}
    return loss(inputs, target, anchors if matcher == "unbalanced" else None)


@functools.cache
def _module(losses: ModuleType, matchers: ModuleType, matcher: str) -> nn.Module:
    terms: dict[str, Any] = {
        "cls_loss_module": nn.CrossEntropyLoss(reduction="none"),
        "loc_loss_module": losses.GIoULoss(reduction="none"),
    }
    if matcher == "hungarian":
        return losses.DetectionLoss(
            **terms,
            matching_method=matchers.Hungarian(
                cls_match_module=losses.NegativeProbLoss(reduction="none"),
                loc_match_module=nn.L1Loss(reduction="none"),
            ),
        )
    return losses.DetectionLoss(
        **terms,
        matching_method=matchers.UnbalancedSinkhorn(
            loc_match_module=losses.IoULoss(reduction="none"),
            reg_pred=1e3,
            reg_target=1e-3,
            background_cost=0.5,
            is_anchor_based=True,
        ),
        use_hard_negative_mining=True,
        neg_to_pos_ratio=3.0,
    )


def _loss(matcher: str, reason: str) -> Workload:
    options = {"matcher": matcher}
    return Workload(
        name=f"uotod_detloss.{matcher}",
        stem="matched_detection",
        call="detection_loss",
        options=options,
        make_inputs=predictions,
        sizes={"small": (4, 8732, 32, 21), "large": (64, 8732, 32, 21)},
        reason=reason,
        ours=functools.partial(detection_loss, uotod),
        upstream=(Upstream("uotod", "detection_loss", options),),
        suite="detection",
        reduces=False,
    )


WORKLOADS = (
    _loss("hungarian", "each target has one prediction (DETR)"),
    _loss("unbalanced", "soft matching of anchors, hard negative mining (uotod's SSD)"),
)
