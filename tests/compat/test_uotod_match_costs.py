"""Cost matrices of fastloss.compat.uotod's matchers against uotod's, fused and generic."""

import itertools

import pytest
import torch
from parity import assert_as_exact
from references import or_skip, uotod
from torch import nn
from uotod_cases import FUSED, OURS, Sum, batch, modules

from fastloss.compat import uotod as ours
from fastloss.compat.uotod._terms import flatten, is_plain

UOTOD = or_skip(uotod)
THEIRS = modules(UOTOD, Sum)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
PAIRS = [pair for pair in itertools.product(OURS["cls"], OURS["loc"]) if pair != ("none", "none")]


class Generic(ours.Hungarian):
    """Never fused."""

    def _compute_loc_costs(self, pred_locs, tgt_locs):
        return super()._compute_loc_costs(pred_locs, tgt_locs)


def made(kind, cls, loc, **options):
    chosen = THEIRS if kind is UOTOD.match.Hungarian else OURS
    parts = {"cls_match_module": chosen["cls"][cls], "loc_match_module": chosen["loc"][loc]}
    return kind(**parts, **options)


@DTYPES
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("cls,loc", PAIRS)
def test_both_paths_like_upstream(cls, loc, background, dtype):
    options = {"background": background, "background_cost": 1.7}
    matcher, generic, theirs = (
        made(kind, cls, loc, **options) for kind in (ours.Hungarian, Generic, UOTOD.match.Hungarian)
    )
    is_fused = cls in FUSED["cls"] and loc in FUSED["loc"]
    assert matcher.plan.startswith("fused: " if is_fused else "generic: ")
    assert generic.plan == "generic: Generic overrides _compute_loc_costs"
    input, target = batch(dtype)
    expected = theirs.compute_cost_matrix(input, target)
    wide = ({k: x.double() if x.is_floating_point() else x for k, x in given.items()}
            for given in (input, target))  # fmt: skip
    truth = theirs.compute_cost_matrix(*wide)
    for found in (matcher.compute_cost_matrix(input, target),
                  generic.compute_cost_matrix(input, target)):  # fmt: skip
        assert found.shape == expected.shape and found.dtype == dtype
        assert_as_exact(found, expected, truth, dtype, scale=4.0)


@pytest.mark.parametrize("cls,loc", PAIRS)
def test_gradients(cls, loc):
    """The cost matrix is differentiable whatever the modules, and fused where nothing asks."""
    gradients = []
    for kind in (ours.Hungarian, UOTOD.match.Hungarian):
        input, target = batch(torch.float64)
        leaves = [input["pred_logits"], input["pred_boxes"], target["boxes"]]
        for leaf in leaves:
            leaf.requires_grad_()
        cost = made(kind, cls, loc).compute_cost_matrix(input, target)
        above = torch.linspace(0.5, 1.5, cost.numel(), dtype=torch.float64).reshape(cost.shape)
        gradients.append(
            torch.autograd.grad(cost, leaves, above, allow_unused=True, materialize_grads=True)
        )
        with torch.no_grad():
            assert not made(kind, cls, loc).compute_cost_matrix(input, target).requires_grad
    for found, expected in zip(*gradients):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def counting(monkeypatch):
    """How often the kernel is called, as a list that grows."""
    calls, kernel = [], ours.match._costs.functional.matching_cost
    monkeypatch.setattr(
        ours.match._costs.functional, "matching_cost",
        lambda *args, **options: calls.append(1) or kernel(*args, **options),
    )  # fmt: skip
    return calls


def test_one_call_of_the_kernel(monkeypatch):
    calls = counting(monkeypatch)
    input, target = batch()
    matcher = made(ours.Hungarian, "probability", "sum")
    matcher(input, target)
    assert len(calls) == 1
    input["pred_boxes"].requires_grad_()
    matcher(input, target)  # without a gradient in any case
    assert len(calls) == 2
    assert matcher.compute_cost_matrix(input, target).requires_grad and len(calls) == 2
    made(ours.Hungarian, "probability", "none").compute_cost_matrix(input, target)
    assert len(calls) == 2


