"""What a call of `mask_dice_loss` accepts, and the sums of squares that it is made of."""

import contextlib

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss.ops import _segmentation as segmentation
from fastloss.reference.segmentation_table import bits, columns
from fastloss.testing import assert_matches, implementation

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 5, generator=GENERATOR, dtype=torch.float64)
T = torch.rand(3, 4, 5, generator=GENERATOR, dtype=torch.float64)


def by_definition(p, t, squared, eps):
    p, t = p.flatten(1), t.flatten(1).double()
    if squared:
        return 1 - 2 * (p * t).sum(1) / ((p**2).sum(1) + eps + (t**2).sum(1) + eps)
    return 1 - (2 * (p * t).sum(1) + eps) / (p.sum(1) + t.sum(1) + eps)


@pytest.mark.parametrize("squared", (False, True))
@pytest.mark.parametrize("target", (T, (T > 0.5).long(), T > 0.5), ids=("soft", "int", "bool"))
def test_is_its_definition(target, squared):
    x, t = X.clone().requires_grad_(), target.clone().requires_grad_(target.is_floating_point())
    leaves = [leaf for leaf in (x, t) if leaf.requires_grad]
    loss = F.mask_dice_loss(x, t, squared=squared, eps=0.3, reduction="none")
    expected = by_definition(x.sigmoid(), t, squared, 0.3)
    assert_matches(loss, expected)
    slopes = torch.autograd.grad(loss.sum(), leaves)
    for actual, wanted in zip(slopes, torch.autograd.grad(expected.sum(), leaves)):
        assert_matches(actual, wanted, scale=0.1)
    loss = F.mask_dice_loss(X.sigmoid(), target, squared=squared, eps=0.3, activated=True)
    assert_matches(loss, expected.mean())


def test_masks_without_anything():
    zero, far = torch.zeros(2, 6), torch.full((2, 6), -200.0)
    assert F.mask_dice_loss(far, zero) == 1
    assert F.mask_dice_loss(far, zero, squared=False) < 1e-30
    assert F.mask_dice_loss(far, zero, eps=0).isnan()
    assert F.mask_dice_loss(zero[:0], zero[:0]) == 0


def test_second_derivatives_in_the_reference():
    with fastloss.backend("reference"):
        assert torch.autograd.gradgradcheck(
            lambda x: F.mask_dice_loss(x, T[:1]), X[:1].clone().requires_grad_()
        )


@pytest.mark.parametrize("kind", ("dispatched", "triton"))
@pytest.mark.parametrize("activation", ("softmax", "sigmoid"))
def test_squares_of_class_indices(activation, kind):
    """What no loss asks of the table, but the op has: also of softmax, and with all of p."""
    x, label = X.clone().requires_grad_(), torch.arange(15).reshape(3, 5) % 4
    statistics = bits({"probability_squared", "target_squared", "probability", "product"})
    p = x.softmax(1) if activation == "softmax" else x.sigmoid()
    t = torch.nn.functional.one_hot(label, 4).mT.double()
    sums = {"target_squared": t, "probability": p, "product": p * t, "probability_squared": p * p}
    expected = torch.stack([sums[name].sum((0, 2)) for name in columns(statistics)])
    reading = segmentation.Reading(activation)
    with implementation(kind) if kind == "triton" else contextlib.nullcontext():
        actual = segmentation.table(x, label, statistics, *reading)[0]
        factors = torch.arange(16.0).reshape(4, 4) - 5
        (slopes,) = torch.autograd.grad((actual * factors).sum(), x)
    assert_matches(actual, expected)
    assert_matches(slopes, torch.autograd.grad((expected * factors).sum(), x)[0], scale=1)


ERRORS = [
    ({"logits": X[0, 0]}, ValueError, r"logits must have shape \(N, \*\), got \(5,\)"),
    ({"target": T.mT}, ValueError, r"target must have the shape of logits, \(3, 4, 5\), got \(3,"),
    ({"squared": 1}, TypeError, "squared must be True or False, got int"),
    ({"activated": None}, TypeError, "activated must be True or False, got NoneType"),
    ({"eps": -1e-3}, ValueError, "eps must be >= 0, got -0.001"),
]


@pytest.mark.parametrize("changes,error,message", ERRORS, ids=[str(list(c)) for c, *_ in ERRORS])
def test_error(changes, error, message):
    with pytest.raises(error, match=message):
        F.mask_dice_loss(**{"logits": X, "target": T, **changes})
