"""Harmonized losses against a loop over their bins in Python; bins of any edges."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import layouts, seeds, tensor

import fastloss.functional as F
from fastloss.ops.gradient_harmonized import harmonized_table
from fastloss.testing import assert_matches, implementation

elements = st.lists(
    st.tuples(st.floats(-8, 8), st.floats(0, 1), st.sampled_from((1.0, 0.25, 0.0, -2.0))),
    min_size=1,
    max_size=14,
)


def expected(rows, bins, kind, mu):
    """Weighted losses of all elements, and their sum over the number of valid ones."""
    lengths, losses = [], []
    for x, t, _ in rows:
        if kind == "classification":
            p = 1 / (1 + math.exp(-x))
            lengths.append(abs(p - t))
            losses.append(math.log1p(math.exp(-abs(x))) + max(x, 0) - t * x)
        else:
            root = math.sqrt((x - t) ** 2 + mu**2)
            lengths.append(abs(x - t) / root)
            losses.append((x - t) ** 2 / (root + mu))
    edges = (torch.arange(bins + 1).float() / bins).tolist()
    edges[-1] = 2
    of = [next(b for b in range(bins) if edges[b] <= g < edges[b + 1]) for g in lengths]
    valid = [b for b, (_, _, w) in zip(of, rows) if w > 0]
    share = [len(valid) / (len(set(valid)) * valid.count(b)) if b in valid else 0 for b in of]
    weighted = [s * x * (w > 0) for s, x, (_, _, w) in zip(share, losses, rows)]
    return weighted, sum(weighted) / max(len(valid), 1)


@given(elements, st.sampled_from((1, 3, 10, 30)), st.sampled_from((0.02, 0.7)), layouts)
@pytest.mark.parametrize("kind", ("classification", "regression"))
def test_equals_a_loop_over_the_bins(kind, rows, bins, mu, layout):
    pred, target, weight = map(layout, torch.tensor(rows, dtype=torch.float64).unbind(1))
    rows = list(zip(pred.tolist(), target.tolist(), weight.tolist()))  # some layouts repeat
    options = {"weight": weight, "bins": bins} | ({"mu": mu} if kind == "regression" else {})
    function = getattr(F, f"ghm_{kind}_loss")
    losses, mean = expected(rows, bins, kind, mu)
    for language in ("dispatched", "reference"):
        with implementation(language) if language == "reference" else torch.enable_grad():
            none = function(pred, target, **options, reduction="none")
            total = function(pred, target, **options, reduction="sum")
            found = function(pred, target, **options)
        assert_matches(none, torch.tensor(losses, dtype=torch.float64), scale=1)
        assert_matches(total, torch.tensor(sum(losses), dtype=torch.float64), scale=1)
        assert_matches(found, torch.tensor(mean, dtype=torch.float64), scale=1)


@pytest.mark.parametrize("language", ("dispatched", "reference", "triton"))
def test_any_ascending_edges(language, triton_kernels):
    """Lengths on every edge, beside it, and in no bin: each is where it belongs."""
    if language == "triton" and torch.cuda.is_available():
        pytest.skip("Triton compiles for the GPU here")
    edges = torch.tensor([0.0625, 0.07, 0.125, 0.25, 0.2500001, 0.4375])
    length = torch.cat((edges, edges.nextafter(torch.tensor(1.0)), edges.nextafter(-edges)))
    length = torch.cat((length, torch.tensor([0.0, 0.5])))
    target = 0.5 - length  # exact, but for the last bits of those that are no edges
    length = 0.5 - target
    expected = [int(((length >= a) & (length < b)).sum()) for a, b in zip(edges, edges[1:])]
    with implementation(language) if language != "dispatched" else torch.enable_grad():
        pred = torch.tensor([0.0] * len(length) + [torch.nan, 0.0])
        target = torch.cat((target, torch.zeros(1), torch.tensor([0.5 - 0.07])))
        weight = torch.ones_like(pred)
        weight[-1] = 0
        counts, sums = harmonized_table(pred, target, weight, edges, "classification", 0.0)
    assert counts.tolist() == [*expected, len(length) + 1 - sum(expected)]
    assert sums[:-1].isfinite().all() and sums[-1].isnan()


@pytest.mark.parametrize("language", ("dispatched", "reference", "triton"))
def test_infinite_logits(language, triton_kernels):
    """Their lengths are those of certain predictions, 0 and 1."""
    if language == "triton" and torch.cuda.is_available():
        pytest.skip("Triton compiles for the GPU here")
    pred = torch.tensor([torch.inf, -torch.inf], requires_grad=True)
    edges = torch.tensor([0.0, 0.5, 1.5])
    with implementation(language) if language != "dispatched" else torch.enable_grad():
        counts, sums = harmonized_table(pred, pred.new_zeros(2), None, edges, "classification", 0.0)
        (gradient,) = torch.autograd.grad(sums.sum(), pred)
    assert counts.tolist() == [1, 1, 0]
    assert gradient.tolist() == pytest.approx([1, 0])


@given(seeds, st.integers(1, 40), st.integers(1, 9))
def test_class_indices_are_their_one_hot(seed, rows, classes):
    logits = tensor(seed, rows, classes)
    g = torch.Generator().manual_seed(seed)
    index = torch.randint(-1, classes + 1, (rows,), generator=g)
    weight = tensor(seed + 1, rows, 1)
    one_hot = (index[:, None] == torch.arange(classes)).double()
    for reduction in ("mean", "none"):
        results = []
        for target in (index, one_hot):
            x = logits.clone().requires_grad_()
            options = {"weight": weight, "reduction": reduction}
            value = F.ghm_classification_loss(x, target, **options)
            results.append((value.detach(), torch.autograd.grad(value.sum(), x)[0]))
        assert all(torch.equal(a, b) for a, b in zip(*results))
