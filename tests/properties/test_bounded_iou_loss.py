"""Properties of the bounded IoU loss of aligned pairs of boxes."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, shapes, tensor
from test_box_loss import FLOAT32, MODES, POWERS, corner, pairs, units

import fastloss.functional as F
from fastloss.testing import Sample


def run(pairs, eps=1e-9, beta=0.2):
    """Loss (n, 4) of pairs (n, 8) and its gradient to the prediction (n, 4), finite or not."""
    pred, target = pairs[:, :4].clone().requires_grad_(), pairs[:, 4:]
    options = {"kind": "bounded_iou", "eps": eps, "beta": beta, "reduction": "none"}
    loss = F.box_loss(pred, target, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), pred)[0]


def close(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=atol)


@given(pairs, st.floats(0.01, 3))
def test_bounds(pairs, beta):
    loss, _ = run(pairs, beta=beta)
    most = 0.5 / beta if beta > 1 else 1 - beta / 2
    assert torch.all((loss >= 0) & (loss <= most + 1e-12))
    assert torch.all(run(pairs[:, :4].repeat(1, 2))[0] < 1e-12)


@given(pairs)
def test_each_coordinate_has_its_own_loss(pairs):
    """Moving the prediction changes the losses of the centre, changing its height that of h."""
    loss, _ = run(pairs)
    pred, target = pairs[:, :4], pairs[:, 4:]
    moved = run(torch.cat((pred + torch.tensor([0.0, 1, 0, 1]), target), 1))[0]
    assert torch.equal(moved[:, [0, 2, 3]], loss[:, [0, 2, 3]])
    grown = run(torch.cat((pred + torch.tensor([0.0, -0.5, 0, 0.5]), target), 1))[0]
    assert torch.equal(grown[:, :3], loss[:, :3])


@given(pairs=pairs, x=corner, y=corner)
def test_translation_changes_no_bit(pairs, x, y):
    for a, b in zip(run(pairs), run(pairs + torch.tensor([x, y] * 4))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", POWERS, ids=str)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@given(data=st.data(), pairs=pairs)
def test_scale_by_a_power_of_two_changes_no_bit(dtype, mode, data, pairs):
    scale = 2.0 ** data.draw(POWERS[dtype])
    with mode:
        loss, gradient = run(pairs.to(dtype), eps=0)
        scaled_loss, scaled_gradient = run(pairs.to(dtype) * scale, eps=0)
    assert torch.equal(loss, scaled_loss)
    assert torch.equal(gradient, scaled_gradient * scale)


@given(pairs=pairs)
def test_mirrored_and_transposed_boxes(pairs):
    loss, gradient = run(pairs)
    sign, order = torch.tensor([-1.0, 1, -1, 1] * 2), [2, 1, 0, 3, 6, 5, 4, 7]
    mirrored_loss, mirrored_gradient = run((pairs * sign)[:, order])
    close(loss, mirrored_loss)
    close(gradient, mirrored_gradient[:, order[:4]] * sign[:4])
    transposed_loss, transposed_gradient = run(pairs[:, [1, 0, 3, 2, 5, 4, 7, 6]])
    close(loss, transposed_loss[:, [1, 0, 3, 2]])
    close(gradient, transposed_gradient[:, [1, 0, 3, 2]])


@given(pairs=rows(FLOAT32, 8), unit=units)
def test_finite_for_any_box(pairs, unit):
    """Empty, tiny and huge ones, up to the largest float32."""
    pairs = pairs if unit == 1 else pairs.clamp(-10, 10) * unit
    pairs = pairs.reshape(-1, 2, 2, 2).sort(2).values.reshape(-1, 8).float()  # first corner first
    loss, gradient = run(pairs, eps=1e-7)
    assert loss.isfinite().all() and gradient.isfinite().all()


@given(pairs=rows(st.floats(-1e9, 1e9), 8), unit=units)
def test_finite_for_inverted_boxes(pairs, unit):
    loss, gradient = run((pairs * min(unit, 1)).float(), eps=1e-7)
    assert loss.isfinite().all() and gradient.isfinite().all()


@given(
    pairs=pairs, where=st.integers(0, 7), bad=st.sampled_from((torch.nan, torch.inf, -torch.inf))
)
def test_nan_where_a_coordinate_is_not_finite(pairs, where, bad):
    pairs = torch.cat((pairs, pairs))
    pairs[len(pairs) // 2, where] = bad
    loss, gradient = run(pairs.float())
    expected = ~pairs.isfinite().all(1, keepdim=True)
    assert torch.equal(loss.isnan(), expected.expand_as(loss))
    assert torch.equal(gradient.isnan(), expected.expand_as(gradient))


@given(seeds, shapes, dtypes, layouts, st.sampled_from(("none", "mean", "sum")), st.booleans())
def test_equals_reference(seed, shape, dtype, layout, reduction, weighted):
    x = tensor(seed, *shape, 8) * 10
    pred = torch.cat((x[..., :2], x[..., :2] + x[..., 2:4].abs() + 1), -1)
    weight = tensor(seed + 1, *shape, 4).abs() if weighted else None
    inputs = {"pred": pred, "target": pred + x[..., 4:] / 10, "weight": weight}
    options = {"kind": "bounded_iou", "reduction": reduction}
    sample = Sample("random", F.box_loss, inputs, options, ("target",), scale=1.0)
    assert_like_reference(sample, dtype, layout)
