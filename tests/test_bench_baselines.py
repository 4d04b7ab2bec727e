"""The plain versions that everything is measured against, by hand; and the inputs they get."""

from __future__ import annotations

import math

import pytest
import torch

from bench.baselines import box_loss as boxes
from bench.baselines.boundary import boundary_loss
from bench.baselines.iou_match import iou_match
from bench.baselines.linear_assignment import linear_assignment
from bench.baselines.ohem import ohem_cross_entropy
from bench.baselines.pairwise_iou import pairwise_iou
from bench.baselines.segmentation import segmentation_loss
from bench.inputs import Source
from bench.workloads import WORKLOADS


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("iou", {"mode": "linear"}, 1 - 1 / 7),
        ("iou", {"mode": "square"}, 1 - 1 / 49),
        ("iou", {"mode": "log"}, math.log(7)),
        ("giou", {}, 1 - (1 / 7 - 2 / 9)),
        ("diou", {}, 1 - (1 / 7 - 2 / 18)),
        ("ciou", {}, 1 - (1 / 7 - 2 / 18)),  # equal aspect ratios: no angle term
        ("eiou", {}, 6 / 7 - 0.1 / 2),
        ("siou", {}, 6 / 7 + 1 - math.exp(1 / 9)),  # angle cost 1, no shape cost
        ("bounded_iou", {}, 2 * (1 - 0.2 / 2)),  # the centres score 0, the extents 1
    ],
)
def test_box_baseline_by_hand(kind, options, expected):
    # Two 2 x 2 boxes shifted by (1, 1): intersection 1, union 7, hull 9, squared diagonal 18,
    # squared distance 2.
    pred = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=torch.float64)
    loss = boxes.box_loss(
        pred, pred + 1, kind=kind, eps=1e-12, weight=None, avg_factor=1.0, **options
    )
    assert float(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("iou", [1 / 7, 0]),
        ("giou", [1 / 7 - 2 / 9, 0 - 4 / 12]),
        ("diou", [1 / 7 - 2 / 18, 0 - 16 / 40]),
        ("ciou", [1 / 7 - 2 / 18, 0 - 16 / 40]),  # equal aspect ratios: no angle term
    ],
)
def test_pairwise_baseline_by_hand(kind, expected):
    # A 2 x 2 box against itself shifted by (1, 1), as above, and by (4, 0): disjoint, union 8,
    # hull 6 x 2, squared diagonal 40.
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=torch.float64)
    others = torch.cat([box + 1, box + torch.tensor([4.0, 0.0, 4.0, 0.0])])
    found = pairwise_iou(box[None], others[None], kind=kind, eps=1e-12)
    assert found.shape == (1, 1, 2)
    assert found[0, 0].tolist() == pytest.approx(expected, rel=1e-9)


def test_matching_baseline_by_hand():
    # IoU with the first and the second target: 1 and 0; 1/2 and 0; 1/6 and 1/5; 0 and 1/7.
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 2], [0, 2, 4, 12], [0, 10, 4, 16.0]])
    targets = torch.tensor([[[0, 0, 4, 4], [0, 9, 4, 11.0]], [[0, 0, 4, 4], [50, 50, 51, 51.0]]])
    index, iou = iou_match(boxes, targets, positive=0.6, negative=0.19, min_positive=0.0)
    # The last target overlaps nothing and takes all boxes.
    assert index.tolist() == [[0, -2, 1, -1], [1, 1, 1, 1]]
    assert torch.equal(iou, torch.tensor([[1, 1 / 2, 1 / 5, 1 / 7], [1, 1 / 2, 1 / 6, 0]]))
    index, _ = iou_match(boxes, targets, positive=0.6, negative=0.19, min_positive=0.1)
    assert index.tolist() == [[0, -2, 1, -1], [0, -2, -1, -1]]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"cross_entropy": 2.0}, math.log(4)),
        ({"cross_entropy": {"label_smoothing": 0.2}}, 0.9 * math.log(2) + 0.1 * math.log(2)),
        ({"softmax_focal": 1.0}, math.log(2) / 4),
        ({"sigmoid_focal": {"gamma": 1.0}}, math.log(2) / 2),
        # Two pixels of class 0: overlap 1, sums 1 and 2; class 1 is absent.
        ({"dice": 1.0}, (1 - 2 * 1 / 3) / 2),
        ({"cross_entropy": 1.0, "dice": 1.0}, math.log(2) + 1 / 6),
    ],
    ids=str,
)
def test_segmentation_baseline_by_hand(terms, expected):
    # Even odds at three pixels, the last of which is ignored.
    logits, target = torch.zeros(1, 2, 3, dtype=torch.float64), torch.tensor([[0, 0, 255]])
    total, values = segmentation_loss(logits, target, terms=terms, ignore_index=255)
    assert float(total) == pytest.approx(expected, rel=1e-9)
    assert set(values) == set(terms)