def test_one_hot_labels(monkeypatch):
    """SigmoidFocalCost takes their argmax, in the kernel's place too; others get them as they
    are."""
    calls = counting(monkeypatch)
    input, target = batch(torch.float64)
    one_hot = {**target, "labels": nn.functional.one_hot(target["labels"], 4).double()}
    for cls, count in (("focal", 1), ("cross entropy", 0)):
        calls.clear()
        cost = made(ours.Hungarian, cls, "l1").compute_cost_matrix(input, one_hot)
        assert len(calls) == count
        expected = made(UOTOD.match.Hungarian, cls, "l1").compute_cost_matrix(input, one_hot)
        torch.testing.assert_close(cost, expected)
    matcher = ours.Hungarian(cls_match_module=ours.SigmoidFocalLoss("none"))
    theirs = UOTOD.match.Hungarian(cls_match_module=UOTOD.loss.SigmoidFocalLoss("none"))
    cost = matcher.compute_cost_matrix(input, one_hot)
    torch.testing.assert_close(cost, theirs.compute_cost_matrix(input, one_hot))


def hooked():
    loss = nn.L1Loss(reduction="none")
    loss.register_forward_hook(lambda *_: None)
    return loss


def replaced():
    loss = nn.L1Loss(reduction="none")
    loss.forward = lambda input, target: (input - target).square()
    return loss


class Doubled(ours.IoULoss):
    def forward(self, input, target):
        return 2 * super().forward(input, target)


NONE = {"reduction": "none"}
PROBABILITY = ours.NegativeProbLoss("none")
GENERIC = {
    "a subclass": ({"loc_match_module": Doubled("none")}, "Doubled as a localization term"),
    "a hook": ({"loc_match_module": hooked()}, "L1Loss as a localization term"),
    "another forward": ({"loc_match_module": replaced()}, "L1Loss as a localization term"),
    "twice": (
        {"loc_match_module": ours.MultipleObjectiveLoss([nn.L1Loss(**NONE)] * 2, [1.0, 2.0])},
        "two localization terms of one kind",
    ),
    "both overlaps": (
        {"loc_match_module": ours.MultipleObjectiveLoss(
            [ours.IoULoss("none"), ours.GIoULoss("none")], [1.0, 2.0])},
        "two localization terms of one kind",
    ),
    "a loss of classes that is not known": (
        {"cls_match_module": nn.MultiMarginLoss(**NONE)}, "MultiMarginLoss as a classification",
    ),
    "weights": (
        {"cls_match_module": nn.CrossEntropyLoss(torch.ones(4), **NONE)}, "with options",
    ),
    "smoothing": ({"cls_match_module": nn.CrossEntropyLoss(label_smoothing=0.1, **NONE)},
                  "with options"),
    "ignored": ({"cls_match_module": nn.CrossEntropyLoss(ignore_index=2, **NONE)}, "with options"),
    "two classes": (
        {"cls_match_module": ours.MultipleObjectiveLoss([PROBABILITY] * 2, [1.0, 1.0])},
        "2 classification terms",
    ),
    "background": ({"cls_match_module": PROBABILITY, "background_cost": float("inf")},
                   "background_cost is no finite number"),
}  # fmt: skip


@pytest.mark.parametrize("options,reason", GENERIC.values(), ids=GENERIC)
def test_what_is_not_fused(options, reason, monkeypatch):
    calls = counting(monkeypatch)
    matcher = ours.Hungarian(**options)
    assert matcher.plan.startswith("generic: ") and reason in matcher.plan
    cost = matcher.compute_cost_matrix(*batch())
    assert not calls and cost.shape == (3, 9, 6)


