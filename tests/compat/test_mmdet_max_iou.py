"""iou_match against mmdet's MaxIoUAssigner, image by image and bit for bit."""

import types

import match_cases
import pytest
import references
import torch

import fastloss.functional as F

upstream = references.or_skip(references.mmdet_assigners)


def assigned(boxes, targets, mask, options):
    """mmdet's numbers and overlaps, (B, N) each, in our numbering of targets and labels."""
    assigner = upstream.MaxIoUAssigner(
        pos_iou_thr=options["positive"],
        neg_iou_thr=float(options["negative"]),
        min_pos_iou=options["min_positive"],
        match_low_quality=options["low_quality"],
    )
    index = torch.empty(len(targets), boxes.shape[-2], dtype=torch.long)
    iou = boxes.new_empty(index.shape)
    for image in range(len(targets)):
        kept = mask[image].nonzero().flatten()
        found = assigner.assign(
            types.SimpleNamespace(priors=boxes if boxes.dim() == 2 else boxes[image]),
            types.SimpleNamespace(bboxes=targets[image, kept], labels=torch.zeros_like(kept)),
        )
        numbers = torch.cat((torch.tensor([-2, -1]), kept))  # of -1 ignored, 0 negative, 1 + j
        index[image], iou[image] = numbers[found.gt_inds + 1], found.max_overlaps
    return index, iou


def check(seeds):
    for seed in seeds:
        boxes, targets, mask, options = match_cases.case(seed)
        # mmdet computes half precision in itself, and its eps is 1e-6.
        boxes, targets = (x if x.dtype == torch.float64 else x.float() for x in (boxes, targets))
        # Its rule for negatives has max_overlaps >= 0, which always holds.
        options |= {"low_quality_index": "target", "eps": 1e-6}
        expected = assigned(boxes, targets, mask, options)
        index, iou = F.iou_match(boxes, targets, mask, **options)
        assert torch.equal(index, expected[0]) and torch.equal(iou, expected[1])


def test_equals_mmdet():
    check(range(300))


@pytest.mark.full
def test_equals_mmdet_ten_thousand_times():
    check(range(10_000))
