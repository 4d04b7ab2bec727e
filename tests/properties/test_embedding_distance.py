"""Embedding distance against a loop over its pairs in Python."""

import math

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, seeds, tensor

import fastloss.functional as F
from fastloss.ops.embedding_distance import mined_weight
from fastloss.testing import Sample, assert_matches, implementation

pairs = st.lists(
    st.tuples(
        st.floats(-0.5, 1.8) | st.sampled_from((0.0, 1.0, 0.3, 1.3, math.inf, -math.inf)),
        st.sampled_from((0.0, 0.0, 1.0, 0.5)),
        st.sampled_from((1.0, 1.0, 0.25, 0.0, -2.0)),
    ),
    max_size=14,
)
limits = st.sampled_from((-1.0, 0.0, 0.4, 1.0, 1.5, 3.0, 1e300))
margins = st.sampled_from((-1.0, 0.0, 0.2, 0.3))
fewest = st.sampled_from((0.0, 1.0, 2.0))


def columns(rows):
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(1)


def expected(rows, limit, pos_margin, neg_margin, fewest):
    """Losses of pairs, weighted; the predictions and weights they are made of; the divisor."""
    inside, targets, weights, negatives = [], [], [], []
    for i, (x, t, w) in enumerate(rows):
        margin = {1.0: pos_margin, 0.0: neg_margin}.get(t, 0.0) if w > 0 else 0.0
        inside.append(min(max(x - max(margin, 0.0), 0.0), 1.0))
        targets.append(t if w > 0 else -1.0)
        weights.append(w)
        if w > 0 and t == 0:
            negatives.append(i)
    positives = sum(w > 0 and t == 1 for _, t, w in rows)
    most = max(positives, fewest) * limit
    if limit > 0 and len(negatives) > most:
        hardest = sorted(negatives, key=lambda i: (-inside[i], i))
        for i in hardest[int(most) :]:
            weights[i] = 0.0
    losses = [w * (x - t) ** 2 for x, t, w in zip(inside, targets, weights)]
    return losses, inside, weights, sum(w > 0 for w in weights)


@given(pairs, limits, margins, margins, fewest, layouts)
def test_equals_a_loop_over_the_pairs(rows, limit, pos_margin, neg_margin, fewest, layout):
    options = {"neg_pos_ub": limit, "pos_margin": pos_margin, "neg_margin": neg_margin}
    options["min_positives"] = fewest
    pred, target, weight = map(layout, columns(rows))
    rows = list(zip(pred.tolist(), target.tolist(), weight.tolist()))  # some layouts repeat
    losses, inside, weights, left = expected(rows, *options.values())
    for language in ("dispatched", "reference"):
        with implementation(language) if language == "reference" else torch.enable_grad():
            none = F.embedding_distance(pred, target, weight, **options, reduction="none")
            mean = F.embedding_distance(pred, target, weight, **options)
            more = F.embedding_distance(pred, target, weight, **options, count_eps=0.5)
            bare = F.embedding_distance(pred, target, weight, **options, min_count=0.0)
            mined = mined_weight(pred, target, weight, **options)
        assert_matches(none, torch.tensor(losses, dtype=torch.float64), scale=1e-12)
        assert_matches(
            mean, torch.tensor(sum(losses) / max(left, 1), dtype=torch.float64), scale=1e-12
        )
        if left:
            assert_matches(more * (left + 0.5), mean * left, scale=1e-12)
        assert torch.equal(bare, mean) if left else not bare.isfinite()
        assert_matches(mined[0], torch.tensor(inside, dtype=torch.float64))
        assert mined[1].tolist() == weights and mined[2] == left


@given(pairs, limits, seeds)
def test_random_negatives(rows, limit, seed):
    """As many as of the hardest, by torch's generator."""
    pred, target, weight = columns(rows)

    def kept(**options):
        torch.manual_seed(seed)
        return mined_weight(pred, target, weight, neg_pos_ub=limit, **options)[1:]

    random, left = kept(hard_mining=False)
    again, _ = kept(hard_mining=False)
    hard, same = kept()
    assert torch.equal(random, again) and left == same
    assert (random > 0).sum() == (hard > 0).sum()
    assert torch.equal(random[target != 0], weight[target != 0])
    assert torch.all((random == weight) | (random == 0))


def test_each_negative_is_kept_as_often():
    """3 of 12: in 4000 draws 1000 times, with a standard deviation of 27."""
    pred, target = torch.linspace(0, 1, 13), torch.zeros(13)
    target[5] = 1
    torch.manual_seed(0)
    counts = sum(mined_weight(pred, target, hard_mining=False)[1] for _ in range(4000))
    assert counts[5] == 4000 and counts.sum() == 4 * 4000
    others = torch.cat((counts[:5], counts[6:]))
    assert torch.all((others - 1000).abs() < 4 * 27)


@given(
    seeds, st.sampled_from(((1,), (3, 5), (2, 3, 4), (700,))), dtypes, layouts,
    st.sampled_from(("none", "mean", "sum")), st.booleans(), limits,
)  # fmt: skip
def test_equals_reference(seed, shape, dtype, layout, reduction, weighted, limit):
    pred, choice, weight = tensor(seed, 3, *shape)
    # Distinct predictions, which no dtype rounds to the same.
    order = pred.flatten().argsort().argsort().reshape(shape)
    inputs = {
        "pred": (order - 100) / 512,
        "target": (choice > 1).double(),
        "weight": weight + 0.5 if weighted else None,
    }
    options = {"reduction": reduction, "neg_pos_ub": limit, "neg_margin": 0.0}
    sample = Sample("random", F.embedding_distance, inputs, options, ("target",))
    assert_like_reference(sample, dtype, layout)
