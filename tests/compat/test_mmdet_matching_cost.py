"""matching_cost against the costs of mmdet's HungarianAssigner and against DETR's matcher."""

import pytest
import references
import torch

import fastloss.functional as F
from fastloss.testing.samples.matching_cost import problem

upstream = references.or_skip(references.mmdet)
BATCH, N, M, CLASSES = 3, 40, 17, 21


def inputs(seed=0):
    """In float64, boxes cxcywh."""
    made = problem(torch.Generator().manual_seed(seed), BATCH, N, M, CLASSES)
    for name in ("boxes", "target_boxes"):
        first, second = made[name].split(2, -1)
        made[name] = torch.cat(((first + second) / 2, second - first), -1)
    return made


@pytest.mark.parametrize("iou_kind", ("iou", "giou"))
@pytest.mark.parametrize("box_format", ("xyxy", "cxcywh"))
@pytest.mark.parametrize("cls_cost", ("softmax", "sigmoid_focal"))
def test_mmdet(cls_cost, box_format, iou_kind):
    given = inputs()
    if box_format == "xyxy":
        for name in ("boxes", "target_boxes"):
            centre, size = given[name].split(2, -1)
            given[name] = torch.cat((centre - size / 2, centre + size / 2), -1)
    options = {"cls_weight": 2.0, "l1_weight": 5.0, "iou_weight": 1.5}
    options |= {"cls_cost": cls_cost, "iou_kind": iou_kind, "box_format": box_format}
    cost = F.matching_cost(**given, **options)
    # mmdet adds 1e-12 to probabilities by default, DETR 1e-8.
    expected = upstream.matching_cost(*given.values(), **options, focal_eps=1e-8)
    torch.testing.assert_close(cost, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("focal", (False, True))
def test_detr(focal):
    """HungarianMatcher of DETR and of Deformable DETR: one matrix for the batch, of which the
    blocks of each image are used."""
    given = inputs()
    logits, boxes = given["logits"].flatten(0, 1), given["boxes"].flatten(0, 1)
    labels, targets = (given[name][given["mask"]] for name in ("labels", "target_boxes"))
    if focal:
        p = logits.sigmoid()
        negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        class_cost = 2 * (positive[:, labels] - negative[:, labels])
    else:
        class_cost = -logits.softmax(-1)[:, labels]
    giou = upstream.bbox_overlaps(corners(boxes), corners(targets), mode="giou", eps=1e-7)
    whole = (5 * torch.cdist(boxes, targets, p=1) + class_cost - 2 * giou).view(BATCH, N, -1)
    blocks = whole.split(given["mask"].sum(1).tolist(), -1)
    options = {"cls_cost": "sigmoid_focal", "cls_weight": 2.0} if focal else {}
    cost = F.matching_cost(**given, box_format="cxcywh", **options)
    for b, block in enumerate(blocks):
        torch.testing.assert_close(cost[b][:, given["mask"][b]], block[b], rtol=1e-9, atol=1e-9)


def corners(boxes):
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat((centre - half, centre + half), 1)
