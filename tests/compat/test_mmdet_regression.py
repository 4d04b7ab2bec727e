"""L1Loss, SmoothL1Loss, BalancedL1Loss, MSELoss and their functions against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

CLASSES = ["L1Loss", "SmoothL1Loss", "BalancedL1Loss", "MSELoss"]
WITH_SHORTCUT = CLASSES[:2]
FUNCTIONS = ["l1_loss", "smooth_l1_loss", "balanced_l1_loss", "mse_loss"]
N = 37


def offsets(*shape, seed=0):
    """pred and target of `shape`, with differences on both sides of beta = 1."""
    generator = torch.Generator().manual_seed(seed)
    return [
        2 * torch.randn(shape or (N, 4), generator=generator, dtype=torch.float64) for _ in range(2)
    ]


def make(name, **options):
    return getattr(mmdet, name)(**options), getattr(upstream, name)(**options)


def weights():
    full = torch.rand(N, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {
        "none": None,
        "full": full,
        "half zero": full * (full > 0.5),
        "signed": full - 0.5,
        "one positive": torch.where(full == full.min(), 0.001, -full),
        "zero": torch.zeros(N, 4, dtype=torch.float64),
        "negative": -full,
        "one negative": torch.zeros(N, 4, dtype=torch.float64).index_fill(
            0, torch.tensor([5]), -2.0
        ),
        "column": full[:, :1],
        "row": full[0],
        "scalar": full[0, 0],
    }


NOT_POSITIVE = ["zero", "negative", "one negative"]
POSITIVE = [name for name in weights() if name not in NOT_POSITIVE]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("shape", [(N, 4), (5,), (2, 3, 4, 5), ()], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", CLASSES)
def test_class(name, reduction, shape, dtype):
    assert_parity(*make(name, reduction=reduction, loss_weight=2.5), *offsets(*shape), dtype=dtype)


@pytest.mark.parametrize("beta", [0.11, 1, 4.0])
def test_beta(beta):
    assert_parity(*make("SmoothL1Loss", beta=beta, reduction="none"), *offsets())


@pytest.mark.parametrize("alpha, gamma, beta", [(0.5, 1.5, 0.3), (0.2, 0.9, 1), (1.0, 0.5, 2.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_balanced_l1(alpha, gamma, beta, dtype):
    losses = make("BalancedL1Loss", alpha=alpha, gamma=gamma, beta=beta, reduction="none")
    assert_parity(*losses, *offsets(), dtype=dtype)


def test_kinks():
    pred = torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5, 2.0], dtype=torch.float64)
    for name in CLASSES:
        assert_parity(*make(name, reduction="none"), pred, torch.zeros_like(pred))


@pytest.mark.parametrize("weight", weights().items(), ids=lambda item: item[0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", CLASSES)
def test_weight(name, reduction, weight):
    assert_parity(*make(name, reduction=reduction, loss_weight=2.0), *offsets(), weight[1])


@pytest.mark.parametrize("weight", POSITIVE)
@pytest.mark.parametrize("name", CLASSES)
def test_weight_without_reduction(name, weight):
    assert_parity(*make(name, reduction="none", loss_weight=2.0), *offsets(), weights()[weight])


@pytest.mark.parametrize(
    "avg_factor", [11, 0.0, -2.0, torch.tensor(13.0), torch.tensor(13)], ids=str
)
@pytest.mark.parametrize("weight", ["none", "full", "zero", "negative"])
@pytest.mark.parametrize("name", CLASSES)
def test_avg_factor(name, weight, avg_factor):
    ours, theirs = make(name, reduction="sum", loss_weight=2.0)
    extra = {"avg_factor": avg_factor, "reduction_override": "mean"}
    assert_parity(ours, theirs, *offsets(), weights()[weight], **extra)


@pytest.mark.parametrize("name", CLASSES)
def test_avg_factor_of_one_element_gives_one_element(name):
    assert_parity(*make(name), *offsets(), weights()["full"], torch.tensor([13.0]))


@pytest.mark.parametrize("weight", NOT_POSITIVE)
@pytest.mark.parametrize("name", WITH_SHORTCUT)
def test_shortcut_without_reduction(name, weight):
    # mmdet returns a scalar, which needs the weights on the host; ours keeps the shape, and sums
    # to that scalar.
    ours, theirs = make(name, reduction="none")
    assert ours(*offsets(), weights()[weight]).shape == (N, 4)
    assert_parity(lambda *args: ours(*args).sum(), theirs, *offsets(), weights()[weight])


@pytest.mark.parametrize("name", WITH_SHORTCUT)
def test_weight_per_row(name):
    ours, theirs = make(name)
    rows = weights()["full"][:, 0]
    # mmdet accepts (n,) only where no weight is positive; ours weights the rows otherwise.
    assert_parity(ours, theirs, *offsets(), -rows)
    assert_parity(ours, theirs, *offsets(), 0 * rows)
    assert_parity(ours, lambda p, t, w: theirs(p, t, w[:, None]), *offsets(), rows)
    # With n = 4 mmdet weights the columns.
    assert_parity(ours, theirs, *offsets(4, 4), rows[:4])


@pytest.mark.parametrize("weight", [None, torch.zeros(0, 4)], ids=["none", "empty"])
@pytest.mark.parametrize("avg_factor", [None, 0.0, 3.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", CLASSES)
def test_no_elements(name, reduction, avg_factor, weight):
    ours, theirs = make(name, reduction=reduction, loss_weight=-1.0)
    empty = torch.zeros(0, 4)
    if (
        reduction == "sum"
        and avg_factor is not None
        and (weight is None or name not in WITH_SHORTCUT)
    ):
        with pytest.raises(ValueError, match="sum"):
            ours(empty, empty, weight, avg_factor)
        return
    assert_parity(ours, theirs, empty, empty, weight, avg_factor)
    pred = empty.clone().requires_grad_()
    assert ours(pred, empty, weight, avg_factor).requires_grad


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    ours, theirs = getattr(mmdet, name), getattr(upstream, name)
    for reduction in ("none", "mean", "sum"):
        assert_parity(ours, theirs, *offsets(), weights()["full"], reduction)
    assert_parity(ours, theirs, *offsets(), None, "mean", 5)
    # Plain torch broadcasting: the weight enlarges the loss.
    assert_parity(ours, theirs, *offsets(), weights()["full"].expand(2, N, 4), "mean")


@pytest.mark.parametrize("name", CLASSES)
def test_strides_and_mixed_dtypes(name):
    pred, target = offsets()
    ours, theirs = make(name, reduction="none")
    strided = pred.t().contiguous().t(), target[::2].repeat_interleave(2, 0)[:N]
    assert_parity(ours, theirs, *strided, weights()["full"].t().contiguous().t())
    mixed = ours(pred.float(), target.double()), theirs(pred.float(), target.double())
    assert mixed[0].dtype == mixed[1].dtype
    torch.testing.assert_close(*mixed)
    torch.testing.assert_close(ours(pred, target.long()), theirs(pred, target.long()))


def test_mse_broadcasts_with_a_warning():
    pred, target = offsets()
    with pytest.warns(UserWarning, match=r"pred \(37, 4\) and target \(1, 4\) are broadcast"):
        ours = mmdet.MSELoss()(pred, target[:1])
    with pytest.warns(UserWarning):
        torch.testing.assert_close(ours, upstream.MSELoss()(pred, target[:1]))


ERRORS = {
    "beta": (lambda m: m.SmoothL1Loss(beta=0)(*offsets()), "beta must be > 0, got 0"),
    "beta of BalancedL1Loss": (lambda m: m.BalancedL1Loss(beta=0)(*offsets()), "beta must be > 0"),
    "override": (
        lambda m: m.L1Loss()(*offsets(), reduction_override="max"),
        "reduction_override must be .*max",
    ),
    "override of MSELoss": (
        lambda m: m.MSELoss()(*offsets(), reduction_override=True),
        "reduction_override",
    ),
    "sum with avg_factor": (
        lambda m: m.L1Loss(reduction="sum")(*offsets(), avg_factor=2),
        "avg_factor",
    ),
    "reduction": (lambda m: m.SmoothL1Loss(reduction="max")(*offsets()), "reduction"),
    "lengths": (
        lambda m: m.L1Loss()(offsets()[0], offsets()[1][:5]),
        r"same shape, got \(37, 4\) and \(5, 4\)",
    ),
    "lengths of MSELoss": (lambda m: m.MSELoss()(offsets()[0], offsets()[1][:5]), None),
    "weight": (lambda m: m.L1Loss()(*offsets(), torch.rand(N, 3)), None),
    "weight of BalancedL1Loss": (lambda m: m.BalancedL1Loss()(*offsets(), torch.rand(N)), None),
    "reduction of BalancedL1Loss": (
        lambda m: m.BalancedL1Loss()(*offsets(), reduction="sum"),
        "reduction",
    ),
    "unexpected argument": (lambda m: m.SmoothL1Loss()(*offsets(), colour=1), "colour"),
    "argument given twice": (lambda m: m.SmoothL1Loss()(*offsets(), beta=2.0), "beta"),
}


@pytest.mark.filterwarnings("ignore:.*target size")
@pytest.mark.filterwarnings("ignore:.*are broadcast")
@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type
