"""IoULoss and iou_loss against vis4d's."""

import pytest
import torch
from parity import assert_parity
from vis4d_cases import DTYPES, LIBRARIES, REDUCERS, ours, reducer, same_error

G = torch.Generator().manual_seed(0)
CORNER = torch.rand(9, 2, generator=G) * 8
RANDOM = torch.cat((CORNER, CORNER + 1 + 5 * torch.rand(9, 2, generator=G)), 1)
UNIT = torch.tensor([0.0, 0.0, 4.0, 4.0])
PAIRS = {
    "equal": (UNIT, UNIT),
    "shifted": (UNIT, UNIT + 1),
    "inside": (UNIT, [1.0, 1.0, 2.0, 2.0]),
    "one shared side": (UNIT, [0.0, 1.0, 2.0, 3.0]),
    "touch at a side": (UNIT, [4.0, 0.0, 8.0, 4.0]),
    "touch at a corner": (UNIT, [4.0, 4.0, 8.0, 8.0]),
    "apart on one axis": (UNIT, [6.0, 1.0, 8.0, 3.0]),
    "apart on both axes": (UNIT, [6.0, 7.0, 8.0, 9.0]),
    "a line": (UNIT, [1.0, 1.0, 1.0, 3.0]),
    "inverted": (UNIT, [3.0, 3.0, 1.0, 1.0]),
    "inverted on one axis": (UNIT, [1.0, 3.0, 3.0, 1.0]),
    "overlap below eps": ([0.0, 0.0, 4096.0, 4096.0], [1.0, 1.0, 2.0, 2.0]),
}
PRED = torch.stack([torch.as_tensor(a) for a, _ in PAIRS.values()])
TARGET = torch.stack([torch.as_tensor(b) for _, b in PAIRS.values()])
MODES = ("linear", "square", "log")
each = pytest.mark.parametrize("mode", MODES)


def losses(*args, how="identity_loss"):
    return [library.IoULoss(reducer(library, how), *args) for library in LIBRARIES]


@DTYPES
@pytest.mark.parametrize("how", REDUCERS)
@each
def test_random_boxes(mode, how, dtype):
    assert_parity(*losses(mode, how=how), RANDOM, RANDOM.roll(1, 0), dtype=dtype, scale=1.0)
    assert_parity(*losses(mode, how=how), RANDOM / 64, RANDOM / 64 + 0.01, dtype=dtype, scale=1.0)


@DTYPES
@pytest.mark.parametrize("eps", [1e-6, 0.25])
@each
def test_special_pairs(mode, eps, dtype):
    assert_parity(*losses(mode, eps), PRED, TARGET, dtype=dtype, scale=1.0)
    assert_parity(*losses(mode, eps), TARGET, PRED, dtype=dtype, scale=1.0)


@pytest.mark.parametrize("how", REDUCERS)
def test_special_pairs_reduced(how):
    assert_parity(*losses(how=how), PRED, TARGET, scale=1.0)


def test_gradient_at_the_floor_passes():
    """1 / 4 exactly."""
    pair = UNIT[None], torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert_parity(*losses("linear", 0.25), *pair)
    pred = pair[0].clone().requires_grad_()
    ours.IoULoss(mode="linear", eps=0.25)(pred, pair[1]).sum().backward()
    assert pred.grad.any()


@pytest.mark.parametrize("eps", [0.0, -1.0])
@pytest.mark.parametrize("mode", ["linear", "square"])
def test_without_a_floor(mode, eps):
    assert_parity(*losses(mode, eps), PRED, TARGET, scale=1.0)


def test_log_without_a_floor_is_finite():
    pred = PRED.clone().requires_grad_()
    value = ours.IoULoss(mode="log", eps=0.0)(pred, TARGET)
    value.sum().backward()
    assert value.max() > 87 and value.isfinite().all() and pred.grad.isfinite().all()


def test_disjoint_boxes_have_no_gradient():
    pred = UNIT[None].clone().requires_grad_()
    value = ours.iou_loss(pred, UNIT[None] + 5)
    value.backward()
    torch.testing.assert_close(value, -torch.tensor([1e-6]).log())
    assert torch.equal(pred.grad, torch.zeros_like(pred))


@each
def test_gradient_of_two_boxes_without_area(mode):
    """Bug: upstream divides 0 by 0 where it does not look, and the gradient is NaN."""
    boxes = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 1.0, 1.0]])
    first, second = losses(mode)
    pred = boxes.clone().requires_grad_()
    value = first(pred, boxes)
    value.sum().backward()
    torch.testing.assert_close(value, second(boxes, boxes))
    assert not pred.grad.any()


@each
def test_weighted(mode):
    def call(library):
        return lambda pred, target, weight: library.iou_loss(
            pred, target, library.SumWeightedLoss(weight, 2.5), mode
        )

    weight = torch.rand(9, generator=G)
    assert_parity(*map(call, LIBRARIES), RANDOM, RANDOM + 0.25, weight, scale=1.0)


@pytest.mark.parametrize("how", REDUCERS)
def test_no_boxes(how):
    assert_parity(*losses(how=how), RANDOM[:0], RANDOM[:0])


def test_strides_integers_and_one_target():
    assert_parity(*losses(), RANDOM.T.contiguous().T, RANDOM.flip(0), scale=1.0)
    assert_parity(*losses(), RANDOM, UNIT[None], scale=1.0)
    whole = RANDOM.round().long()
    torch.testing.assert_close(*(loss(whole, whole + 1) for loss in losses()))


def test_not_finite_is_nan():
    for bad in (torch.nan, torch.inf):
        pred = UNIT.clone()
        pred[2] = bad
        assert ours.IoULoss()(pred[None], UNIT[None]).isnan().all()


@pytest.mark.parametrize("mode", ["Log", "giou", None, ["log"]], ids=str)
def test_unknown_mode(mode):
    if not isinstance(mode, list):  # upstream: TypeError for what has no hash
        assert repr(mode) in same_error(lambda library: library.IoULoss(mode=mode))
        same_error(lambda library: library.iou_loss(RANDOM, RANDOM, mode=mode))
    with pytest.raises(AssertionError, match="mode must be one of"):
        ours.IoULoss(mode=mode)


def test_shapes():
    same_error(lambda library: library.iou_loss(RANDOM, RANDOM[:2]))
    for pred in (RANDOM[:, :3], RANDOM[None], UNIT):
        with pytest.raises(RuntimeError, match="must have shape"):
            ours.iou_loss(pred, pred)
