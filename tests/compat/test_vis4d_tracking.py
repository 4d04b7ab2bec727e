"""The functions that vis4d's tracking losses compute, against vis4d's."""

import itertools

import pytest
import torch
from references import or_skip, vis4d

import fastloss.functional as F
from fastloss.ops.embedding_distance import mined_weight
from fastloss.testing import assert_matches

upstream = or_skip(vis4d)


def both(function, reference, *leaves):
    """Value and gradients of the two."""
    for f in (function, reference):
        value = f()
        yield [value, *torch.autograd.grad(value.sum(), leaves)]


def compare(function, reference, *leaves):
    for actual, expected in zip(*both(function, reference, *leaves)):
        assert_matches(actual, expected)


@pytest.mark.parametrize("most", (1, 2, 5))
def test_multi_positive_cross_entropy(most):
    """With targets of up to `most`, those above 1 in both sets."""
    g = torch.Generator().manual_seed(1)
    pred = (torch.randn(9, 13, generator=g, dtype=torch.float64) * 3).requires_grad_()
    target = torch.randint(0, most + 1, pred.shape, generator=g)
    target[0], target[1] = 0, 1
    weight = torch.rand(9, generator=g, dtype=torch.float64).requires_grad_()
    loss = upstream.MultiPosCrossEntropyLoss()
    compare(
        lambda: F.multi_positive_cross_entropy(
            pred, target, weight=weight, avg_factor=2.5, others_in_both=True
        ),
        lambda: loss(pred, target, weight, 2.5),
        pred,
        weight,
    )
    compare(
        lambda: F.multi_positive_cross_entropy(pred, target, reduction="none", others_in_both=True),
        lambda: upstream.multi_pos_cross_entropy(pred, target, upstream.identity_loss),
        pred,
    )


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize(
    "options",
    [
        dict(zip(("neg_pos_ub", "pos_margin", "neg_margin"), values))
        for values in itertools.product((-1.0, 0.3, 1.0, 3.0), (-0.1, 0.0, 0.2), (0.0, 0.3))
    ],
    ids=str,
)
def test_embedding_distance(options, weighted):
    """Upstream writes to what it is given, so it gets copies."""
    g = torch.Generator().manual_seed(1)
    chance = torch.rand(9, 13, generator=g)
    target = torch.where(chance < 0.08, 1.0, torch.where(chance > 0.95, 0.5, 0.0)).double()
    pred = torch.rand(9, 13, generator=g, dtype=torch.float64) * 1.2 - 0.2
    # Of negatives clamped to the same number, which upstream's choice among is any, none is kept
    # while others are not.
    pred = torch.where(target == 0, pred, pred * 1.5).requires_grad_()
    weight = torch.rand(9, 13, generator=g, dtype=torch.float64) * 1.5 - 0.3
    weight = weight.requires_grad_() if weighted else None
    loss = upstream.EmbeddingDistanceLoss(**options)

    def copies():
        return (
            pred.clone(),
            target.clone(),
            (torch.ones_like(pred) if weight is None else weight).clone(),
        )

    leaves = (pred,) if weight is None else (pred, weight)
    compare(
        lambda: F.embedding_distance(pred, target, weight, **options),
        lambda: loss(*copies()),
        *leaves,
    )
    for ours, theirs in zip(
        mined_weight(pred, target, weight, **options), loss.update_weight(*copies())
    ):
        assert_matches(ours, theirs.double())


def test_random_negatives_are_as_many():
    g = torch.Generator().manual_seed(1)
    pred, target = torch.rand(30, 40, generator=g), (torch.rand(30, 40, generator=g) < 0.05).float()
    loss = upstream.EmbeddingDistanceLoss(hard_mining=False)
    _, weight, count = mined_weight(pred, target, hard_mining=False)
    _, expected, expected_count = loss.update_weight(
        pred.clone(), target.clone(), torch.ones_like(pred)
    )
    assert count == expected_count
    for kind in (0, 1):
        assert weight[target == kind].sum() == expected[target == kind].sum()