@pytest.mark.parametrize(
    ("rule", "thresh", "min_kept", "expected"),
    [
        ("gdl", 0.3, 0, math.log(4)),
        ("gdl", 0.3, 2, (math.log(4) + math.log(2)) / 2),  # probabilities 1/4, 1/2 and 3/4
        ("gdl", 0.1, 0, math.nan),
        ("gdl", 0.1, 3, (math.log(4) + math.log(2) + math.log(4 / 3)) / 3),
        ("mmseg", 0.3, 0, math.log(4) / 4),  # less than the first are none, than 0.3 one
        ("mmseg", 0.3, 2, (math.log(4) + math.log(2)) / 4),
        ("mmseg", 0.8, 1, (math.log(4) + math.log(2) + math.log(4 / 3)) / 4),
    ],
)
def test_ohem_baseline_by_hand(rule, thresh, min_kept, expected):
    odds = torch.tensor([[3.0, 1.0, 1 / 3, 9.0]], dtype=torch.float64)
    logits = torch.stack((torch.zeros_like(odds), odds.log()), 1)
    target = torch.tensor([[0, 0, 0, 255]])
    loss = ohem_cross_entropy(
        logits, target, rule=rule, thresh=thresh, min_kept=min_kept, ignore_index=255
    )
    assert float(loss) == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_binary_segmentation_baseline_by_hand():
    logits, target = torch.zeros(2, 1, 2), torch.tensor([[[1.0, 0.0]]] * 2)
    terms = {"soft_bce": 1.0, "dice": 1.0}
    total, _ = segmentation_loss(logits, target, terms=terms, mode="binary")
    # At four pixels: overlap 2 halves, sums 2 and 2.
    assert float(total) == pytest.approx(math.log(2) + 1 - 2 * 1 / 4, rel=1e-6)


def test_boundary_baseline_by_hand():
    # Three pixels of class 0, three of class 1, probabilities 1/4 and 3/4. Of either class the
    # boundary is one pixel, found within the window of 3 that extends it.
    logits = torch.zeros(1, 2, 1, 6, dtype=torch.float64)
    logits[:, 0, :, :3] = logits[:, 1, :, 3:] = math.log(3)
    target = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
    f1 = 2 * 1 * 0.5 / (1 + 0.5)  # the predicted boundary is 3/4 - 1/4 there
    loss = boundary_loss(logits, target, theta0=3, theta=3)
    assert float(loss) == pytest.approx(1 - f1, rel=1e-6)


@pytest.mark.parametrize(("name", "share"), [("pair_iou.ssd.f", 0.96), ("pair_giou.rpn.f", 0.99)])
def test_most_pairs_are_disjoint(name, share):
    inputs = WORKLOADS[name].make_inputs(Source("cpu"), (8, 1000, 30))
    iou = pairwise_iou(*inputs.arguments, kind="iou", eps=1e-6)
    assert float((iou == 0).float().mean()) == pytest.approx(share, abs=0.01)


def test_most_pixels_are_right_and_some_ignored():
    logits, target = WORKLOADS["ce2d_ls"].make_inputs(Source("cpu"), (2, 19, 128, 128)).arguments
    valid = target != 255
    assert float(valid.float().mean()) == pytest.approx(0.95, abs=0.01)
    right = (logits.argmax(1) == target)[valid]
    assert float(right.float().mean()) == pytest.approx(0.75, abs=0.05)


def test_assignment_baseline_by_hand():
    cost = torch.tensor([[[4.0, 1.0, 9.0], [2.0, 0.0, 9.0]], [[1.0, 0.0, 0.0], [1.0, 5.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert linear_assignment(cost, mask).tolist() == [[1, 0, -1], [-1, -1, 0]]
