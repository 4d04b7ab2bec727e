"""What a call of `multi_positive_cross_entropy` accepts, beside what test_errors.py has."""

import pytest
import torch

import fastloss.functional as F
from fastloss.testing import assert_matches

X = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(35).reshape(5, 7) % 3 % 2
LOSS = F.multi_positive_cross_entropy(X, TARGET)


@pytest.mark.parametrize(
    "dtype",
    (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.half,
     torch.bfloat16, torch.float, torch.double),
    ids=str,
)  # fmt: skip
def test_targets_of_any_dtype(dtype):
    assert torch.equal(F.multi_positive_cross_entropy(X, TARGET.to(dtype)), LOSS)


def test_targets_are_compared_as_they_are():
    """1 + 1e-12 is not 1, though it is in the precision of the logits."""
    target = torch.where(TARGET == 1, 1 + 1e-12, TARGET.double())
    assert not F.multi_positive_cross_entropy(X, target, reduction="none").any()


def test_target_that_requires_a_gradient_has_none():
    x, target = X.clone().requires_grad_(), TARGET.float().requires_grad_()
    F.multi_positive_cross_entropy(x, target).backward()
    assert x.grad.any() and target.grad is None


def test_others_in_both_counts_their_pairs():
    """Of m such pairs alone: ln(1 + m^2)."""
    x = torch.full((1, 3), 9.0)
    loss = F.multi_positive_cross_entropy(x, torch.tensor([[2, -1, 7]]), others_in_both=True)
    assert_matches(loss, torch.tensor(10.0).double().log())


def test_weights_of_rows():
    w = torch.rand(5, generator=torch.Generator().manual_seed(1))
    rows = F.multi_positive_cross_entropy(X, TARGET, reduction="none")
    loss = F.multi_positive_cross_entropy(X, TARGET, weight=w, avg_factor=w.sum())
    assert_matches(loss, ((rows.double() * w).sum() / w.double().sum()))


@pytest.mark.parametrize("shape", ((7,), (2, 5, 7)))
def test_rows_of_pairs_are_wanted(shape):
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"logits must have shape \(N, M\), got "):
        F.multi_positive_cross_entropy(x, x)


def test_large_rows_are_summed_exactly():
    """Equal similarities: a million terms of 1 in each sum, which float32 sums would round."""
    x = torch.zeros(1, 2_000_000, requires_grad=True)
    target = torch.arange(2_000_000)[None] % 2
    loss = F.multi_positive_cross_entropy(x, target)
    assert_matches(loss, torch.tensor(1 + 1e12).double().log())
    (slopes,) = torch.autograd.grad(loss, x)
    assert_matches(slopes, torch.where(target == 1, -1e-6, 1e-6).double())
