"""Properties of the Dice loss of masks."""

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches

probabilities = rows(st.floats(0, 1), 5)
squares = st.booleans()


def losses(p, t, squared=True, eps=1e-3):
    return F.mask_dice_loss(p, t, squared=squared, eps=eps, activated=True, reduction="none")


@given(probabilities, squares, seeds)
def test_is_between_0_and_1_and_the_same_both_ways(p, squared, seed):
    t = tensor(seed, *p.shape).sigmoid()
    loss = losses(p, t, squared)
    assert torch.all((loss >= 0) & (loss <= 1))
    assert_matches(losses(t, p, squared), loss)
    assert_matches(losses(p.flip(1), t.flip(1), squared), loss)


@given(probabilities, squares, seeds, st.integers(2, 9))
def test_more_of_the_same_with_as_much_more_eps_changes_nothing(p, squared, seed, times):
    t = tensor(seed, *p.shape).sigmoid()
    more = losses(p.repeat(1, times), t.repeat(1, times), squared, 1e-3 * times)
    assert_matches(more, losses(p, t, squared), scale=1)


@given(probabilities)
def test_squares_change_nothing_for_hard_masks_but_eps(p):
    p, t = p.round(), p.flip(1).round()
    assert_matches(losses(p, t, True, 0.0), losses(p, t, False, 0.0))
    slopes = torch.autograd.grad(losses(p.requires_grad_(), p.detach()).sum(), p)[0]
    assert torch.all(slopes.abs() <= 1)  # at its best, but for eps


@given(
    seeds, st.tuples(st.integers(1, 6), st.integers(1, 40)), dtypes, layouts,
    st.sampled_from(("none", "mean", "sum")), st.booleans(), squares, squares,
)  # fmt: skip
def test_equals_reference(seed, shape, dtype, layout, reduction, weighted, squared, activated):
    inputs = {
        "logits": tensor(seed, *shape) * 3,
        "target": tensor(seed + 1, *shape).sigmoid(),
        "weight": tensor(seed + 2, shape[0]).abs() if weighted else None,
    }
    if activated:
        inputs["logits"] = inputs["logits"].sigmoid()
    options = {"reduction": reduction, "squared": squared, "activated": activated}
    sample = Sample("random", F.mask_dice_loss, inputs, options, ("avg_factor",), scale=1.0)
    assert_like_reference(sample, dtype, layout)
