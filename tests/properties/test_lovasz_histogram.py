"""Properties of the binned Lovász losses: their bounds, their slopes, what they are exact for."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import seeds

import fastloss.functional as F
from fastloss.testing import implementation

counts = st.integers(1, 40)
few_bins = st.integers(1, 64)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def problem(seed, n, edges, bins, positives=0.4):
    """Probabilities of a class, and labels; with `edges` errors at the edges of bins."""
    g = generator(seed)
    p = torch.rand(n, generator=g, dtype=torch.float64)
    if edges:
        steps = torch.randint(0, bins + 1, (n,), generator=g).double() / bins
        p = (steps + (torch.randint(-1, 2, (n,), generator=g) * 1e-12)).clamp(0, 1)
    return p, torch.rand(n, generator=g) < positives


def run(p, positive, **options):
    """Value, and the slope of every pixel by its error; class 1 alone."""
    x = torch.stack((1 - p, p))[None].requires_grad_()
    options = {"classes": [1], "from_logits": False, **options}
    value = F.lovasz_softmax(x, positive.long()[None], **options)
    (gradient,) = torch.autograd.grad(value, x)
    error = p - positive.double()
    return value.item(), gradient[0, 1] * error.sign()


def jaccard(n, f, b):
    """The Jaccard loss of f of n positives and b negatives being wrong."""
    return 1 - (n - f) / (n + b) if n + b else 0.0


def slopes_of_order(order, positive):
    n, f, b = int(positive.sum()), 0, 0
    slopes = torch.zeros(len(positive), dtype=torch.float64)
    for i in order:
        before = jaccard(n, f, b)
        f, b = f + bool(positive[i]), b + (not positive[i])
        slopes[i] = jaccard(n, f, b) - before
    return slopes


@given(seeds, counts, few_bins, st.booleans())
def test_within_half_a_bin(seed, n, bins, edges):
    p, positive = problem(seed, n, edges, bins)
    exact, _ = run(p, positive)
    binned, _ = run(p, positive, method="histogram", bins=bins)
    assert abs(binned - exact) <= 1 / (2 * bins) + 1e-12


@given(seeds, counts, few_bins)
def test_hinge_within_a_share_of_itself(seed, n, bins):
    g = generator(seed)
    x = torch.randn(1, n, generator=g, dtype=torch.float64) * 10 ** (seed % 7 - 3)
    t = torch.randint(0, 2, (1, n), generator=g)
    exact = F.lovasz_hinge(x, t).item()
    binned = F.lovasz_hinge(x, t, method="histogram", bins=bins).item()
    assert abs(binned - exact) <= 16 / max(bins, 32) * exact + 1e-12


@given(seeds, counts, few_bins)
def test_exact_for_errors_in_the_middle_of_bins(seed, n, bins):
    """The value is that of the binned errors, the slopes are the mean of two orders of theirs."""
    g = generator(seed)
    bin_of = torch.randint(0, bins, (n,), generator=g)
    positive = torch.rand(n, generator=g) < 0.4
    error = (bin_of.double() + 0.5) / bins
    p = torch.where(positive, 1 - error, error)
    value, slopes = run(p, positive, method="histogram", bins=bins)
    exact, _ = run(p, positive)
    assert value == pytest.approx(exact, abs=1e-6 / bins)  # 1 - error rounds
    first = sorted(range(n), key=lambda i: (-bin_of[i], not positive[i]))
    last = sorted(range(n), key=lambda i: (-bin_of[i], positive[i]))
    expected = (slopes_of_order(first, positive) + slopes_of_order(last, positive)) / 2
    for k in bin_of.unique():  # negatives of a bin share what is theirs
        here = (bin_of == k) & ~positive
        expected[here] = expected[here].mean()
    torch.testing.assert_close(slopes, expected, rtol=1e-11, atol=1e-13)


@given(seeds, counts, st.integers(1, 4), st.booleans())
def test_slopes_are_a_subgradient(seed, n, bins, edges):
    """Of any set of pixels that ends within a bin, they add up to no more than the Jaccard loss."""
    p, positive = problem(seed, n, edges, bins)
    _, slopes = run(p, positive, method="histogram", bins=bins)
    error = (p - positive.double()).abs()
    bin_of = (error * bins).clamp(max=bins - 1).long()
    total, f, b = int(positive.sum()), 0, 0
    for k in bin_of.unique().flip(0):
        ours, theirs = slopes[(bin_of == k) & positive], slopes[(bin_of == k) & ~positive]
        start = jaccard(total, f, b)
        for i in range(len(ours) + 1):
            for j in range(len(theirs) + 1):
                rise = jaccard(total, f + i, b + j) - start
                sum_ = float(ours[:i].sum() + theirs[:j].sum())
                # A pixel without an error has the slope 0, see the reference.
                full = i == len(ours) and j == len(theirs) and bool((error > 0).all())
                assert sum_ <= rise + 1e-12 and (not full or sum_ >= rise - 1e-12)
        f, b = f + len(ours), b + len(theirs)


REGIMES = {  # share of positives, margin of the logits: as in the docstring of lovasz_softmax
    "untrained": (0.2, 0.0),
    "middle": (0.05, 3.0),
    "trained": (0.01, 6.0),
    "rare": (1e-4, 4.0),
}
# At 4096 bins and 2^18 pixels, three times what was seen: of the value, and of the gradient in L2.
SEEN = {
    "untrained": (3e-7, 2e-3),
    "middle": (3e-7, 1e-3),
    "trained": (1e-6, 2e-3),
    "rare": (2e-5, 4e-2),
}


def regime(name, count=2**18):
    share, margin = REGIMES[name]
    g = generator(5)
    positive = torch.rand(count, generator=g) < share
    x = torch.randn(count, generator=g, dtype=torch.float64) * 2
    return (x + torch.where(positive, margin, -margin)).sigmoid(), positive


@pytest.mark.parametrize("name", REGIMES)
def test_accuracy(name):
    p, positive = regime(name)
    exact, slopes = run(p, positive)
    binned, found = run(p, positive, method="histogram")
    value, gradient = SEEN[name]
    assert abs(binned - exact) < value
    assert (found - slopes).norm() < gradient * slopes.norm()


@given(seeds, st.integers(1, 3), counts, st.booleans())
def test_per_image_is_one_call_per_image(seed, n, count, hinge):
    g = generator(seed)
    x = torch.randn(n, 3, count, generator=g, dtype=torch.float64)
    t = torch.randint(0, 4, (n, count), generator=g)
    x, t, f = (x[:, 0], t % 2, F.lovasz_hinge) if hinge else (x, t, F.lovasz_softmax)
    options = {"ignore_index": 3, "method": "histogram", "bins": 16}
    values = f(x, t, per_image=True, reduction="none", **options)
    each = [f(x[i : i + 1], t[i : i + 1], **options) for i in range(n)]
    torch.testing.assert_close(values, torch.stack(each), rtol=1e-12, atol=0)


@given(seeds, counts, st.booleans())
def test_a_soft_target_counts_as_a_hard_one(seed, n, ignores):
    g = generator(seed)
    x = torch.randn(1, n, generator=g, dtype=torch.float64)
    t = torch.rand(1, n, generator=g, dtype=torch.float64)
    hard = (t > 0.5).long()
    if ignores:
        t[:, ::2], hard[:, ::2] = -1, -1
    options = {"method": "histogram", "ignore_index": -1}
    assert torch.equal(F.lovasz_hinge(x, t, **options), F.lovasz_hinge(x, hard, **options))


@pytest.mark.parametrize("kind", ("softmax", "hinge"))
def test_infinite_errors(kind):
    x = torch.tensor([[0.5, torch.inf, -torch.inf, -1.0]], dtype=torch.float64)
    t = torch.tensor([[0, 0, 0, 1]])
    results = []
    for run_by in ("auto", "reference"):
        leaf = (x if kind == "hinge" else torch.stack((x, -x), 1)).clone().requires_grad_()
        call = F.lovasz_hinge if kind == "hinge" else F.lovasz_softmax
        if run_by == "reference":
            with implementation("reference"):
                value = call(leaf, t, method="histogram")
        else:
            value = call(leaf, t, method="histogram")
        results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, equal_nan=True)
