"""BoundedIoULoss and its function against mmdet's: a value per coordinate."""

import pytest
import references
import torch
from parity import assert_parity
from test_mmdet_boxes import AVG_FACTORS, EDGES, NOT_POSITIVE, N, boxes, weights

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

# mmdet multiplies (n, 4) by the weight as it is, and takes (n,) only where its shortcut holds.
PER_ROW = ["rows", "half zero", "signed"]
POSITIVE = [name for name in weights() if name not in (*NOT_POSITIVE, *PER_ROW)]


def make(**options):
    return mmdet.BoundedIoULoss(**options), upstream.BoundedIoULoss(**options)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("apart", [0, 8])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_class(reduction, apart, dtype):
    pred, target = boxes()
    losses = make(beta=0.35, reduction=reduction, loss_weight=2.5)
    assert_parity(*losses, pred, target + apart, dtype=dtype, scale=1)


def test_one_value_per_coordinate():
    assert mmdet.BoundedIoULoss(reduction="none")(*boxes()).shape == (N, 4)
    whole = mmdet.BoundedIoULoss(reduction="sum")(*boxes())
    torch.testing.assert_close(mmdet.BoundedIoULoss()(*boxes()), whole / (4 * N))


@pytest.mark.parametrize("weight", [*POSITIVE, *NOT_POSITIVE])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weight(reduction, weight):
    assert_parity(*make(reduction=reduction, loss_weight=2.0), *boxes(), weights()[weight], scale=1)


@pytest.mark.parametrize("weight", POSITIVE)
def test_weight_without_reduction(weight):
    losses = make(reduction="none", loss_weight=2.0)
    assert_parity(*losses, *boxes(), weights()[weight], scale=1)


@pytest.mark.parametrize("weight", NOT_POSITIVE)
def test_shortcut_without_reduction(weight):
    # mmdet returns a scalar; ours keeps the shape, and sums to that scalar.
    ours, theirs = make(reduction="none")
    assert ours(*boxes(), weights()[weight]).shape == (N, 4)
    assert_parity(lambda *args: ours(*args).sum(), theirs, *boxes(), weights()[weight], scale=1)


@pytest.mark.parametrize("weight", PER_ROW)
def test_weight_per_row(weight):
    ours, theirs = make()
    rows = weights()[weight]
    with pytest.raises(RuntimeError):
        theirs(*boxes(), rows)
    assert_parity(ours, lambda p, t, w: theirs(p, t, w[:, None]), *boxes(), rows, scale=1)


def test_with_four_boxes_a_weight_per_row_weights_the_columns():
    assert_parity(*make(), *boxes(4), weights()["rows"][:4], scale=1)


@pytest.mark.parametrize("avg_factor", AVG_FACTORS.items(), ids=lambda item: item[0])
@pytest.mark.parametrize("weight", ["none", "full", "zero", "negative full"])
def test_avg_factor_and_override(weight, avg_factor):
    ours, theirs = make(reduction="sum", loss_weight=2.0)
    extra = {"avg_factor": avg_factor[1], "reduction_override": "mean"}
    assert_parity(ours, theirs, *boxes(), weights()[weight], scale=1, **extra)


# The centres of the pair left out are equal but for rounding: the sign of their distance is chance.
@pytest.mark.parametrize("edge", [edge for edge in EDGES if edge != "unit square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_edge_boxes(edge, dtype):
    pred, target = (torch.tensor([box], dtype=torch.float64) for box in EDGES[edge])
    assert_parity(*make(reduction="none"), pred, target, dtype=dtype, scale=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_identical_boxes(dtype):
    _, target = boxes()
    assert_parity(*make(reduction="none"), target, target.clone(), dtype=dtype, scale=1)


def test_the_target_has_no_gradient():
    pred, target = (x.requires_grad_() for x in boxes())
    for loss in make():
        loss(pred, target).backward()
    assert pred.grad is not None and target.grad is None
    assert not mmdet.BoundedIoULoss()(pred.detach(), target).requires_grad


@pytest.mark.parametrize("weight_shape", [None, (0,), (0, 4)])
@pytest.mark.parametrize("avg_factor", [None, 0.0, 3.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_no_boxes(reduction, avg_factor, weight_shape):
    ours, theirs = make(reduction=reduction, loss_weight=-1.0)
    empty = torch.zeros(0, 4)
    weight = None if weight_shape is None else torch.zeros(weight_shape)
    if reduction == "sum" and avg_factor is not None and weight is None:
        with pytest.raises(ValueError, match="sum"):
            ours(empty, empty, weight, avg_factor)
        return
    assert_parity(ours, theirs, empty, empty, weight, avg_factor)
    assert ours(empty.clone().requires_grad_(), empty, weight, avg_factor).requires_grad


def test_function():
    ours, theirs = mmdet.bounded_iou_loss, upstream.bounded_iou_loss
    pred, target = boxes()
    for reduction in ("none", "mean", "sum"):
        assert_parity(ours, theirs, pred, target, weights()["full"], reduction, scale=1)
    assert_parity(ours, theirs, pred, target, None, "mean", 5, beta=0.5, eps=1e-2, scale=1)
    # Plain torch broadcasting: the weight enlarges the loss.
    enlarged = weights()["full"].expand(2, N, 4)
    assert_parity(ours, theirs, pred, target, enlarged, "mean", scale=1)
    assert_parity(ours, theirs, pred, target[:1], None, "none", scale=1)


def test_strides_and_mixed_dtypes():
    pred, target = boxes()
    ours, theirs = make(reduction="none")
    strided = pred.t().contiguous().t(), target[::2].repeat_interleave(2, 0)[:N]
    assert_parity(ours, theirs, *strided, weights()["full"], scale=1)
    mixed = ours(pred.float(), target.double()), theirs(pred.float(), target.double())
    assert mixed[0].dtype == mixed[1].dtype
    # mmdet rounds the centres and sizes of pred to float32 first.
    torch.testing.assert_close(*mixed, rtol=1e-4, atol=1e-5)


ERRORS = {
    "override": (
        lambda m: m.BoundedIoULoss()(*boxes(), reduction_override="max"),
        "reduction_override must be .*max",
    ),
    "sum with avg_factor": (
        lambda m: m.BoundedIoULoss(reduction="sum")(*boxes(), avg_factor=2),
        "avg_factor",
    ),
    "reduction": (lambda m: m.BoundedIoULoss(reduction="max")(*boxes()), "reduction"),
    "lengths": (lambda m: m.BoundedIoULoss()(boxes()[0], boxes()[1][:5]), None),
    "weight": (lambda m: m.BoundedIoULoss()(*boxes(), torch.rand(N, 3)), None),
    "unexpected argument": (lambda m: m.BoundedIoULoss()(*boxes(), colour=1), "colour"),
    "argument given twice": (lambda m: m.BoundedIoULoss()(*boxes(), beta=0.3), "beta"),
}


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type
