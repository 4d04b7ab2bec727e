"""MultiPosCrossEntropyLoss, L2Loss, MarginL2Loss, TripletLoss against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet
from fastloss.compat.mmdet.tracking import l2_loss
from fastloss.testing import assert_matches, forbid_host_reads

upstream = references.or_skip(references.mmdet)

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
MINED = ["L2Loss", "MarginL2Loss"]


def make(name, **options):
    return getattr(mmdet, name)(**options), getattr(upstream, name)(**options)


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(least, most):
    """(7, 6), rows of positives alone and of negatives alone among them."""
    g = torch.Generator().manual_seed(2)
    result = torch.randint(least, most + 1, (7, 6), generator=g)
    result[0], result[1] = 1, 0
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", [None, (7,), (7, 1)], ids=str)
@pytest.mark.parametrize(
    "reduction, avg_factor",
    [("none", None), ("none", 3.0), ("mean", None), ("mean", 3.0), ("sum", None)],
)
def test_multi_pos(reduction, avg_factor, weight, dtype):
    losses = make("MultiPosCrossEntropyLoss", reduction=reduction, loss_weight=2.5)
    weight = None if weight is None else draw(*weight, seed=1)
    assert_parity(
        *losses, draw(7, 6) * 8 - 4, labels(-1, 2), weight, avg_factor=avg_factor, dtype=dtype
    )


def test_multi_pos_of_other_arguments():
    ours, theirs = make("MultiPosCrossEntropyLoss")
    scores, label = (draw(7, 6) * 8 - 4).round().long(), labels(0, 1)
    for kind in (label, label.bool(), label.double() - 0.5):
        value, expected = ours(scores, kind, extra=1), theirs(scores, kind, extra=1)
        assert_matches(value, expected.double())
    assert ours(draw(0, 6), draw(0, 6)).isnan()  # the mean over no row
    assert_parity(
        ours.multi_pos_cross_entropy, theirs.multi_pos_cross_entropy,
        draw(7, 6), label, draw(7, seed=1), "sum", dtype=torch.float32,
    )  # fmt: skip
    for error, arguments in (
        (AssertionError, {"label": label[:, :1]}),
        (AssertionError, {"reduction_override": "max"}),
        (ValueError, {"avg_factor": 1.0, "reduction_override": "sum"}),
    ):
        for loss in (ours, theirs):
            with pytest.raises(error):
                loss(**{"cls_score": draw(7, 6), "label": label, **arguments})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("avg_factor", [None, 3.0])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_l2_loss(reduction, avg_factor, dtype):
    arguments = {"reduction": reduction, "avg_factor": avg_factor}
    assert_parity(
        l2_loss, upstream.l2_loss, draw(5, 3), draw(5, 3, seed=1), draw(5, 3, seed=2),
        **arguments, dtype=dtype,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="same shape"):
        l2_loss(draw(5, 3), draw(5, 1))


def pairs(positives):
    """pred, target, weight (9, 8); the predictions of negatives differ, in every dtype."""
    order = torch.randperm(72, generator=torch.Generator().manual_seed(3)).reshape(9, 8)
    pred = order.double() / 64 - 0.0625
    target = torch.where(order.roll(5, 0) < positives, 1.0, 0.0).double()
    target = torch.where(order.roll(3, 0) < 6, 0.5, target)
    return pred, target, draw(9, 8, seed=4) * 1.25 - 0.25


def on_copies(loss, target):
    """`loss` of this target, and of copies, as mmdet's writes to what it is given."""

    def call(pred, weight=None, **options):
        weight = weight if weight is None else weight.clone()
        kind = target.to(pred.dtype) if target.is_floating_point() else target.clone()
        return loss(pred.clone(), kind.clone(), weight, **options)

    return call


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(
    "positives, options",
    [
        (8, {}),
        (8, {"neg_pos_ub": 3, "hard_mining": True, "neg_margin": 0.125}),
        (8, {"neg_pos_ub": 1, "hard_mining": True, "pos_margin": 0.25}),
        (8, {"neg_pos_ub": 100, "neg_margin": 0.25}),
        (0, {"neg_pos_ub": 3, "hard_mining": True}),
        (0, {"neg_pos_ub": 3}),
        (0, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", MINED)
def test_mined(name, positives, options, reduction, weighted, dtype):
    ours, theirs = make(name, reduction=reduction, loss_weight=2.5, **options)
    pred, target, weight = pairs(positives)
    others = (weight,) if weighted else ()
    assert_parity(
        on_copies(ours, target), on_copies(theirs, target), pred, *others, avg_factor=7, dtype=dtype
    )  # fmt: skip
    found = ours.update_weight(pred, target, weight if weighted else None, None)
    expected = on_copies(theirs.update_weight, target)(pred, *others, avg_factor=None)
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.dtype == wanted.dtype
        assert_matches(actual.double(), wanted.double())


@pytest.mark.parametrize("name", MINED)
def test_mean_of_one_and_of_two_pairs(name):
    """The divisor is count + eps in float32, which rounds."""
    ours, theirs = make(name)
    for shape in ((1, 1), (1, 2), (0, 2)):
        target = torch.ones(shape, dtype=torch.int64)
        both = on_copies(ours, target), on_copies(theirs, target)
        assert_parity(*both, draw(*shape), dtype=torch.float64)


@pytest.mark.parametrize("name", MINED)
def test_random_negatives_are_as_many(name):
    ours, theirs = make(name, neg_pos_ub=2)
    pred, target, weight = pairs(5)
    _, mined, count = ours.update_weight(pred, target, weight, None)
    _, expected, wanted = on_copies(theirs.update_weight, target)(pred, weight, avg_factor=None)
    assert count == wanted == (mined > 0).sum()
    for kind in (0, 0.5, 1):
        assert ((mined > 0) & (target == kind)).sum() == ((expected > 0) & (target == kind)).sum()
    for gallery in ([3, 5, 7], torch.tensor([3, 5, 7])):
        chosen, likewise = ours.random_choice(gallery, 2), theirs.random_choice(gallery, 2)
        assert type(chosen) is type(likewise) and len({*chosen.tolist()} & {3, 5, 7}) == 2
    with pytest.raises(AssertionError, match="at least 4 elements, got 3"):
        ours.random_choice([1, 2, 3], 4)


@pytest.mark.parametrize("name", MINED)
def test_mined_errors(name):
    ours, theirs = make(name)
    pred, target, _ = pairs(5)
    for error, arguments in (
        (AssertionError, {"reduction_override": "max"}),
        (ValueError, {"reduction_override": "sum"}),
    ):
        for loss in (ours, theirs):
            with pytest.raises(error):
                loss(pred, target.clone(), **arguments)
    with pytest.raises(AssertionError, match="same shape"):
        ours(pred, target[:, :1])
    with pytest.raises(RuntimeError, match="target must not require a gradient"):
        ours(pred, target.requires_grad_())


def test_margin_l2_of_half_precision_is_float32():
    pred, target, weight = (x.bfloat16() for x in pairs(8))
    values = [on_copies(loss, target)(pred, weight) for loss in make("MarginL2Loss")]
    assert values[0].dtype == values[1].dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("margin", [0.3, 2.0])
def test_triplet(margin, dtype):
    losses = make("TripletLoss", margin=margin, loss_weight=2.5)
    assert_parity(*losses, draw(11, 4) * 2, torch.arange(11) % 4, dtype=dtype)


def test_triplet_with_equal_distances():
    """Corners of squares: the gradient is shared."""
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]], dtype=torch.float64)
    for label in ([0, 0, 0, 1, 1], [0, 1, 1, 1, 0], [0, 1, 2, 3, 4]):
        assert_parity(*make("TripletLoss"), corners, torch.tensor(label), dtype=torch.float64)


