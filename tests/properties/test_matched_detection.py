"""Losses of matched predictions against a loop over all pairs, written with torch.nn.functional."""

import math

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as tf
from hypothesis import given, settings
from strategies import assert_like_reference, dtypes, layouts, seeds

import fastloss
import fastloss.functional as F
from fastloss.reference.matched_detection import CLASS_LOSSES, DISTANCES, IOU_KINDS
from fastloss.testing import Sample, implementation
from fastloss.testing.samples.matched_detection import CONSTANT, problem

EPS = 1e-7
sizes = st.tuples(*(st.integers(1, bound) for bound in (2, 6, 6, 9)))
kinds = st.sampled_from(CLASS_LOSSES)


def inputs_of(seed, shape, dense=True):
    """Of float64, with class weights in [0.5, 1.5)."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.rand(shape[3], generator=g, dtype=torch.float64) + 0.5
    return problem(g, *shape, dense=dense), weight


def class_loss(x, label, cls_loss, alpha, gamma):
    """Of logits (C); the label C is no class."""
    if cls_loss == "cross_entropy":
        return tf.cross_entropy(x[None], torch.tensor([label]))
    if cls_loss == "negative_prob":
        return -x.softmax(0)[label]
    target = tf.one_hot(torch.tensor(label), len(x) + 1)[:-1].to(x.dtype)
    loss = tf.binary_cross_entropy_with_logits(x, target, reduction="none")
    factor = torch.where(target > 0, alpha, 1 - alpha) if alpha >= 0 else 1
    return (factor * (1 - torch.exp(-loss)) ** gamma * loss).sum()


def iou_loss(a, b, kind):
    """1 - similarity of proper boxes (4)."""
    inter = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    hull = torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter
    if kind in ("iou", "giou"):
        iou = inter / union
        return 1 - iou if kind == "iou" else 1 - (iou - (hull.prod() - union) / hull.prod())
    iou = inter / (union + EPS)
    shift = ((a[:2] + a[2:]) - (b[:2] + b[2:])).square().sum() / 4
    loss = 1 - (iou - shift / (hull.square().sum() + EPS))
    if kind == "ciou":
        angles = [torch.atan((x[2] - x[0]) / (x[3] - x[1] + EPS)) for x in (a, b)]
        v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
        loss = loss + ((iou > 0.5) * v / (1 - iou + v)).detach() * v
    return loss


def distance_loss(a, b, kind, beta):
    if kind == "smooth_l1":
        return tf.smooth_l1_loss(a, b, beta=beta, reduction="sum")
    return {"l1": tf.l1_loss, "mse": tf.mse_loss}[kind](a, b, reduction="sum")


def parts(
    inputs, weight, cls_loss="cross_entropy", background=0, alpha=-1.0, gamma=2.0,
    distance="l1", beta=1.0, distance_weight=5.0, iou_kind="giou", iou_weight=2.0,
):  # fmt: skip
    """c, n, b, the masses at targets and the weighted ones, (B, N) each."""
    logits, boxes, labels, targets, mask, matching = inputs.values()
    focal = cls_loss == "sigmoid_focal"
    w = [1.0] * (logits.shape[2] + 1) if focal or weight is None else weight.tolist()
    nothing = logits.shape[2] if focal else background % logits.shape[2]
    rows = []
    for b, i in torch.cartesian_prod(*map(torch.arange, logits.shape[:2])).tolist():
        x, own, masses = logits[b, i], boxes[b, i], matching[b, i].tolist()
        c, pairs, matched, weighted = x.sum() * 0, own.sum() * 0, 0.0, 0.0
        for j, mass in enumerate(masses[:-1]):
            if mass and (mask is None or mask[b, j]):
                y, target = int(labels[b, j]), targets[b, j]
                c = c + mass * w[y] * class_loss(x, y, cls_loss, alpha, gamma)
                pairs = pairs + mass * (
                    distance_weight * distance_loss(own, target, distance, beta)
                    + iou_weight * iou_loss(own, target, iou_kind)
                )
                matched, weighted = matched + mass, weighted + mass * w[y]
        n = masses[-1] * w[nothing] * class_loss(x, nothing, cls_loss, alpha, gamma)
        rows.append(torch.stack((c, n, pairs, x.new_tensor(matched), x.new_tensor(weighted))))
    return torch.stack(rows).T.reshape(5, *logits.shape[:2])


def leaves(inputs):
    """The inputs with gradients to logits and boxes, and both."""
    given = {name: inputs[name].clone().requires_grad_() for name in ("logits", "boxes")}
    return {**inputs, **given}, list(given.values())


def check_like_the_loop(inputs, weight, options):
    """Values and gradients of every prediction."""
    given, wanted = leaves(inputs)
    loss = F.matched_detection(**given, class_weight=weight, **options, reduction="none")
    expected = parts(given, weight, **options)[:3].sum(0)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    incoming = torch.randn(loss.shape, generator=torch.Generator().manual_seed(0)).double()
    gradients = torch.autograd.grad(loss, wanted, incoming)
    for found, other in zip(gradients, torch.autograd.grad(expected, wanted, incoming)):
        torch.testing.assert_close(found, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(seeds, sizes, kinds, st.booleans(), st.sampled_from(DISTANCES), st.sampled_from(IOU_KINDS),
       st.sampled_from((-1.0, 0.0, 0.25, 1.0)), st.sampled_from((0.0, 1.0, 2.0, 0.7)))  # fmt: skip
def test_every_prediction(seed, shape, cls_loss, dense, distance, iou_kind, alpha, gamma):
    inputs, weight = inputs_of(seed, shape, dense)
    options = {"cls_loss": cls_loss, "distance": distance, "iou_kind": iou_kind, "beta": 0.2}
    options |= {"distance_weight": 0.3, "iou_weight": -0.7}
    if cls_loss == "sigmoid_focal":
        options |= {"alpha": alpha, "gamma": gamma}
        inputs["labels"] = (inputs["labels"] + seed % 2).clamp(max=shape[3])
    else:
        options["background"] = seed % (2 * shape[3]) - shape[3]
    check_like_the_loop(inputs, None if cls_loss == "sigmoid_focal" else weight, options)


@pytest.mark.parametrize("dense", (True, False), ids=("dense", "one-hot"))
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_every_prediction_on_a_gpu(cls_loss, dense, triton_kernels):
    """More predictions, targets and classes than a program has at a time."""
    inputs, weight = inputs_of(1, (1, 9, 33, 131), dense)
    with implementation("triton"):
        for iou_kind, distance in zip(IOU_KINDS, (*DISTANCES, "l1")):
            options = {"cls_loss": cls_loss, "iou_kind": iou_kind, "distance": distance}
            options |= {"beta": 0.2, "background": 130 if cls_loss != "sigmoid_focal" else 0}
            check_like_the_loop(inputs, None if cls_loss == "sigmoid_focal" else weight, options)


@given(seeds, sizes, kinds, st.booleans(), st.booleans())
def test_reductions(seed, shape, cls_loss, weighted, mined):
    """ "mean" divides the class losses by the masses that count, the others by the positives."""
    inputs, weight = inputs_of(seed, shape)
    focal = cls_loss == "sigmoid_focal"
    weight = weight if weighted and not focal else None
    c, n, b, matched, positives = parts(inputs, weight, cls_loss, background=-1)
    ratio = 0.5 if mined else None
    if mined:
        n = torch.where(mined_by_loop(n, inputs["matching"][..., -1], 0.5 * matched.sum(1)), n, 0)
    options = {"cls_loss": cls_loss, "class_weight": weight, "background": -1, "cls_weight": 0.6}
    options["neg_to_pos_ratio"] = ratio
    total = positives.sum().clamp(min=1)
    negatives = inputs["matching"][..., -1].sum() * (1 if weight is None else weight[-1])
    counted = total if focal or mined else total + negatives
    expected = {
        "none": 0.6 * (c + n) + b,
        "sum": (0.6 * (c + n) + b).sum(),
        "mean": 0.6 * (c + n).sum() / counted + b.sum() / total,
    }
    for reduction, value in expected.items():
        loss = F.matched_detection(**inputs, **options, reduction=reduction)
        torch.testing.assert_close(loss, value, rtol=1e-10, atol=1e-10)


def mined_by_loop(loss, masses, budgets):
    """Negatives in descending order of their losses, of equal ones the first, while they fit."""
    hard = torch.zeros_like(loss, dtype=torch.bool)
    for b, (row, mass) in enumerate(zip(loss.tolist(), masses.tolist())):
        total = 0.0
        for i in sorted(range(len(row)), key=lambda i: (-row[i], i)):
            total += mass[i]
            hard[b, i] = mass[i] > 0 and total <= budgets[b]
    return hard


@pytest.mark.parametrize("ratio", (0.0, 0.5, 1.0, 2.0, 3.0, 100.0))
@pytest.mark.parametrize("language", ("auto", "triton"))
def test_mining_takes_the_first_of_equal_losses(language, ratio, triton_kernels):
    """Two images of 3 and 1 positives, all of whose background losses are one of two."""
    logits = torch.zeros(2, 12, 3)
    logits[:, 1::2, 0] = -1.0
    boxes = torch.rand(2, 12, 2, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 2) + 1
    matching = torch.zeros(2, 12, 4)
    matching[0, [1, 4, 9], [0, 1, 2]] = 1
    matching[1, 0, 2] = 1
    matching[..., -1] = 1 - matching[..., :-1].sum(-1)
    inputs = {"logits": logits, "boxes": boxes, "labels": torch.tensor([[1, 2, 1]] * 2)}
    inputs |= {"target_boxes": boxes[:, :3], "mask": None, "matching": matching}
    options = {"distance_weight": 0, "iou_weight": 0}
    c, n, _, matched, _ = parts(inputs, None, **options)
    hard = mined_by_loop(n, matching[..., -1], ratio * matched.sum(1))
    assert hard.sum(1).tolist() == [min(9, 3 * ratio // 1), min(11, ratio // 1)]
    with implementation("triton") if language == "triton" else fastloss.backend("auto"):
        loss = F.matched_detection(**inputs, **options, neg_to_pos_ratio=ratio, reduction="none")
    torch.testing.assert_close(loss, torch.where(hard, n, 0) + c)


@given(seeds, sizes, kinds, dtypes, layouts)
def test_any_dtype_and_layout(seed, shape, cls_loss, dtype, layout):
    inputs, _ = inputs_of(seed, shape)
    # The expanded layout makes all images one.
    inputs["matching"][..., :-1] *= inputs["mask"][:, None]
    options = {"cls_loss": cls_loss, "reduction": "none"}
    sample = Sample("detection", F.matched_detection, inputs, options, constant=CONSTANT, scale=1.0)
    assert_like_reference(sample, dtype, layout)


@given(seeds, sizes, kinds)
def test_order_of_predictions_and_targets(seed, shape, cls_loss):
    inputs, _ = inputs_of(seed, shape)
    options = {"cls_loss": cls_loss, "reduction": "none"}
    loss = F.matched_detection(**inputs, **options)
    g = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(n, generator=g) for n in shape[1:3])
    moved = {name: inputs[name][:, rows] for name in ("logits", "boxes")}
    moved |= {name: inputs[name][:, columns] for name in ("labels", "target_boxes", "mask")}
    every = torch.cat((columns, torch.tensor([shape[2]])))
    moved["matching"] = inputs["matching"][:, rows][..., every]
    other = F.matched_detection(**moved, **options)
    torch.testing.assert_close(other, loss[:, rows], rtol=1e-12, atol=1e-12)


@given(seeds, sizes, kinds, st.sampled_from((None, 1.0)))
def test_padding_changes_nothing(seed, shape, cls_loss, ratio):
    """Whatever it holds, masses included."""
    inputs, _ = inputs_of(seed, shape)
    batch = shape[0]
    padded = {
        **inputs,
        "labels": torch.cat((torch.full((batch, 2), -100), inputs["labels"]), 1),
        "target_boxes": torch.cat((torch.full((batch, 2, 4), math.nan), inputs["target_boxes"]), 1),
        "mask": torch.cat((torch.zeros(batch, 2, dtype=torch.bool), inputs["mask"]), 1),
        "matching": torch.cat((inputs["matching"][..., :2] * 0 + 3, inputs["matching"]), 2),
    }
    if padded["matching"].shape[2] != shape[2] + 3:  # a single target has two columns
        return
    for reduction in ("none", "mean"):
        options = {"cls_loss": cls_loss, "neg_to_pos_ratio": ratio, "reduction": reduction}
        results = []
        for given_inputs in (inputs, padded):
            given_inputs, wanted = leaves(given_inputs)
            loss = F.matched_detection(**given_inputs, **options)
            results.append((loss, *torch.autograd.grad(loss.sum(), wanted)))
        for x, y in zip(*results):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@given(seeds, sizes, kinds)
def test_linear_in_the_masses(seed, shape, cls_loss):
    inputs, _ = inputs_of(seed, shape)
    other, _ = inputs_of(seed + 1, shape)

    def loss(matching):
        given, wanted = leaves({**inputs, "matching": matching})
        value = F.matched_detection(**given, cls_loss=cls_loss, reduction="none")
        return torch.cat([x.flatten() for x in (value, *torch.autograd.grad(value.sum(), wanted))])

    first, second = inputs["matching"], other["matching"]
    expected = 0.25 * loss(first) + 3 * loss(second)
    torch.testing.assert_close(loss(0.25 * first + 3 * second), expected, rtol=1e-11, atol=1e-11)


@given(seeds, sizes, st.sampled_from(IOU_KINDS), st.sampled_from(DISTANCES))
def test_one_hot_is_cross_entropy_and_box_losses_of_the_pairs(seed, shape, iou_kind, distance):
    """Of an assignment, each prediction to a target or to the background."""
    inputs, weight = inputs_of(seed, shape)
    g = torch.Generator().manual_seed(seed)
    batch, n, m, classes = shape
    column = torch.randint(0, m + 1, (batch, n), generator=g)  # m: the background
    inputs |= {"mask": None, "matching": tf.one_hot(column, m + 1).double()}
    options = {"iou_kind": iou_kind, "distance": distance, "beta": 0.3, "class_weight": weight}
    loss = F.matched_detection(**inputs, **options, background=-1, reduction="none")

    labels = tf.pad(inputs["labels"], (0, 1), value=classes - 1).gather(1, column)
    targets = tf.pad(inputs["target_boxes"], (0, 0, 0, 1)).gather(
        1, column[..., None].expand(-1, -1, 4)
    )
    each = {"reduction": "none"}
    distances = F.regression_loss(inputs["boxes"], targets, kind=distance, beta=0.3, **each)
    kind = {"kind": iou_kind, "eps": EPS} | ({"union_eps": EPS} if iou_kind != "iou" else {})
    similarity = F.box_loss(inputs["boxes"].flatten(0, 1), targets.flatten(0, 1), **kind, **each)
    if iou_kind == "iou":  # box_loss has a floor for it
        diagonal = F.pairwise_iou(inputs["boxes"][..., None, :], targets[..., None, :], eps=EPS)
        similarity = 1 - diagonal.flatten()
    pairs = 5 * distances.sum(-1) + 2 * similarity.reshape(batch, n)
    expected = F.cross_entropy(
        inputs["logits"].mT, labels, class_weight=weight, reduction="none"
    ) + torch.where(column < m, pairs, 0)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dense", (True, False), ids=("dense", "one-hot"))
@pytest.mark.parametrize("iou_kind", IOU_KINDS[:3])  # alpha of CIoU is a constant
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_gradients_by_finite_differences(cls_loss, iou_kind, dense):
    given, wanted = leaves(inputs_of(5, (2, 4, 3, 5), dense)[0])
    options = {"cls_loss": cls_loss, "iou_kind": iou_kind}
    for reduction in ("none", "mean"):

        def loss(logits, boxes, reduction=reduction):
            changed = {**given, "logits": logits, "boxes": boxes}
            return F.matched_detection(**changed, **options, reduction=reduction)

        assert torch.autograd.gradcheck(loss, wanted)


@pytest.mark.parametrize("ratio", (None, 3.0))
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_nothing_is_made_for_each_class_or_pair_but_the_gradient(cls_loss, ratio):
    """By an op, or by torch around it; a tensor is known by its size."""
    from torch.utils._python_dispatch import TorchDispatchMode

    batch, n, m, classes = 2, 17, 13, 11
    small = 5 * batch * n

    class Large(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.made = []

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            result = op(*args, **(kwargs or {}))
            known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
            for r in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(r, torch.Tensor) and r.numel() > small:
                    if r.untyped_storage().data_ptr() not in known:
                        self.made.append((op.name(), tuple(r.shape)))
            return result

    given, wanted = leaves(inputs_of(0, (batch, n, m, classes))[0])
    with Large() as seen:
        loss = F.matched_detection(**given, cls_loss=cls_loss, neg_to_pos_ratio=ratio)
        assert not seen.made
        torch.autograd.grad(loss, wanted)
    assert seen.made == [("fastloss::matched_detection_backward", (batch, n, classes))]


@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_many_predictions_on_several_threads(cls_loss):
    inputs, _ = inputs_of(0, (3, 700, 20, 33))
    inputs = {k: x.float() if x.is_floating_point() else x for k, x in inputs.items()}
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            given, wanted = leaves(inputs)
            loss = F.matched_detection(**given, cls_loss=cls_loss, reduction="none")
            results.append((loss, *torch.autograd.grad(loss.sum(), wanted)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other))
