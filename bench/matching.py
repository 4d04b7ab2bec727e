"""The workloads of matching predictions with targets: costs, assignments, anchors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fastloss.functional as F
from bench import box_sets
from bench.baselines import matching_cost as baseline
from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload


def detr(source: Source, shape: Shape) -> Inputs:
    """Logits, boxes, labels, target boxes and mask of (images, queries, most targets, classes): 1
    to all of the targets of each image are real, the rest padding. Boxes are cxcywh in units of the
    image. Early in training the boxes of queries are anywhere, and few classes are likely."""
    images, queries, targets, classes = shape
    logits = source.normal(images, queries, classes, mean=-4.0, std=1.5)
    labels = torch.randint(
        classes, (images, targets), generator=source.generator, device=source.device
    )
    counts = torch.linspace(1, targets, images, device=source.device).round()
    mask = torch.arange(targets, device=source.device) < counts[:, None]
    boxes = [
        torch.cat(
            [
                source.uniform(images, count, 2),
                source.normal(images, count, 2, mean=mean, std=0.7).exp_().clamp_(max=1.0),
            ],
            dim=-1,
        )
        for count, mean in ((queries, -1.7), (targets, -2.3))  # medians of 0.18 and 0.1
    ]
    return Inputs((logits, boxes[0], labels, boxes[1], mask), differentiable=0)


def _cost(name: str, reason: str, sizes: dict[str, Shape], **options: Any) -> Workload:
    options = {"l1_weight": 5.0, "iou_weight": 2.0, "box_format": "cxcywh", **options}
    return Workload(
        name=name,
        stem="matching_cost",
        call="matching_cost",
        options=options,
        make_inputs=detr,
        sizes=sizes,
        reason=reason,
        upstream=(Upstream("mmdet", "matching_cost", options),),
        suite="matching",
        reduces=False,
    )


# Images, queries, most targets of an image, classes of COCO (with DETR's "no object"). The large
# sizes are all decoder layers and images of a step: 6 x 32.
COSTS: tuple[Workload, ...] = (
    _cost(
        "detr_cost.300",
        "softmax, L1 and GIoU cost (DETR)",
        {"small": (16, 300, 100, 92), "large": (192, 300, 100, 92)},
        cls_cost="softmax",
        cls_weight=1.0,
    ),
    _cost(
        "detr_cost.900",
        "focal, L1 and GIoU cost (Deformable DETR, DINO)",
        {"small": (16, 900, 100, 80), "large": (192, 900, 100, 80)},
        cls_cost="sigmoid_focal",
        cls_weight=2.0,
    ),
)


def fused_match(
    logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, mask: Tensor, **cost: Any
) -> Tensor:
    """Cost and assignment in two calls for the whole batch."""
    return F.linear_assignment(
        F.matching_cost(logits, boxes, labels, target_boxes, mask, **cost), mask
    )


def _match(cost: Workload, reason: str) -> Workload:
    return replace(
        cost,
        name=cost.name.replace("cost", "match"),
        stem="linear_assignment",
        call="hungarian_match",
        ours=fused_match,
        reason=reason,
        upstream=(Upstream("mmdet", "hungarian_match", cost.options),),
    )


def detr_costs(source: Source, shape: Shape) -> Inputs:
    """The cost of "detr_cost.900" and the mask of its targets."""
    inputs = detr(source, shape)
    cost = baseline.matching_cost(*inputs.arguments, **COSTS[1].options)
    return Inputs((cost, inputs.arguments[-1]), differentiable=0)


ASSIGNMENTS: tuple[Workload, ...] = (
    Workload(
        name="lsa.900x100",
        stem="linear_assignment",
        call="linear_assignment",
        options={},
        make_inputs=detr_costs,
        sizes=COSTS[1].sizes,
        reason="the assignment alone, of a cost that is there",
        suite="matching",
        reduces=False,
    ),
    _match(COSTS[0], "DETR's matcher: cost and assignment"),
    _match(COSTS[1], "the matcher of Deformable DETR and DINO"),
)

ANCHORS: tuple[Workload, ...] = (
    Workload(
        name="max_iou.fpn",
        stem="iou_match",
        call="iou_match",
        options={"positive": 0.5, "negative": 0.4, "eps": 1e-6},
        make_inputs=box_sets.shared_anchors,
        # Images, anchors and targets: 80M pairs with a part of the anchors of an 800 x 1344 image,
        # and 430M with all of them.
        sizes={"small": (16, 100_000, 50), "large": (16, 268_506, 100)},
        reason="anchors of a feature pyramid, as RetinaNet and RPN assign them in every step",
        suite="matching",
        reduces=False,
    ),
)

WORKLOADS = (*COSTS, *ASSIGNMENTS, *ANCHORS)
