"""SoftCrossEntropyLoss, SoftBCEWithLogitsLoss and MCCLoss against smp's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import smp

upstream = references.or_skip(references.smp)

N, C = 2, 3
G = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(N, C, 5, 4, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, C, (N, 5, 4), generator=G)
SOFT = torch.rand(N, C, 5, 4, generator=G, dtype=torch.float64)
HARD = (SOFT < 0.4).double()
VOID = torch.where(SOFT[:, 0] < 0.3, -100, LABELS)
FULL = torch.rand(N, C, 5, 4, generator=G, dtype=torch.float64)
CHANNEL = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64).view(C, 1, 1)
REDUCTIONS = ["mean", "sum", "none", "other"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
SPATIAL = [(), (7,), (1,), (2, 3, 2), (0,)]


def soft_ce(**options):
    options = {"smooth_factor": 0.0, **options}
    return smp.SoftCrossEntropyLoss(**options), upstream.SoftCrossEntropyLoss(**options)


def soft_bce(**options):
    return smp.SoftBCEWithLogitsLoss(**options), upstream.SoftBCEWithLogitsLoss(**options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("target", [LABELS, VOID], ids=["labels", "ignored"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ce(reduction, target, smooth, dtype):
    losses = soft_ce(reduction=reduction, smooth_factor=smooth)
    assert_parity(*losses, LOGITS, target, dtype=dtype)
    assert_parity(*losses, LOGITS, target[:, None], dtype=dtype)


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("ignore_index", [None, 0, 255, -1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ce_ignore_index(reduction, ignore_index, smooth):
    options = {"reduction": reduction, "smooth_factor": smooth, "ignore_index": ignore_index}
    target = LABELS if ignore_index is None else torch.where(LABELS == 1, ignore_index, LABELS)
    assert_parity(*soft_ce(**options), LOGITS, target, dtype=torch.float64)
    assert_parity(*soft_ce(**options), LOGITS, target[:, None], dtype=torch.float64)


@pytest.mark.parametrize("ignore_index", [None, -100])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
def test_ce_dim(dim, reduction, ignore_index):
    logits = LOGITS.movedim(1, dim)
    options = {"dim": dim, "reduction": reduction, "ignore_index": ignore_index}
    for smooth in (0.0, 0.2):
        losses = soft_ce(smooth_factor=smooth, **options)
        assert_parity(*losses, logits, LABELS, dtype=torch.float64)
        assert_parity(*losses, logits, LABELS.unsqueeze(dim), dtype=torch.float64)


def test_ce_without_a_batch():
    losses = soft_ce(dim=0, smooth_factor=0.1)
    assert_parity(*losses, LOGITS[0, :, 0, 0], torch.tensor(1), dtype=torch.float64)


@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ce_any_number_of_dimensions(reduction, spatial):
    logits = torch.randn(N, C, *spatial, generator=G, dtype=torch.float64)
    labels = torch.randint(0, C, (N, *spatial), generator=G)
    losses = soft_ce(reduction=reduction, smooth_factor=0.2)
    assert_parity(*losses, logits, labels, dtype=torch.float64)
    assert_parity(*losses, logits[:0], labels[:0], dtype=torch.float64)


def test_ce_default_smoothing_is_none():
    with pytest.raises(TypeError):
        upstream.SoftCrossEntropyLoss()(LOGITS, LABELS)
    assert smp.SoftCrossEntropyLoss()(LOGITS, LABELS) == soft_ce()[0](LOGITS, LABELS)


def test_ce_all_ignored():
    for reduction in REDUCTIONS:
        losses = soft_ce(reduction=reduction, smooth_factor=0.1)
        assert_parity(*losses, LOGITS, torch.full_like(LABELS, -100), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_ce_huge_logits(scale):
    for smooth in (0.0, 0.1):
        losses = soft_ce(smooth_factor=smooth)
        assert_parity(*losses, LOGITS * scale, VOID, dtype=torch.float64)


def test_ce_strides_and_dtypes():
    channels_last = LOGITS.movedim(1, -1).contiguous().movedim(-1, 1)
    for reduction in ("mean", "none"):
        losses = soft_ce(reduction=reduction, smooth_factor=0.1)
        for x in (channels_last, LOGITS.mT.contiguous().mT, LOGITS[:1].expand(LOGITS.shape)):
            assert_parity(*losses, x, VOID.mT.contiguous().mT, dtype=torch.float64)
        assert torch.equal(losses[0](LOGITS, LABELS.to(torch.uint8)), losses[0](LOGITS, LABELS))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("smooth", [None, 0.3])
@pytest.mark.parametrize(
    "target",
    [HARD, SOFT, torch.where(SOFT < 0.3, -100, SOFT)],
    ids=["hard", "soft", "ignored"],
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bce(reduction, target, smooth, dtype):
    losses = soft_bce(reduction=reduction, smooth_factor=smooth)
    assert_parity(*losses, LOGITS, target, dtype=dtype)


WEIGHTS = {
    "channel": CHANNEL,
    "channel of batch": CHANNEL[None],
    "one": CHANNEL[1, 0],
    "scalar": CHANNEL[1, 0, 0],
    "columns": FULL[0, 0, 0],
    "full": FULL,
    "float32": CHANNEL.float(),
}


@pytest.mark.parametrize("reduction", REDUCTIONS[:3])
@pytest.mark.parametrize("pos_weight", [None, *WEIGHTS])
@pytest.mark.parametrize("weight", [None, *WEIGHTS])
def test_bce_weights(weight, pos_weight, reduction):
    options = {"weight": WEIGHTS.get(weight), "pos_weight": WEIGHTS.get(pos_weight)}
    losses = soft_bce(reduction=reduction, smooth_factor=0.1, **options)
    assert_parity(*losses, LOGITS, torch.where(HARD == 0, -100, SOFT), dtype=torch.float64)


def test_bce_weights_of_rows():
    for weight in (CHANNEL[:, 0, 0], CHANNEL[:, 0, 0][None], FULL[:, 0, 0, :1]):
        losses = soft_bce(weight=weight, pos_weight=weight)
        assert_parity(*losses, LOGITS[..., 0, 0], SOFT[..., 0, 0], dtype=torch.float64)


def test_bce_weights_of_columns_as_many_as_channels():
    for weight in (CHANNEL.view(C), CHANNEL.view(1, C), CHANNEL.view(1, 1, C)):
        for losses in (soft_bce(weight=weight), soft_bce(pos_weight=weight)):
            assert_parity(*losses, LOGITS[..., :C], SOFT[..., :C], dtype=torch.float64)


def test_bce_integer_target():
    for reduction in REDUCTIONS:
        losses = soft_bce(reduction=reduction, smooth_factor=0.1, ignore_index=1)
        assert_parity(*losses, LOGITS, HARD.long(), dtype=torch.float32)  # so torch smooths them


@pytest.mark.parametrize("ignore_index", [None, 0, 255])
def test_bce_ignore_index(ignore_index):
    target = torch.where(SOFT < 0.3, ignore_index or 0, SOFT)
    for smooth in (None, 0.2):
        losses = soft_bce(ignore_index=ignore_index, smooth_factor=smooth)
        assert_parity(*losses, LOGITS, target, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 0), (1, 1), (2, 3, 4, 2, 2)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bce_any_shape(reduction, shape):
    logits = torch.randn(shape, generator=G, dtype=torch.float64)
    target = torch.rand(shape, generator=G, dtype=torch.float64)
    assert_parity(*soft_bce(reduction=reduction), logits, target, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_bce_huge_logits(scale):
    for target in (HARD, SOFT):
        assert_parity(*soft_bce(), LOGITS * scale, target, dtype=torch.float64)


def test_bce_all_ignored_and_strides():
    assert_parity(*soft_bce(), LOGITS, torch.full_like(SOFT, -100), dtype=torch.float64)
    channels_last = LOGITS.movedim(1, -1).contiguous().movedim(-1, 1)
    assert_parity(*soft_bce(), channels_last, SOFT.mT.contiguous().mT, dtype=torch.float64)


def test_bce_buffers_follow_the_module():
    ours, theirs = soft_bce(weight=CHANNEL.float(), pos_weight=CHANNEL.float())
    theirs.load_state_dict(ours.state_dict())
    for loss in (ours, theirs):
        loss.double()
        loss.pos_weight = None
    assert_parity(ours, theirs, LOGITS, SOFT, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
def test_mcc(target, eps, dtype):
    losses = smp.MCCLoss(eps), upstream.MCCLoss(eps)
    assert_parity(*losses, LOGITS.sigmoid(), target, dtype=dtype, scale=1.0)


def test_mcc_shapes_and_extremes():
    losses = smp.MCCLoss(), upstream.MCCLoss()
    p = LOGITS.sigmoid()
    for y_pred, y_true in (
        (p[:, :1], HARD[:, 0]),
        (p[:, 0], HARD[:, :1]),
        (p[:, 0].mT, HARD[:, 0].mT.contiguous()),
        (p, torch.zeros_like(HARD)),
        (p, torch.ones_like(HARD)),
        (1 - HARD, HARD),
        (p[..., 0, 0, None], HARD[..., 0, 0, None].long()),
        (p[..., :0], HARD[..., :0]),
    ):
        assert_parity(*losses, y_pred, y_true, dtype=torch.float64, scale=1.0)
    one = p[:1, :1, :1, 0], HARD[:1, 0, :1, :1]
    assert_parity(smp.MCCLoss(0.5), upstream.MCCLoss(0.5), *one, dtype=torch.float64, scale=1.0)


ERRORS = {
    "ce label above": (
        lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.0)(LOGITS, LABELS + 1), "got 3",
    ),
    "ce label below": (
        lambda m: m.SoftCrossEntropyLoss("none", 0.1)(LOGITS, LABELS - 1), "got -1",
    ),
    "ce label without ignore_index": (
        lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=None)(LOGITS, VOID),
        "got -100",
    ),
    "ce shape": (
        lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.1)(LOGITS[..., :2], LABELS),
        r"\(2, 5, 2\), got \(2, 5, 4\)",
    ),
    "bce shape": (lambda m: m.SoftBCEWithLogitsLoss()(LOGITS, SOFT[:, :1]), r"got \(2, 1, 5, 4\)"),
    "bce integers": (lambda m: m.SoftBCEWithLogitsLoss()(LOGITS, HARD.long()), "torch.int64"),
    "bce bool": (lambda m: m.SoftBCEWithLogitsLoss()(LOGITS, HARD.bool()), "torch.bool"),
    "bce weight": (
        lambda m: m.SoftBCEWithLogitsLoss(weight=FULL[..., :3])(LOGITS, SOFT), "size|expand",
    ),
    "mcc": (lambda m: m.MCCLoss()(SOFT, HARD[..., :3]), r"\(2, 3, 5, 4\), got \(2, 3, 5, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(smp)
    assert ours.type is theirs.type
