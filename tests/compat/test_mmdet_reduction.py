"""weighted_loss, weight_reduce_loss, reduce_loss against mmdet's, and the examples of mmdet's
documentation.
"""

import numpy
import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

LOSS = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reduce_loss(reduction):
    assert_parity(mmdet.reduce_loss, upstream.reduce_loss, LOSS, reduction)
    assert_parity(mmdet.reduce_loss, upstream.reduce_loss, LOSS[:0], reduction)


@pytest.mark.parametrize(
    "weight", [None, WEIGHT, WEIGHT[:, :1], WEIGHT[0], WEIGHT.expand(2, 6, 4), 0.5]
)
@pytest.mark.parametrize(
    "reduction, avg_factor",
    [
        ("none", None),
        ("mean", None),
        ("sum", None),
        ("mean", 3),
        ("mean", 0.0),
        ("mean", torch.tensor(5.0)),
        ("none", 3),
    ],
)
def test_weight_reduce_loss(weight, reduction, avg_factor):
    assert_parity(
        mmdet.weight_reduce_loss, upstream.weight_reduce_loss, LOSS, weight, reduction, avg_factor
    )


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_numbers_of_numpy(reduction):
    options = {"reduction": reduction, "loss_weight": numpy.float32(2)}
    for avg_factor in (None, numpy.float32(3), numpy.int64(3)):
        losses = mmdet.L1Loss(**options), upstream.L1Loss(**options)
        assert_parity(*losses, LOSS, WEIGHT, None, avg_factor)


def user_loss(pred, target, power=1.0):
    """Any function of a user, with an argument of its own."""
    return (pred - target).abs() ** power


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weighted_loss_on_a_users_function(reduction):
    ours, theirs = mmdet.weighted_loss(user_loss), upstream.weighted_loss(user_loss)
    assert ours.__name__ == "user_loss" and ours.__doc__ == user_loss.__doc__
    assert_parity(ours, theirs, LOSS, WEIGHT, LOSS[:, :1], reduction, power=1.5)
    assert_parity(ours, theirs, LOSS, WEIGHT, reduction=reduction)


def test_example_of_weighted_loss():
    """The docstring of mmdet's weighted_loss."""

    @mmdet.weighted_loss
    def l1_loss(pred, target):
        return (pred - target).abs()

    pred, target, weight = torch.Tensor([0, 2, 3]), torch.Tensor([1, 1, 1]), torch.Tensor([1, 0, 1])
    for loss in (l1_loss, mmdet.l1_loss):
        assert loss(pred, target) == torch.tensor(4.0) / 3
        assert loss(pred, target, weight) == 1.0
        assert loss(pred, target, reduction="none").tolist() == [1.0, 1.0, 2.0]
        assert loss(pred, target, weight, avg_factor=2) == pytest.approx(1.5)


def test_example_of_l1_loss():
    """Eight differences that add up to 9; without the one at weight 0 they add up to 8."""
    pred = torch.tensor([[0.0, 2.0, 3.0, 1.0], [2.0, 3.0, 0.0, 2.0]])
    target = torch.ones(2, 4)
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    loss = mmdet.build_loss({"type": "L1Loss", "reduction": "mean", "loss_weight": 1.0})
    assert loss(pred, target) == 9 / 8
    assert loss(pred, target, weight) == 8 / 8
    assert loss(pred, target, weight, avg_factor=7) == pytest.approx(8 / 7)
    assert loss(pred, target, weight, reduction_override="sum") == 8


def test_example_of_a_users_class():
    """mmdet's guide on customising losses: a registered class around a weighted function."""

    @mmdet.weighted_loss
    def my_loss(pred, target):
        return torch.abs(pred - target)

    @mmdet.LOSSES.register_module(force=True)
    class MyLoss(torch.nn.Module):
        def __init__(self, reduction="mean", loss_weight=1.0):
            super().__init__()
            self.reduction = reduction
            self.loss_weight = loss_weight

        def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
            reduction = reduction_override or self.reduction
            return self.loss_weight * my_loss(
                pred, target, weight, reduction=reduction, avg_factor=avg_factor
            )

    loss = mmdet.build_loss({"type": "MyLoss", "loss_weight": 2.0})
    assert_parity(loss, upstream.L1Loss(loss_weight=2.0), LOSS, WEIGHT)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.reduce_loss(LOSS, "max"),
        lambda m: m.weight_reduce_loss(LOSS, None, "max"),
        lambda m: m.weight_reduce_loss(LOSS, None, "sum", 3),
        lambda m: m.weight_reduce_loss(LOSS, None, "max", 3),
    ],
)
def test_errors(call):
    with pytest.raises(ValueError):  # noqa: PT011
        call(upstream)
    with pytest.raises(ValueError, match="max|sum"):
        call(mmdet)
