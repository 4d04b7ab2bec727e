"""What a call of `mask_dice_loss` accepts, and its numbers where they are hard to get."""

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss.testing import assert_matches

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


@pytest.mark.parametrize("squared", (False, True))
def test_no_digits_are_lost(squared):
    """Of a loss near 0, and of the gradient of a logit far above it."""
    t = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0]])
    x = (torch.tensor([30.0, 18.0, -20.0, -30.0, 25.0]) * torch.ones_like(t)).requires_grad_()
    wide = x.detach().double().requires_grad_()
    p, q = wide.sigmoid(), (-wide).sigmoid()
    rest = torch.where(t > 0, q, p)
    rest = (rest.square() if squared else rest).sum()
    expected = rest / ((p**2).sum() + 3 if squared else p.sum() + 3)
    loss = F.mask_dice_loss(x, t, squared=squared, eps=0)
    (slopes,), (wanted,) = (
        torch.autograd.grad(value, leaf) for value, leaf in ((loss, x), (expected, wide))
    )
    for actual, exact in ((loss, expected), (slopes, wanted)):
        assert torch.allclose(actual.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("threads", (1, 2))
def test_a_mask_that_threads_share(threads):
    size = 2**17 + 700
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, size, generator=g)
    t = torch.rand(2, size, generator=g).round().bool()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x.requires_grad_()
        loss = F.mask_dice_loss(x, t)
        (slopes,) = torch.autograd.grad(loss, x)
    finally:
        torch.set_num_threads(before)
    wide = x.detach().double().requires_grad_()
    expected = by_definition(wide.sigmoid(), t, True, 1e-3).mean()
    assert_matches(loss, expected)
    assert_matches(slopes, torch.autograd.grad(expected, wide)[0], scale=1e-6)


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
