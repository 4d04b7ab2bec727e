"""Properties of the cross entropy of hard pixels; the truth is computed pixel by pixel."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import layouts, seeds

import fastloss.functional as F
from fastloss.testing import implementation

CLASSES = 3
IGNORED = 255
rules = st.sampled_from(("gdl", "mmseg"))
thresholds = st.sampled_from((0.0, 0.3, 0.7, 1.0))


def problem(seed, ignore=0.2):
    """Logits (2, C, 3, 4) and labels."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(2, CLASSES, 3, 4, generator=g, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (2, 3, 4), generator=g)
    return x, target.masked_fill(torch.rand(target.shape, generator=g) < ignore, IGNORED)


def oracle(x, target, *, thresh, min_kept, rule, class_weight=None):
    """Loss and gradient, from one pixel after the other."""
    x = x.detach().requires_grad_()
    weight = [1.0] * CLASSES if class_weight is None else class_weight.tolist()
    rows = x.movedim(1, -1).reshape(-1, CLASSES)
    labels = target.flatten().tolist()
    valid = [i for i, y in enumerate(labels) if y != IGNORED]
    p = {i: float(rows[i].detach().softmax(0)[labels[i]]) for i in valid}
    ascending = sorted(p.values())
    if rule == "mmseg":
        t = thresh
        if valid:
            t = max(t, ascending[min(min_kept * len(x), len(valid) - 1)])
        kept, divisor = [i for i in valid if p[i] < t], len(labels)
    else:
        if min_kept >= len(valid):
            kept = valid
        else:
            t = max(thresh, ascending[min_kept - 1]) if min_kept > 0 else thresh
            kept = [i for i in valid if p[i] <= t]
        divisor = sum(weight[labels[i]] for i in kept)
    loss = sum((weight[labels[i]] * -rows[i].log_softmax(0)[labels[i]] for i in kept), 0 * x.sum())
    loss = loss / divisor if divisor else 0 * x.sum()
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def run(x, target, **options):
    x = x.detach().requires_grad_()
    loss = F.ohem_cross_entropy(x, target, **options)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def check(x, target, **options):
    for actual, expected in zip(run(x, target, **options), oracle(x, target, **options)):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


@given(seeds, rules, thresholds, st.integers(0, 30), st.booleans(), layouts)
def test_equals_the_oracle(seed, rule, thresh, min_kept, weighted, layout):
    x, target = problem(seed)
    weight = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64) if weighted else None
    x, target = layout(x), layout(target)
    check(x, target, rule=rule, thresh=thresh, min_kept=min_kept, class_weight=weight)


@given(seeds, rules, st.sampled_from((0, 1, "v - 1", "v", "v + 1", 2**70)), thresholds)
def test_none_one_and_as_many_as_there_are(seed, rule, number, thresh):
    x, target = problem(seed)
    v = int((target != IGNORED).sum())
    min_kept = {"v - 1": v - 1, "v": v, "v + 1": v + 1}.get(number, number)
    check(x, target, rule=rule, thresh=thresh, min_kept=max(min_kept, 0))


@given(seeds, rules, st.integers(0, 24))
def test_float32_keeps_what_float64_keeps(seed, rule, min_kept):
    """Rounded logits whose probabilities are apart in both precisions."""
    x, target = problem(seed)
    options = {"rule": rule, "thresh": 0.3, "min_kept": min_kept}
    loss, gradient = run(x.float(), target, **options)
    expected = oracle(x.float().double(), target, **options)
    torch.testing.assert_close(loss.double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-5, atol=1e-6)


@given(seeds, rules, st.integers(0, 30))
def test_pixels_of_equal_probability_stay_together(seed, rule, min_kept):
    """Every pixel occurs four times."""
    x, target = (torch.cat((a, a), -1).repeat_interleave(2, -2) for a in problem(seed))
    check(x, target, rule=rule, thresh=0.2, min_kept=min_kept)
    _, gradient = run(x, target, rule=rule, thresh=0.2, min_kept=min_kept)
    assert torch.equal(gradient[..., :4], gradient[..., 4:])
    assert torch.equal(gradient[..., ::2, :], gradient[..., 1::2, :])


@given(seeds, st.integers(0, 24))
def test_more_pixels_are_kept_for_a_larger_number(seed, min_kept):
    x, target = problem(seed)
    kept = []
    for number in (min_kept, min_kept + 1):
        _, gradient = run(x, target, thresh=0.1, min_kept=number)
        kept.append((gradient != 0).any(1))
    assert not (kept[0] & ~kept[1]).any()
    count = int((target != IGNORED).sum())
    easy = int((run(x, target, thresh=0.1, min_kept=0)[1] != 0).any(1).sum())
    assert kept[0].sum() == min(max(min_kept, easy), count)


@given(seeds, rules, thresholds)
def test_ignored_logits_never_matter(seed, rule, thresh):
    x, target = problem(seed)
    options = {"rule": rule, "thresh": thresh, "min_kept": 5}
    poisoned = x.masked_fill((target == IGNORED)[:, None], torch.nan)
    for a, b in zip(run(x, target, **options), run(poisoned, target, **options)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("language", ("auto", "reference"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("classes", (1, 2, 3, 4, 5, 7, 19, 49))
def test_equal_logits_are_exactly_at_one_over_their_number(classes, dtype, language):
    """As torch's softmax has it; the next smaller threshold keeps none of them."""
    x = torch.full((1, classes, 40), 0.7, dtype=dtype)
    target = torch.arange(40)[None] % classes
    one = torch.tensor(1 / classes, dtype=dtype)
    assert torch.equal(x.softmax(1)[0, 0, 0], one)
    below = float(torch.nextafter(one, torch.zeros_like(one)))
    for rule, thresh, kept in (
        ("gdl", 1 / classes, True), ("gdl", below, False),
        ("mmseg", 1 / classes, False), ("mmseg", min(2 / classes, 1.0), classes > 1),
    ):  # fmt: skip
        if language == "reference":
            with implementation("reference"):
                loss, gradient = run(x, target, rule=rule, thresh=thresh, min_kept=0)
        else:
            loss, gradient = run(x, target, rule=rule, thresh=thresh, min_kept=0)
        expected = torch.tensor(float(classes), dtype=torch.float64).log() if kept else 0.0
        assert abs(float(loss) - float(expected)) < 1e-6
        assert classes == 1 or bool(gradient.any()) == kept
