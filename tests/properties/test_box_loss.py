"""Properties of the losses of aligned pairs of boxes."""

import contextlib

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, shapes, tensor

import fastloss.functional as F
from fastloss.testing import Sample, implementation

KINDS = {
    "iou": {"kind": "iou"},
    "iou-square": {"kind": "iou", "mode": "square"},
    "iou-log": {"kind": "iou", "mode": "log"},
    "giou": {"kind": "giou"},
    "diou": {"kind": "diou"},
    "ciou": {"kind": "ciou"},
    "eiou": {"kind": "eiou"},
    "siou": {"kind": "siou"},
    "siou-neg_gamma": {"kind": "siou", "neg_gamma": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
linear_kinds = pytest.mark.parametrize("kind", [k for k in KINDS if k != "iou-log"])

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Multiples of 1/8, so that sums, differences and areas have no rounding error.
corner, side = st.integers(-800, 800), st.integers(1, 800)


def _boxes(pair: list[tuple[int, int, int, int]]) -> torch.Tensor:
    x = torch.tensor(pair, dtype=torch.float64) / 8  # (n, 8): corner and size, twice
    return torch.cat((x[:, :2], x[:, :2] + x[:, 2:4], x[:, 4:6], x[:, 4:6] + x[:, 6:]), 1)


box = st.tuples(corner, corner, side, side)
pairs = st.lists(st.tuples(box, box).map(lambda p: p[0] + p[1]), min_size=1, max_size=6).map(_boxes)


def run(pairs, kind, eps=1e-9):
    """Loss (n) of pairs (n, 8) and its gradients to both boxes (n, 8), finite or not."""
    pairs = pairs.clone().requires_grad_()
    loss = F.box_loss(pairs[:, :4], pairs[:, 4:], **KINDS[kind], eps=eps, reduction="none")
    return loss.detach(), torch.autograd.grad(loss.sum(), pairs)[0]


def symmetric_eps(kind):
    """siou adds eps to the offsets of the centres, whatever their sign."""
    return 0 if kind.startswith("siou") else 1e-9


def close(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=atol)


@each_kind
@given(pairs=pairs)
def test_zero_for_identical_boxes(kind, pairs):
    loss, gradient = run(pairs[:, :4].repeat(1, 2), kind)
    close(loss, torch.zeros_like(loss), atol=1e-7)  # diou and ciou add eps to an area >= 1/64
    # Boxes that change together stay identical.
    close(gradient[:, :4], -gradient[:, 4:], atol=1e-6)


@given(pairs)
def test_bounds_and_order(pairs):
    loss = {kind: run(pairs, kind)[0] for kind in KINDS}
    slack = 1e-9
    for kind, x in loss.items():
        bound = {"iou": 1, "iou-square": 1, "iou-log": torch.inf}.get(kind, 2)
        assert torch.all((x >= -slack) & (x <= bound + slack)), kind
    for kind in ("giou", "diou", "ciou"):
        assert torch.all(loss[kind] >= loss["iou"] - slack), kind
    assert torch.all(loss["ciou"] >= loss["diou"] - slack)
    assert torch.all(loss["siou-neg_gamma"] >= loss["siou"] - slack)
    # Up to smoothing, eiou is iou for boxes that overlap, and more than 1 for those that do not.
    apart = torch.minimum(pairs[:, 2:4], pairs[:, 6:]) < torch.maximum(pairs[:, :2], pairs[:, 4:6])
    eiou = loss["eiou"] + 0.05
    assert torch.all(torch.where(apart.any(1), eiou > 1, eiou >= loss["iou"] - slack))
    assert torch.all(
        eiou[~apart.any(1)] <= torch.clamp(loss["iou"] + slack, min=0.1)[~apart.any(1)]
    )
    assert torch.all(loss["iou-square"] >= loss["iou"] - slack)


@each_kind
@given(pairs=pairs, x=corner, y=corner)
def test_translation_changes_no_bit(kind, pairs, x, y):
    moved = pairs + torch.tensor([x, y] * 4)
    for a, b in zip(run(pairs, kind), run(moved, kind)):
        assert torch.equal(a, b)


MODES = {"dispatched": contextlib.nullcontext(), "reference": implementation("reference")}
# Without and with the scaling of huge coordinates; between them derivatives become subnormal.
POWERS = {
    torch.float32: st.integers(-25, 45) | st.integers(62, 90),
    torch.float64: st.integers(-200, 450) | st.integers(502, 900),
}


@linear_kinds
@pytest.mark.parametrize("dtype", POWERS, ids=str)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@given(data=st.data(), pairs=pairs)
def test_scale_by_a_power_of_two_changes_no_bit(kind, dtype, mode, data, pairs):
    """With eps 0 the losses are free of scale, the gradient is inverse to it."""
    scale = 2.0 ** data.draw(POWERS[dtype])
    with mode:
        loss, gradient = run(pairs.to(dtype), kind, eps=0)
        scaled_loss, scaled_gradient = run(pairs.to(dtype) * scale, kind, eps=0)
    assert torch.equal(loss, scaled_loss)
    assert torch.equal(gradient, scaled_gradient * scale)


@each_kind
@given(pairs=pairs)
def test_prediction_and_target_may_be_exchanged(kind, pairs):
    eps = symmetric_eps(kind)
    loss, gradient = run(pairs, kind, eps)
    exchanged_loss, exchanged_gradient = run(pairs.roll(4, 1), kind, eps)
    close(loss, exchanged_loss)
    close(gradient, exchanged_gradient.roll(4, 1))


@each_kind
@given(pairs=pairs)
def test_mirrored_and_transposed_boxes(kind, pairs):
    eps = symmetric_eps(kind)
    loss, gradient = run(pairs, kind, eps)
    sign, order = torch.tensor([-1.0, 1, -1, 1] * 2), [2, 1, 0, 3, 6, 5, 4, 7]
    if kind != "eiou":  # which measures disjoint boxes from their first corners
        mirrored_loss, mirrored_gradient = run((pairs * sign)[:, order], kind, eps)
        close(loss, mirrored_loss)
        close(gradient, mirrored_gradient[:, order] * sign)
    order = [1, 0, 3, 2, 5, 4, 7, 6]
    transposed_loss, transposed_gradient = run(pairs[:, order], kind, eps)
    close(loss, transposed_loss, atol=1e-7)  # eps is added to heights only
    close(gradient, transposed_gradient[:, order], atol=1e-6)


units = st.sampled_from((1.0, 1e-20, 1e20, 0.0))


@each_kind
@given(pairs=rows(FLOAT32, 8), unit=units)
@example(pairs=torch.tensor([[0.0, 0, 0, 0, 0, 0, 1, 1e-38]]).double(), unit=1e20)  # 1e20 by 1e-18
def test_finite_for_any_box(kind, pairs, unit):
    """Empty, tiny and huge ones, up to the largest float32."""
    pairs = pairs if unit == 1 else pairs.clamp(-10, 10) * unit
    pairs = pairs.reshape(-1, 2, 2, 2).sort(2).values.reshape(-1, 8).float()  # first corner first
    loss, gradient = run(pairs, kind, eps=1e-7)
    assert loss.isfinite().all() and gradient.isfinite().all()


@each_kind
@given(pairs=rows(st.floats(-1e9, 1e9), 8), unit=units)
def test_finite_for_inverted_boxes(kind, pairs, unit):
    """Their hull may be empty however large they are: up to 1e9 nothing overflows float32."""
    loss, gradient = run((pairs * min(unit, 1)).float(), kind, eps=1e-7)
    assert loss.isfinite().all() and gradient.isfinite().all()


@each_kind
@given(
    pairs=pairs, where=st.integers(0, 7), bad=st.sampled_from((torch.nan, torch.inf, -torch.inf))
)
def test_nan_where_a_coordinate_is_not_finite(kind, pairs, where, bad):
    pairs = torch.cat((pairs, pairs))
    pairs[len(pairs) // 2, where] = bad
    loss, gradient = run(pairs.float(), kind)
    expected = ~pairs.isfinite().all(1)
    assert torch.equal(loss.isnan(), expected)
    assert torch.equal(gradient.isnan(), expected[:, None].expand_as(gradient))


@each_kind
@given(seeds, shapes, dtypes, layouts, st.sampled_from(("none", "mean", "sum")), st.booleans())
def test_equals_reference(kind, seed, shape, dtype, layout, reduction, weighted):
    x = tensor(seed, *shape, 8) * 10
    size = x[..., 2:4].abs() + 1
    pred = torch.cat((x[..., :2], x[..., :2] + size), -1)
    target = torch.cat((pred[..., :2] + x[..., 4:6] / 10, pred[..., 2:] + x[..., 6:] / 10), -1)
    weight = tensor(seed + 1, *shape).abs() if weighted else None
    inputs = {"pred": pred, "target": target, "weight": weight}
    options = {**KINDS[kind], "reduction": reduction}
    assert_like_reference(Sample("random", F.box_loss, inputs, options, scale=1.0), dtype, layout)
