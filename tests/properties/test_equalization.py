"""Equalization loss against torch's binary cross entropy with a weight for each entry."""

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches


def draw(seed, rows, classes):
    logits, weights = 3 * tensor(seed, rows, classes), tensor(seed + 1, 2, classes).abs()
    g = torch.Generator().manual_seed(seed)
    return logits, torch.randint(0, classes, (rows,), generator=g), *weights


@given(seeds, st.sampled_from((0, 1, 3, 130)), st.integers(1, 40), st.sampled_from(("mean", "sum")))
def test_equals_a_weighted_cross_entropy(seed, rows, classes, reduction):
    logits, labels, pos, neg = draw(seed, rows, classes)
    x, y = (logits.clone().requires_grad_() for _ in range(2))
    options = {"reduction": reduction, "gradient_sums": True}
    loss, positive, negative = F.equalization_loss(x, labels, pos, neg, **options)
    hot = torch.nn.functional.one_hot(labels, classes).double()
    each = torch.nn.functional.binary_cross_entropy_with_logits(y, hot, hot * pos + (1 - hot) * neg)
    each = each * max(y.numel(), 1) if y.numel() else y.sum()
    divisor = max(rows, 1) if reduction == "mean" else 1
    assert_matches(loss, each / divisor)
    (g_x,), (g_y,) = torch.autograd.grad(loss, x), torch.autograd.grad(each, y)
    assert_matches(g_x, g_y / divisor)
    # The gradient of the sum of the losses, by sign: what the weights of the next step follow from.
    assert_matches(positive, (g_y * hot).abs().sum(0))
    assert_matches(negative, (g_y * (1 - hot)).sum(0))
    assert not positive.requires_grad and not negative.requires_grad


@given(seeds, st.sampled_from(((1, 1), (3, 5), (70, 33))), dtypes, layouts)
def test_equals_reference(seed, shape, dtype, layout):
    names = ("logits", "labels", "pos_weight", "neg_weight")
    inputs = dict(zip(names, draw(seed, *shape)))
    assert_like_reference(Sample("random", F.equalization_loss, inputs, {}, ()), dtype, layout)
