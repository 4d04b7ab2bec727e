"""What a call of `embedding_distance` accepts, beside what test_errors.py has."""

import pytest
import torch

import fastloss.functional as F
from fastloss.ops.embedding_distance import mined_weight
from fastloss.testing import assert_matches

G = torch.Generator().manual_seed(0)
PRED, TARGET = torch.rand(6, 50, generator=G), torch.rand(6, 50, generator=G) < 0.05
LOSS = F.embedding_distance(PRED, TARGET)


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int64, torch.half, torch.double), ids=str)
def test_targets_of_any_dtype(dtype):
    assert torch.equal(F.embedding_distance(PRED, TARGET.to(dtype)), LOSS)


def test_target_that_requires_a_gradient():
    target = TARGET.float().requires_grad_()
    for function in (F.embedding_distance, mined_weight):
        with pytest.raises(ValueError, match=r"target has no gradient here: pass target.detach\("):
            function(PRED, target)


def test_weight_is_the_third_argument():
    weight = torch.rand(50, generator=G)
    assert torch.equal(
        F.embedding_distance(PRED, TARGET, weight),
        F.embedding_distance(PRED, TARGET, weight=weight.expand(6, 50)),
    )


def test_divisor_is_the_number_of_pairs_that_count():
    count = 4 * TARGET.sum()  # the positives, and three negatives for each
    for factor in (count, float(count)):
        assert_matches(F.embedding_distance(PRED, TARGET, avg_factor=factor), LOSS.double())
    assert_matches(F.embedding_distance(PRED, TARGET, reduction="sum") / count, LOSS.double())


def test_a_scalar_and_nothing():
    assert_matches(F.embedding_distance(torch.tensor(0.8), torch.tensor(0)), torch.tensor(0.25))
    pred = torch.zeros(0, 3, requires_grad=True)
    loss = F.embedding_distance(pred, torch.zeros(0, 3))
    assert loss == 0 and torch.autograd.grad(loss, pred)[0].shape == (0, 3)


def test_gradient_of_the_mined_weight_formula():
    """mined_weight is differentiable, and makes the same loss."""
    pred = PRED.clone().requires_grad_()
    weight = (torch.rand(6, 50, generator=G) + 0.1).requires_grad_()
    inside, mined, left = mined_weight(pred, TARGET, weight, pos_margin=0.1)
    value = ((inside - TARGET.float()).square() * mined).sum() / left
    expected = torch.autograd.grad(value, (pred, weight))
    loss = F.embedding_distance(pred, TARGET, weight, pos_margin=0.1)
    assert_matches(loss, value.double())
    for gradient, exact in zip(torch.autograd.grad(loss, (pred, weight)), expected):
        assert_matches(gradient, exact.double())


def test_a_dropped_negative_may_be_anything():
    """Random mining drops some of the NaN, which then spoil nothing."""
    pred = torch.full((40,), torch.nan)
    pred[0] = 0.5
    torch.manual_seed(0)
    target = torch.zeros(40)
    target[0] = 1
    loss = F.embedding_distance(pred.requires_grad_(), target, hard_mining=False, reduction="none")
    assert loss.isnan().sum() == 3 and not torch.autograd.grad(loss[0], pred)[0][1:].any()
