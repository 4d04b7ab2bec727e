"""DDQAuxLoss and its assigner against mmdet's (which computes in float32 alone)."""

import pytest
import references
import torch
from parity import assert_as_exact

from fastloss.compat import mmdet
from fastloss.compat.mmdet.topk_hungarian import COSTS, TopkHungarianAssigner
from fastloss.testing import forbid_host_reads

upstream = references.or_skip(references.mmdet)
references.or_skip(references.mmdet_assigners)

P, C = 40, 5


def case(counts, dtype=torch.float32):
    """Boxes of images of 300 x 200; half of the targets lie near predictions."""
    g = torch.Generator().manual_seed(11)

    def boxes(*shape):
        corner = torch.rand(*shape, 2, generator=g) * 120
        return torch.cat((corner, corner + 10 + 50 * torch.rand(*shape, 2, generator=g)), -1)

    scores, preds = torch.rand(len(counts), P, C, generator=g), boxes(len(counts), P)
    targets = [boxes(count) for count in counts]
    for image, target in enumerate(targets):
        near = target[::2]
        near.copy_(preds[image, : len(near)] + 8 * torch.rand(near.shape, generator=g))
    labels = [torch.randint(0, C, (count,), generator=g) for count in counts]
    metas = [{"img_shape": (200 + i, 300)} for i in range(len(counts))]
    return scores.to(dtype), preds.to(dtype), [x.to(dtype) for x in targets], labels, metas


def make(**options):
    cfg = {"assigner": {"type": "TopkHungarianAssigner", "topk": 8, **options}}
    return [library.DDQAuxLoss(train_cfg=cfg) for library in (mmdet, upstream)]


def evaluate(loss, case):
    scores, preds = (x.clone().requires_grad_() for x in case[:2])
    found = loss.loss(scores, preds, *case[2:])
    assert list(found) == ["aux_loss_cls", "aux_loss_bbox"]
    values = torch.stack([x for losses in found.values() for x in losses])
    above = torch.linspace(0.5, 1.5, len(values)).to(values.dtype)
    return [values.detach(), *torch.autograd.grad(values, (scores, preds), above)]


COUNTS = [(3, 0, 4), (30, 7), (0, 0), (1,)]
OPTIONS = [
    {"topk": 1},
    {"topk": 3, "cls_cost": {"type": "FocalLossCost", "alpha": 0.5, "gamma": 1.5, "eps": 1e-3}},
    {"cls_cost": {"type": "ClassificationCost", "weight": 3.0}},
    {"reg_cost": {"type": "BBoxL1Cost", "box_format": "xywh", "weight": 9.0}},
    {"iou_cost": {"type": "IoUCost", "iou_mode": "iou", "weight": 4.0}},
]


def compare_targets(ours, theirs, scores, preds, targets, labels, metas):
    arguments = (scores, preds, targets, metas, labels)
    found, expected = ours.get_targets(*arguments), theirs.get_targets(*arguments)
    for kind, (values, wanted) in enumerate(zip(found, expected, strict=True)):
        for actual, exact in zip(values, wanted, strict=True):
            assert actual.dtype == exact.dtype and actual.shape == exact.shape
            if kind < 3:
                assert torch.equal(actual, exact)
            else:
                assert_as_exact(actual, exact, exact, torch.float32)


@pytest.mark.parametrize(
    "options, counts",
    [*(({}, counts) for counts in COUNTS), *((options, (3, 0, 4)) for options in OPTIONS)],
    ids=str,
)
def test_equals_mmdet(options, counts):
    ours, theirs = make(**options)
    compare_targets(ours, theirs, *case(counts))
    everything = case(counts)
    for actual, exact in zip(*(evaluate(loss, everything) for loss in (ours, theirs))):
        assert_as_exact(actual, exact, exact, torch.float32, scale=1.0)


def test_boxes_below_the_floor_of_unions():
    scores, preds, targets, *others = case((3, 4))
    tiny = (scores, preds * 1.5e-5, [x * 1.5e-5 for x in targets], *others)
    compare_targets(*make(iou_cost={"type": "IoUCost", "weight": 90.0}), *tiny)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(dtype):
    """float64 gives the same numbers; bfloat16 runs."""
    ours = make()[0]
    found, single = (evaluate(ours, case((3, 0, 4), d)) for d in (dtype, torch.float32))
    for actual, expected in zip(found, single):
        assert actual.isfinite().all()
        if dtype == torch.float64:
            assert actual.dtype == dtype
            torch.testing.assert_close(actual.float(), expected, rtol=1e-4, atol=1e-6)


def test_more_targets_than_predictions():
    """No target gets one (mmdet raises TypeError): all is background, of weight 1."""
    loss = make()[0]
    scores, preds, targets, labels, metas = case((P + 1, 2))
    found = loss.get_targets(scores, preds, targets, metas, labels)
    assert torch.all(found[0][0] == C) and torch.all(found[1][0] == 1) and not found[3][0].any()
    assert (found[0][1] < C).sum() == 16
    for counts in ((P + 1, 2), (P + 1,)):
        assert all(x.isfinite().all() for x in evaluate(loss, case(counts)))


def test_no_host_read(monkeypatch):
    monkeypatch.setattr("fastloss.compat.mmdet.shortcut.values_may_be_read", lambda _: False)
    loss = make()[0]
    with forbid_host_reads():
        evaluate(loss, case((3, 0, 4)))


def test_what_is_no_positive_leaks_nothing():
    loss = make()[0]
    scores, preds, targets, labels, metas = case((2,))
    found = loss.get_targets(scores, preds, targets, metas, labels)
    preds[0, found[0][0] == C] = torch.nan
    preds = preds.requires_grad_()
    bbox = loss.loss_single(scores[0], preds[0], *(x[0] for x in found))[1]
    gradient = torch.autograd.grad(bbox, preds)[0]
    assert bbox > 0 and gradient.isfinite().all() and gradient.any()


def test_mean_over_processes(monkeypatch):
    loss, everything = make()[0], case((3, 4))
    alone = loss.loss(*everything)["aux_loss_cls"][0]
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.mul_(6))
    torch.testing.assert_close(loss.loss(*everything)["aux_loss_cls"][0], alone / 3)


def test_errors():
    assert "DDQAuxLoss" not in mmdet.LOSSES
    for error, assigner in (
        (KeyError, {"type": "HungarianAssigner"}),
        (KeyError, {"topk": 8}),
        (TypeError, {"type": "TopkHungarianAssigner"}),
        (TypeError, {"type": "TopkHungarianAssigner", "topk": 8, "extra": 1}),
        (AssertionError, {"type": "TopkHungarianAssigner", "topk": 0}),
    ):
        for library in (mmdet, upstream):
            with pytest.raises(error):
                library.DDQAuxLoss(train_cfg={"assigner": assigner})
    for error, cost in (
        (KeyError, {"type": "DiceCost"}),
        (ValueError, {"type": "FocalLossCost", "binary_input": True}),
        (ValueError, {"type": "IoUCost", "iou_mode": "iof"}),
        (AssertionError, {"type": "BBoxL1Cost", "box_format": "cxcywh"}),
    ):
        with pytest.raises(error):
            COSTS.build(cost)
    with pytest.raises(ValueError, match="plain BboxOverlaps2D"):
        TopkHungarianAssigner(8, iou_calculator={"type": "BboxOverlaps2D", "dtype": "fp16"})
    scores, *others = case((2,))
    for loss in make():
        with pytest.raises(ValueError):
            loss.loss(scores * torch.nan, *others)
