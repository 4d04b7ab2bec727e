"""The losses of fastloss.compat.uotod against uotod's own; DetectionLoss: test_uotod_detection."""

import pytest
import torch
from parity import assert_parity
from references import or_skip, uotod
from torch import nn

from fastloss.compat.uotod import loss as ours

UOTOD = or_skip(uotod)
THEIRS = UOTOD.loss
G = torch.Generator().manual_seed(0)

dtypes = pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
reductions = pytest.mark.parametrize("reduction", ("mean", "sum", "none", "other"))


def boxes(*shape, inverted=False):
    """x1 y1 x2 y2 in a unit image; inverted: corners in any order."""
    corners = torch.rand(*shape, 4, generator=G, dtype=torch.float64)
    if inverted:
        return corners
    return torch.cat((corners[..., :2], corners[..., :2] + corners[..., 2:] + 0.01), -1)


@dtypes
@reductions
@pytest.mark.parametrize("name", ("IoULoss", "GIoULoss"))
def test_boxes(name, reduction, dtype):
    assert_parity(
        getattr(ours, name)(reduction), getattr(THEIRS, name)(reduction), boxes(40), boxes(40),
        dtype=dtype, scale=1.0,
    )  # fmt: skip


@dtypes
@pytest.mark.parametrize("name", ("IoULoss", "GIoULoss"))
def test_inverted_boxes_count_with_negative_area(name, dtype):
    """And so does the hull of two inverted boxes, whose extents upstream does not clamp either."""
    pred, target = (boxes(300, inverted=True) for _ in range(2))
    # Of pairs whose union or hull cancels to almost nothing float32 knows no digit.
    union = (pred[:, 2:] - pred[:, :2]).prod(-1) + (target[:, 2:] - target[:, :2]).prod(-1)
    hull = torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])
    kept = (union.abs() > 0.05) & (hull.abs().amin(-1) > 0.1)
    assert (hull[kept] < 0).any()
    assert_parity(
        getattr(ours, name)("none"), getattr(THEIRS, name)("none"), pred[kept], target[kept],
        dtype=dtype, scale=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("name, expected", (("IoULoss", 1.0), ("GIoULoss", 1.0)))
def test_bug_boxes_without_area_are_nan_upstream(name, expected):
    box = torch.tensor([[1.0, 2.0, 1.0, 2.0]])
    assert getattr(THEIRS, name)("none")(box, box).isnan().all()
    pred = box.clone().requires_grad_()
    loss = getattr(ours, name)("none")(pred, box)
    assert loss.tolist() == [expected]
    assert torch.autograd.grad(loss.sum(), pred)[0].isfinite().all()


@pytest.mark.parametrize("name", ("IoULoss", "GIoULoss"))
def test_mean_of_no_boxes_is_nan(name):
    none = torch.zeros(0, 4, requires_grad=True)
    assert getattr(ours, name)()(none, none).isnan()
    assert getattr(ours, name)("sum")(none, none) == 0


@dtypes
@reductions
def test_negative_prob(reduction, dtype):
    logits = torch.randn(30, 7, generator=G, dtype=torch.float64) * 3
    labels = torch.randint(0, 7, (30,), generator=G)
    assert_parity(
        ours.NegativeProbLoss(reduction), THEIRS.NegativeProbLoss(reduction), logits, labels,
        dtype=dtype,
    )  # fmt: skip


@dtypes
@reductions
@pytest.mark.parametrize("alpha, gamma", ((-1.0, 2.0), (0.25, 2.0), (0.7, 0.0), (-1.0, 1.5)))
def test_sigmoid_focal(alpha, gamma, reduction, dtype):
    logits = torch.randn(30, 7, generator=G, dtype=torch.float64) * 3
    one_hot = nn.functional.one_hot(torch.randint(0, 7, (30,), generator=G), 7).double()
    one_hot[::5] = 0
    arguments = (reduction, alpha, gamma)
    assert_parity(
        ours.SigmoidFocalLoss(*arguments), THEIRS.SigmoidFocalLoss(*arguments), logits, one_hot,
        dtype=dtype,
    )  # fmt: skip


@dtypes
@reductions
@pytest.mark.parametrize("one_hot", (False, True))
def test_sigmoid_focal_cost_ignores_alpha(one_hot, reduction, dtype):
    logits = torch.randn(30, 7, generator=G, dtype=torch.float64) * 3
    labels = torch.randint(0, 7, (30,), generator=G)
    target = nn.functional.one_hot(labels, 7) if one_hot else labels
    arguments = (reduction, 0.25, 2.0)
    assert_parity(
        ours.SigmoidFocalCost(*arguments), THEIRS.SigmoidFocalCost(*arguments), logits, target,
        dtype=dtype, scale=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("logits, labels", (((3,), (3,)), ((2, 3, 4), (2,)), ((2, 3), (2, 3, 1))))
def test_sigmoid_focal_cost_refuses_other_shapes(logits, labels):
    with pytest.raises(AssertionError, match="must have shape"):
        ours.SigmoidFocalCost()(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))


def multiple(library, weights=(2.0, 5.0, 0.5)):
    losses = [library.GIoULoss("none"), nn.L1Loss(reduction="none"), library.IoULoss("none")]
    return library.MultipleObjectiveLoss(losses, list(weights))


def test_multiple_objectives():
    assert_parity(multiple(ours), multiple(THEIRS), boxes(20), boxes(20), scale=1.0)
    loss = multiple(ours)
    assert loss.reduction == "none" and loss.coefficients == [2.0, 5.0, 0.5]
    assert len(loss.losses) == 3 and "GIoULoss" in repr(loss)


def test_bug_multiple_objectives_adds_up_in_float32_upstream():
    pred, target = boxes(20), boxes(20)
    expected = (
        2 * ours.GIoULoss("none")(pred, target)
        + 5 * (pred - target).abs().sum(1)
        + 0.5 * ours.IoULoss("none")(pred, target)
    )
    assert multiple(THEIRS)(pred, target).dtype == torch.float32
    assert torch.allclose(multiple(ours)(pred, target), expected, rtol=1e-14)


def test_bug_a_loss_with_weight_none_beside_others_is_refused_upstream():
    losses = [nn.CrossEntropyLoss(reduction="none"), ours.NegativeProbLoss("none")]
    with pytest.raises(NotImplementedError):
        THEIRS.MultipleObjectiveLoss(losses, [1.0, 2.0])
    logits, labels = torch.randn(5, 3, generator=G), torch.tensor([0, 2, 1, 1, 0])
    loss = ours.MultipleObjectiveLoss(losses, [1.0, 2.0])
    torch.testing.assert_close(
        loss(logits, labels), losses[0](logits, labels) + 2 * losses[1](logits, labels)
    )
    weighted = nn.CrossEntropyLoss(weight=torch.ones(3), reduction="none")
    with pytest.raises(NotImplementedError, match="class weights"):
        ours.MultipleObjectiveLoss([weighted, losses[1]], [1.0, 2.0])


def test_the_class_weights_of_a_single_loss_are_those_of_the_sum():
    loss = ours.MultipleObjectiveLoss(
        [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]), reduction="none")], [3.0]
    )
    assert loss.weight.tolist() == [1.0, 2.0] and not loss.state_dict()
    assert loss.double().weight.dtype == torch.float64  # upstream they stay behind
    assert multiple(ours).weight is None