def test_modules_may_be_replaced_later():
    matcher = made(ours.Hungarian, "probability", "smooth")
    assert matcher.plan == "generic: SmoothL1Loss as a localization term"
    matcher.matching_loc_module = OURS["loc"]["sum"]
    assert matcher.plan == (
        "fused: cls_cost='softmax', background_cost=10.0, cls_weight=1.0, l1_weight=5.0, "
        "iou_weight=2.0, eps=0.0, constant=2.0, iou_kind='giou'"
    )
    matcher.background = False
    assert "background_cost=None" in matcher.plan
    assert matcher(*batch()).shape == (3, 9, 5)


def test_boxes_of_any_size_and_without_area():
    """Small boxes in units of the image are not drowned in an eps; pairs without area cost 1."""
    input, target = batch(torch.float64)
    small = {**input, "pred_boxes": input["pred_boxes"] * 1e-6}
    small_target = {**target, "boxes": target["boxes"] * 1e-6}
    for loc in ("iou", "giou"):
        for kind in (ours.Hungarian, Generic):
            matcher = made(kind, "none", loc)
            expected = matcher.compute_cost_matrix(input, target)
            torch.testing.assert_close(matcher.compute_cost_matrix(small, small_target), expected)
            flat = {**input, "pred_boxes": torch.ones_like(input["pred_boxes"])}
            flat_target = {**target, "boxes": torch.ones_like(target["boxes"])}
            cost = matcher.compute_cost_matrix(flat, flat_target)
            assert torch.equal(cost[0, :, :5], torch.ones(9, 5, dtype=torch.float64))


@DTYPES
@pytest.mark.parametrize("cls,loc", [("none", "giou"), ("focal", "sum"), ("two", "mixed")])
def test_anchors(cls, loc, dtype):
    input, target = batch(dtype)
    anchors = batch(dtype, seed=5)[0]["pred_boxes"]
    matcher, theirs = (
        made(kind, cls, loc, is_anchor_based=True)
        for kind in (ours.Hungarian, UOTOD.match.Hungarian)
    )
    found = matcher.compute_cost_matrix(input, target, anchors)
    torch.testing.assert_close(found, theirs.compute_cost_matrix(input, target, anchors))
    assert torch.equal(matcher(input, target, anchors), theirs(input, target, anchors))
    for given in (anchors[:1], anchors[0]):  # one set for all images, which upstream has not
        found = matcher.compute_cost_matrix(input, target, given)
        same = matcher.compute_cost_matrix(input, target, anchors[:1].expand(3, -1, -1))
        assert torch.equal(found, same)


def test_padding_may_hold_anything():
    """Labels that are no class, and boxes that are NaN."""
    input, target = batch()
    padding = ~target["mask"]
    other = {
        "labels": target["labels"].masked_fill(padding, -1),
        "boxes": target["boxes"].masked_fill(padding[..., None], torch.nan),
        "mask": target["mask"],
    }
    for kind, cls, loc in itertools.product(
        (ours.Hungarian, Generic), ("probability", "cross entropy"), ("l1", "giou")
    ):
        matcher = made(kind, cls, loc)
        cost = matcher.compute_cost_matrix(input, other)
        assert torch.equal(cost, matcher.compute_cost_matrix(input, target))


def test_terms():
    l1, iou = nn.L1Loss(**NONE), ours.IoULoss("none")
    inner = ours.MultipleObjectiveLoss([l1, iou], [3, 0.5])
    assert flatten(ours.MultipleObjectiveLoss([inner, iou], [2.0, 4.0])) == [
        (6.0, l1), (1.0, iou), (4.0, iou),
    ]  # fmt: skip
    assert flatten(iou) == [(1.0, iou)]
    assert is_plain(iou, nn.L1Loss, ours.IoULoss) and not is_plain(iou, nn.L1Loss)
    assert not is_plain(nn.L1Loss(), nn.L1Loss)  # it has a reduction
    tensor = ours.MultipleObjectiveLoss([l1], [torch.ones(())])
    assert flatten(tensor) == [(1.0, tensor)]  # not read by the host