def test_triplet_without_negatives(monkeypatch):
    ours, theirs = make("TripletLoss")
    for error, *arguments in (
        (RuntimeError, draw(5, 3), torch.zeros(5)),
        (RuntimeError, draw(5, 3), torch.arange(4)),
        (ValueError, draw(0, 3), torch.arange(0)),
    ):
        for loss in (ours, theirs):
            with pytest.raises(error):
                loss(*arguments)
    for loss in make("TripletLoss", hard_mining=False):
        with pytest.raises(NotImplementedError):
            loss(draw(5, 3), torch.arange(5))
    assert type(ours.ranking_loss) is type(theirs.ranking_loss)
    assert type(mmdet.build_loss({"type": "TripletLoss"})) is type(ours)
    monkeypatch.setattr("fastloss.compat.mmdet.tracking.values_may_be_read", lambda tensor: False)
    with forbid_host_reads():
        lone, good = ours(draw(5, 3), torch.zeros(5)), ours(draw(5, 3), torch.arange(5))
    assert lone.isnan() and good.isfinite()


@pytest.mark.parametrize("name", [*MINED, "MultiPosCrossEntropyLoss"])
def test_no_host_read(name):
    pred, target, weight = pairs(5)
    options = {} if name not in MINED else {"neg_pos_ub": 2, "hard_mining": True}
    loss = getattr(mmdet, name)(**options)
    with forbid_host_reads():
        loss(pred.requires_grad_(), target, weight[:, 0] if not options else weight).backward()
    assert type(mmdet.build_loss({"type": name})) is type(loss)