@pytest.mark.parametrize(
    "losses, weights",
    (
        ([nn.L1Loss(reduction="none")], [1.0, 2.0]),
        ([nn.L1Loss()], [1.0]),
        ([nn.L1Loss(reduction="none")], [-1.0]),
    ),
)
def test_multiple_objectives_refuses(losses, weights):
    for library in (ours, THEIRS):
        with pytest.raises(AssertionError):
            library.MultipleObjectiveLoss(losses, weights)
    with pytest.raises(AssertionError, match="same length"):
        multiple(ours)(boxes(3), boxes(2))


@pytest.mark.parametrize("name", ("IoULoss", "GIoULoss"))
def test_boxes_broadcast_and_may_be_integers(name):
    pred, target = boxes(6), boxes(1)
    whole = [(8 * x).long() + torch.tensor([0, 0, 1, 1]) for x in (pred, target)]  # with an area
    for p, t in ((pred, target), (target, pred), whole):
        found, expected = (getattr(x, name)("none")(p, t) for x in (ours, THEIRS))
        torch.testing.assert_close(found, expected, equal_nan=True)
        assert found.shape == (6,)


@pytest.mark.parametrize("name", ("NegativeProbLoss", "SigmoidFocalCost"))
def test_labels_as_an_index(name):
    """From the end, one for all, and IndexError for others, as upstream."""
    logits = torch.randn(3, 4, generator=G)
    for labels in (torch.tensor([-1, 0, 2]), torch.tensor([1, 3, 2], dtype=torch.int32)):
        found, expected = (getattr(x, name)("none")(logits, labels) for x in (ours, THEIRS))
        torch.testing.assert_close(found, expected)
    one = getattr(ours, name)("none")(logits, torch.tensor([2]))
    torch.testing.assert_close(one, getattr(ours, name)("none")(logits, torch.tensor([2] * 3)))
    for wrong in (torch.tensor([0, 4, 1]), torch.tensor([0, 1])):
        with pytest.raises(IndexError):
            getattr(ours, name)("none")(logits, wrong)
