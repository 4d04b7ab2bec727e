"""Costs of predictions and targets against the formula, pair by pair, in Python."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, seeds

import fastloss.functional as F
from fastloss.reference.matching_cost import BOX_FORMATS, CLASS_COSTS, KINDS
from fastloss.testing import Sample
from fastloss.testing.samples.matching_cost import FLOATING, problem

sizes = st.tuples(*(st.integers(1, bound) for bound in (3, 9, 20, 20)))


def class_cost(logits: list[float], label: int, kind: str, alpha: float, gamma: float) -> float:
    if kind == "sigmoid_focal":
        p, q = (1 / (1 + math.exp(x)) for x in (-logits[label], logits[label]))
        a, b = (1, 1) if alpha < 0 else (alpha, 1 - alpha)
        positive = a * q**gamma * -math.log(p + 1e-8)
        return positive - b * p**gamma * -math.log(q + 1e-8)
    p = math.exp(logits[label]) / math.fsum(map(math.exp, logits))
    return -p if kind == "softmax" else -math.log(p)


def giou(a: list[float], b: list[float]) -> float:
    """Of proper boxes xyxy."""
    w, h = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - w * h
    w_hull, h_hull = (max(a[k + 2], b[k + 2]) - min(a[k], b[k]) for k in (0, 1))
    return w * h / union - (w_hull * h_hull - union) / (w_hull * h_hull)


def corners(box: list[float], box_format: str) -> list[float]:
    x, y, w, h = box
    return box if box_format == "xyxy" else [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


@given(seeds, sizes, st.sampled_from(CLASS_COSTS), st.sampled_from(BOX_FORMATS),
       st.sampled_from((-1.0, 0.0, 0.25, 1.0)), st.sampled_from((0.0, 1.0, 2.0, 0.7)))  # fmt: skip
def test_every_pair(seed, shape, cls_cost, box_format, alpha, gamma):
    inputs = problem(torch.Generator().manual_seed(seed), *shape)
    options = {"cls_weight": 1.5, "l1_weight": 0.3, "iou_weight": -0.7, "alpha": alpha}
    options |= {"cls_cost": cls_cost, "box_format": box_format, "gamma": gamma}
    cost = F.matching_cost(**inputs, **options)
    logits, boxes, labels, targets, mask = (x.tolist() for x in inputs.values())
    expected = torch.zeros_like(cost)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, cost.shape)).tolist():
        if mask[b][j]:
            own, target = boxes[b][i], targets[b][j]
            distance = sum(abs(x - y) for x, y in zip(own, target))
            expected[b, i, j] = (
                1.5 * class_cost(logits[b][i], labels[b][j], cls_cost, alpha, gamma)
                + 0.3 * distance
                + 0.7 * giou(corners(own, box_format), corners(target, box_format))
            )
    torch.testing.assert_close(cost, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", (1, 2, 15, 16, 17, 31, 32, 33, 47, 92, 300))
def test_any_number_of_classes_and_targets(classes):
    """Around the widths of vectors; each class has a target, and far larger a logit than others."""
    x = 4 * torch.randn(2, classes, classes, generator=torch.Generator().manual_seed(classes))
    x[1].diagonal().add_(200)
    x = x.double()
    boxes, labels = x.new_ones(2, classes, 4), torch.arange(classes).expand(2, -1)
    options = {"l1_weight": 0, "iou_weight": 0}
    p = x.sigmoid()
    focal = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
    expected = {"softmax": -x.softmax(-1), "nll": -x.log_softmax(-1), "sigmoid_focal": focal}
    for cls_cost in CLASS_COSTS:
        for dtype in (torch.float32, torch.float64):
            logits, own = x.to(dtype), boxes.to(dtype)
            target_boxes = own[:, :1].expand(-1, classes, -1)
            inputs = (logits, own, labels, target_boxes, None)
            cost = F.matching_cost(*inputs, cls_cost=cls_cost, **options)
            torch.testing.assert_close(cost.double(), expected[cls_cost], rtol=1e-5, atol=1e-6)


@given(seeds, sizes, st.sampled_from((*CLASS_COSTS, None)), st.sampled_from(KINDS), dtypes, layouts)
def test_any_dtype_and_layout(seed, shape, cls_cost, iou_kind, dtype, layout):
    inputs = problem(torch.Generator().manual_seed(seed), *shape)
    options = {"cls_cost": cls_cost, "iou_kind": iou_kind}
    sample = Sample("cost", F.matching_cost, inputs, options, constant=FLOATING, scale=1.0)
    assert_like_reference(sample, dtype, layout)


@given(seeds, sizes, st.sampled_from(CLASS_COSTS), st.sampled_from(KINDS))
def test_terms_add_up(seed, shape, cls_cost, iou_kind):
    inputs = problem(torch.Generator().manual_seed(seed), *shape)
    weights = {"cls_weight": 2.0, "l1_weight": -3.0, "iou_weight": 0.5}
    options = {"cls_cost": cls_cost, "iou_kind": iou_kind}
    zero = dict.fromkeys(weights, 0.0)
    terms = [F.matching_cost(**inputs, **options, **{**zero, k: w}) for k, w in weights.items()]
    terms.append(F.matching_cost(**inputs, **options, **zero, constant=1.5))
    whole = F.matching_cost(**inputs, **options, **weights, constant=1.5)
    torch.testing.assert_close(whole, sum(terms), rtol=1e-12, atol=1e-12)


@given(seeds, sizes, st.sampled_from(CLASS_COSTS))
def test_order_of_targets_and_predictions(seed, shape, cls_cost):
    """Each pair has the same bits wherever it stands."""
    g = torch.Generator().manual_seed(seed)
    inputs = {k: x.float() if x.is_floating_point() else x for k, x in problem(g, *shape).items()}
    cost = F.matching_cost(**inputs, cls_cost=cls_cost)
    rows, columns = (torch.randperm(n, generator=g) for n in shape[1:3])
    for name, order in zip(inputs, (rows, rows, columns, columns, columns)):
        inputs[name] = inputs[name][:, order]
    moved = F.matching_cost(**inputs, cls_cost=cls_cost)
    assert torch.equal(moved, cost[:, rows][:, :, columns])


@pytest.mark.parametrize("cls_cost", CLASS_COSTS)
def test_many_rows_on_several_threads(cls_cost):
    """Enough rows and images that the work is shared; some rows need more than float32."""
    g = torch.Generator().manual_seed(0)
    inputs = {k: x.float() if x.is_floating_point() else x
              for k, x in problem(g, 5, 700, 90, 33).items()}  # fmt: skip
    inputs["boxes"][:, ::50] *= 1e20
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(F.matching_cost(**inputs, cls_cost=cls_cost))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    tame = {**inputs, "boxes": inputs["boxes"].clone()}
    tame["boxes"][:, ::50] = 0.5
    others = torch.arange(700) % 50 != 0
    alone = F.matching_cost(**tame, cls_cost=cls_cost)
    assert torch.equal(results[0][:, others], alone[:, others])
