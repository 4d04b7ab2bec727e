"""QualityFocalLoss, VarifocalLoss, GaussianFocalLoss and their functions against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, C = 19, 6
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, C, generator=GENERATOR, dtype=torch.float64)
IDS = torch.randint(-1, C + 2, (N,), generator=GENERATOR)  # below 0 and from C on background
QUALITY = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
DENSE = torch.rand(N, C, generator=GENERATOR, dtype=torch.float64).where(LOGITS > 1, 0)
ROWS = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
FULL = torch.rand(N, C, generator=GENERATOR, dtype=torch.float64)
BUMPS = (1.5 * FULL).clamp(max=1)  # exactly 1 at centres
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
REDUCTIONS = ["none", "mean", "sum"]


def make(name, **options):
    return getattr(mmdet, name)(**options), getattr(upstream, name)(**options)


def of_pair(loss):
    """Both parts of the target as arguments, so that the gradient of the quality is compared."""
    return lambda pred, label, score, *args, **extra: loss(pred, (label, score), *args, **extra)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, ROWS - 0.3], ids=["unweighted", "rows"])
@pytest.mark.parametrize("activated", [False, True])
def test_quality_of_labels(activated, weight, reduction, dtype):
    losses = make("QualityFocalLoss", activated=activated, reduction=reduction, loss_weight=2.5)
    pred = LOGITS.sigmoid() if activated else LOGITS
    assert_parity(*map(of_pair, losses), pred, IDS, QUALITY, weight, dtype=dtype, scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_quality_of_dense_targets(reduction, activated, dtype):
    losses = make("QualityFocalLoss", activated=activated, reduction=reduction, beta=1.5)
    pred = LOGITS.sigmoid() if activated else LOGITS
    assert_parity(*losses, pred, DENSE, ROWS, dtype=dtype, scale=1.0)


def test_quality_of_uint8_labels():
    # In uint8 the number of classes, 300, would be 44.
    scores, labels = torch.zeros(2, 300), torch.tensor([200, 7])
    ours, theirs = make("QualityFocalLoss", reduction="none")
    value = ours(scores, (labels.to(torch.uint8), QUALITY[:2].float()))
    torch.testing.assert_close(value, theirs(scores, (labels, QUALITY[:2].float())))


def test_quality_of_maps():
    maps = torch.randn(2, C, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = maps.roll(1, 0).clamp(0, 1)
    assert_parity(*make("QualityFocalLoss", reduction="none"), maps, target)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("iou_weighted", [True, False])
@pytest.mark.parametrize("weight", [None, FULL, ROWS[:, None]], ids=["unweighted", "full", "rows"])
def test_varifocal(weight, iou_weighted, reduction, dtype):
    losses = make(
        "VarifocalLoss", reduction=reduction, iou_weighted=iou_weighted, alpha=0.5, loss_weight=2.0
    )
    assert_parity(*losses, LOGITS, DENSE, weight, dtype=dtype, scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, FULL], ids=["unweighted", "full"])
def test_gaussian(weight, reduction, dtype):
    losses = make("GaussianFocalLoss", reduction=reduction, pos_weight=2.0, neg_weight=0.5)
    extra = {"weight": weight, "dtype": dtype, "scale": 1.0}
    assert_parity(*losses, LOGITS.sigmoid().clamp(0.02, 0.98), BUMPS, **extra)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("avg_factor", [None, 5, torch.tensor(7.0)], ids=str)
def test_gaussian_at_given_centres(avg_factor, reduction):
    if reduction == "sum" and avg_factor is not None:
        return
    count = 1 if reduction == "none" else 4  # "none" adds (M, 1) and (N, C)
    rows, labels = torch.tensor([2, 7, 7, 11])[:count], torch.tensor([1, 0, 5, 3])[:count]
    losses = make("GaussianFocalLoss", reduction=reduction, pos_weight=2.0, loss_weight=3.0)
    extra = {"weight": FULL, "avg_factor": avg_factor}
    assert_parity(*losses, LOGITS.sigmoid(), BUMPS, rows, labels, **extra)


@pytest.mark.parametrize("avg_factor", [11, 0.0, torch.tensor(13.0)], ids=str)
@pytest.mark.parametrize("override", ["none", "mean"])
def test_avg_factor_and_override(override, avg_factor):
    extra = {"avg_factor": avg_factor, "reduction_override": override}
    assert_parity(*make("QualityFocalLoss", reduction="sum"), LOGITS, DENSE, ROWS, **extra)
    assert_parity(*make("VarifocalLoss", reduction="sum"), LOGITS, DENSE, FULL, **extra)
    pred = LOGITS.sigmoid()
    assert_parity(*make("GaussianFocalLoss", reduction="sum"), pred, BUMPS, weight=FULL, **extra)


@pytest.mark.parametrize("avg_factor", [None, 0.0])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_no_rows(reduction, avg_factor):
    extra = {"avg_factor": avg_factor}
    quality = map(of_pair, make("QualityFocalLoss", reduction=reduction))
    assert_parity(*quality, LOGITS[:0], IDS[:0], QUALITY[:0], **extra)
    for name in ("VarifocalLoss", "GaussianFocalLoss"):
        assert_parity(*make(name, reduction=reduction), FULL[:0], DENSE[:0], **extra)


def test_functions():
    for name, pred in (("quality_focal_loss", LOGITS), ("quality_focal_loss_with_prob", FULL)):
        losses = (of_pair(getattr(m, name)) for m in (mmdet, upstream))
        assert_parity(*losses, pred, IDS, QUALITY, ROWS, "sum", beta=1.0)
    for name, pred, extra in (
        ("quality_focal_loss_tensor_target", FULL, {"activated": True}),
        ("gaussian_focal_loss", FULL, {"alpha": 1.0, "gamma": 2.0}),
    ):
        losses = (getattr(m, name) for m in (mmdet, upstream))
        weight = ROWS if name.startswith("quality") else FULL
        assert_parity(*losses, pred, BUMPS, weight, avg_factor=3, **extra)
    losses = mmdet.varifocal_loss, upstream.varifocal_loss
    assert_parity(*losses, LOGITS, DENSE, FULL, 0.5, 1.5, False, "sum")


ERRORS = {
    "quality sigmoid": lambda m: m.QualityFocalLoss(use_sigmoid=False),
    "quality pair": lambda m: m.QualityFocalLoss()(LOGITS, (IDS, QUALITY, QUALITY)),
    "quality shape": lambda m: m.QualityFocalLoss()(LOGITS, DENSE[:, :3]),
    "quality override": lambda m: m.QualityFocalLoss()(LOGITS, DENSE, reduction_override="max"),
    "quality sum": lambda m: m.QualityFocalLoss(reduction="sum")(LOGITS, DENSE, avg_factor=2),
    "varifocal sigmoid": lambda m: m.VarifocalLoss(use_sigmoid=False),
    "varifocal alpha": lambda m: m.VarifocalLoss(alpha=-0.1),
    "varifocal shape": lambda m: m.VarifocalLoss()(LOGITS, DENSE[:5]),
    "varifocal override": lambda m: m.VarifocalLoss()(LOGITS, DENSE, reduction_override="max"),
    "gaussian override": lambda m: m.GaussianFocalLoss()(FULL, BUMPS, reduction_override="max"),
    "gaussian shape": lambda m: m.GaussianFocalLoss()(FULL, BUMPS[:5]),
    "gaussian labels": lambda m: m.GaussianFocalLoss()(FULL, BUMPS, torch.tensor([1])),
    "gaussian reduction": lambda m: m.GaussianFocalLoss(reduction="max")(FULL, BUMPS),
}


@pytest.mark.parametrize("call", ERRORS.values(), ids=ERRORS)
def test_errors(call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(theirs.type) as ours:
        call(mmdet)
    assert str(ours.value)
