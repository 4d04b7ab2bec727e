"""FocalLoss and its functions against mmdet's."""

import pytest
import references
import torch
import torch.nn.functional as F
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, C = 23, 7
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, C, generator=GENERATOR, dtype=torch.float64)
IDS = torch.randint(0, C + 1, (N,), generator=GENERATOR)  # C is background
SOFT = torch.rand(N, C, generator=GENERATOR, dtype=torch.float64)
ONE_HOT = F.one_hot(IDS, C + 1)[:, :C]
ROWS = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
FULL = torch.rand(N, C, generator=GENERATOR, dtype=torch.float64)

TARGETS = {
    "ids": IDS,
    "int one-hot": ONE_HOT,
    "float one-hot": ONE_HOT.double(),
    "bool one-hot": ONE_HOT.bool(),
    "soft": SOFT,
}
WEIGHTS = {
    "none": None,
    "rows": ROWS,
    "column": ROWS[:, None],
    "full": FULL,
    "flat": FULL.flatten(),
    "signed": FULL - 0.5,
    "zero": torch.zeros(N, dtype=torch.float64),
    "negative": -ROWS,
}


def make(**options):
    return mmdet.FocalLoss(**options), upstream.FocalLoss(**options)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("target", TARGETS)
def test_class(target, reduction, dtype):
    assert_parity(*make(reduction=reduction, loss_weight=2.5), LOGITS, TARGETS[target], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("target", TARGETS)
def test_activated(target, reduction, dtype):
    assert_parity(
        *make(reduction=reduction, activated=True), LOGITS.sigmoid(), TARGETS[target], dtype=dtype
    )


def test_activated_at_the_ends():
    # torch bounds the logarithms below by -100 and the denominator of the gradient by 1e-12.
    probabilities = torch.tensor([[0.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    target = torch.tensor([[0, 0, 1, 1]])
    for gamma in (1.0, 2.0):
        assert_parity(*make(activated=True, gamma=gamma, reduction="none"), probabilities, target)


@pytest.mark.parametrize("gamma, alpha", [(0.0, 0.25), (1.5, 0.5), (2.0, 0.9), (0.5, 0.25)])
@pytest.mark.parametrize("target", ["ids", "soft"])
def test_hyper_parameters(target, gamma, alpha):
    assert_parity(*make(gamma=gamma, alpha=alpha, reduction="none"), LOGITS, TARGETS[target])


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("target", ["ids", "soft"])
@pytest.mark.parametrize("activated", [False, True])
def test_weight(activated, target, reduction, weight):
    pred = LOGITS.sigmoid() if activated else LOGITS
    losses = make(reduction=reduction, loss_weight=2.0, activated=activated)
    assert_parity(*losses, pred, TARGETS[target], WEIGHTS[weight])


@pytest.mark.parametrize(
    "avg_factor", [11, 0.0, torch.tensor(13.0), torch.tensor(13), torch.tensor([13.0])], ids=str
)
@pytest.mark.parametrize("weight", ["none", "rows", "zero"])
@pytest.mark.parametrize("override", ["mean", "none"])
def test_avg_factor_and_override(override, weight, avg_factor):
    extra = {"avg_factor": avg_factor, "reduction_override": override}
    assert_parity(*make(reduction="sum"), LOGITS, IDS, WEIGHTS[weight], **extra)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_any_number_of_dimensions(shape):
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = (logits.roll(1, 0) > 0.5).long()
    assert_parity(*make(), logits, target)
    assert_parity(*make(reduction="none"), logits, target, logits.abs())


@pytest.mark.parametrize(
    "weight", [None, torch.zeros(0), torch.zeros(0, C)], ids=["none", "rows", "full"]
)
@pytest.mark.parametrize("avg_factor", [None, 0.0])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("target", [IDS[:0], SOFT[:0]], ids=["ids", "dense"])
def test_no_rows(target, reduction, avg_factor, weight):
    ours, theirs = make(reduction=reduction, loss_weight=-1.0)
    assert_parity(ours, theirs, LOGITS[:0], target, weight, avg_factor)
    assert ours(LOGITS[:0].clone().requires_grad_(), target, weight, avg_factor).requires_grad


def test_strides_and_mixed_dtypes():
    ours, theirs = make(reduction="none")
    assert_parity(
        ours, theirs, LOGITS.t().contiguous().t(), IDS[::2].repeat_interleave(2)[:N], ROWS
    )
    assert_parity(
        ours,
        theirs,
        LOGITS[:, :1].expand(N, C),
        SOFT.t().contiguous().t(),
        FULL.t().contiguous().t(),
    )
    torch.testing.assert_close(ours(LOGITS.float(), SOFT), theirs(LOGITS.float(), SOFT))
    torch.testing.assert_close(ours(LOGITS, IDS.int()), theirs(LOGITS, IDS))


@pytest.mark.parametrize(
    "name, pred, target",
    [
        ("sigmoid_focal_loss", LOGITS, IDS),
        ("py_sigmoid_focal_loss", LOGITS, SOFT),
        ("py_focal_loss_with_prob", LOGITS.sigmoid(), SOFT),
        ("py_focal_loss_with_prob", LOGITS.sigmoid(), IDS),
    ],
)
def test_function(name, pred, target):
    ours, theirs = getattr(mmdet, name), getattr(upstream, name)
    assert_parity(ours, theirs, pred, target)
    assert_parity(ours, theirs, pred, target, ROWS, 1.5, 0.4, "sum")
    assert_parity(ours, theirs, pred, target, FULL.flatten(), 2.0, 0.25, "mean", 9)


ERRORS = {
    "use_sigmoid": (lambda m: m.FocalLoss(use_sigmoid=False), "use_sigmoid must be True"),
    "override": (
        lambda m: m.FocalLoss()(LOGITS, IDS, reduction_override="max"),
        "reduction_override must be .*max",
    ),
    "sum with avg_factor": (
        lambda m: m.FocalLoss(reduction="sum")(LOGITS, IDS, avg_factor=2),
        "avg_factor",
    ),
    "reduction": (lambda m: m.FocalLoss(reduction="max")(LOGITS, IDS), "reduction"),
    "number of ids": (
        lambda m: m.FocalLoss()(LOGITS, IDS[:5]),
        r"got target \(5,\) and pred \(23, 7\)",
    ),
    "shape": (
        lambda m: m.FocalLoss()(LOGITS, SOFT[:5]),
        r"target must have the shape of pred, \(23, 7\), got \(5, 7\)",
    ),
    "shape that broadcasts": (lambda m: m.FocalLoss()(LOGITS, SOFT[:1]), r"got \(1, 7\)"),
    "shape of probabilities": (
        lambda m: m.FocalLoss(activated=True)(LOGITS.sigmoid(), SOFT[:1]),
        r"got \(1, 7\)",
    ),
    "float ids": (
        lambda m: m.FocalLoss()(LOGITS, IDS.float()),
        "integer class ids, got torch.float32",
    ),
    "id above C": (lambda m: m.FocalLoss()(LOGITS, IDS.clone().fill_(C + 1)), "8"),
    "negative id": (lambda m: m.FocalLoss()(LOGITS, IDS.clone().fill_(-1)), "-1"),
    "number of weights": (
        lambda m: m.FocalLoss()(LOGITS, IDS, ROWS[:5]),
        r"weight must have .*got \(5,\)",
    ),
    "weight without dimensions": (
        lambda m: m.FocalLoss()(LOGITS, IDS, torch.tensor(0.5)),
        "no dimensions",
    ),
    "weight of another rank": (
        lambda m: m.FocalLoss()(LOGITS[None], SOFT[None], ROWS[:1]),
        "weight must have",
    ),
}


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type


def test_errors_of_the_operator():
    # mmcv's CUDA operator asserts; it is not here to be compared with.
    with pytest.raises(AssertionError, match=r"got target \(5,\)"):
        mmdet.sigmoid_focal_loss(LOGITS, IDS[:5])
    with pytest.raises(AssertionError, match="integer class ids"):
        mmdet.sigmoid_focal_loss(LOGITS, IDS.float())
