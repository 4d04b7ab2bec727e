"""FocalLoss against smp's."""

import math

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
HARD = (SOFT < 0.4).long()
VOID = torch.where(SOFT[:, 0] < 0.3, 255, LABELS)
CASES = {
    "multiclass": ("multiclass", LOGITS, LABELS, {}),
    "multiclass ignored": ("multiclass", LOGITS, VOID, {"ignore_index": 255}),
    "multiclass float labels": ("multiclass", LOGITS, LABELS.double(), {}),
    "multilabel": ("multilabel", LOGITS, HARD, {}),
    "multilabel soft": ("multilabel", LOGITS, SOFT, {}),
    "binary": ("binary", LOGITS[:, :1], HARD[:, 0], {}),
    "binary soft": ("binary", LOGITS, SOFT, {}),
    "binary ignored": (
        "binary", LOGITS[:, :1], torch.where(SOFT[:, 0] < 0.3, -1, 1), {"ignore_index": -1},
    ),
    "binary ignored soft": (
        "binary", LOGITS, torch.where(SOFT < 0.3, 255.0, SOFT), {"ignore_index": 255},
    ),
}  # fmt: skip
OPTIONS = [
    {},
    {"alpha": 0.25},
    {"alpha": 0.9, "gamma": 1.5},
    {"gamma": 0.0},
    {"gamma": 3},
    {"normalized": True},
    {"reduced_threshold": 0.4},
    {"reduced_threshold": 0.6, "normalized": True, "alpha": 0.3, "gamma": 2.5},
    {"from_logits": False, "alpha": 0.3},
    {"from_logits": False, "eps": 0.2},
]
REDUCTIONS = ["mean", "sum", "none", "batchwise_mean", None]


def make(mode, **options):
    return smp.FocalLoss(mode, **options), upstream.FocalLoss(mode, **options)


def compare(case, dtype=torch.float64, **options):
    mode, logits, target, own = CASES[case]
    if options.get("from_logits") is False:
        logits = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    assert_parity(*make(mode, **own, **options), logits, target, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES)
def test_reductions(case, reduction, dtype):
    compare(case, dtype, reduction=reduction)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none", "batchwise_mean"])
@pytest.mark.parametrize("case", CASES)
def test_options(case, reduction, options):
    compare(case, reduction=reduction, **options)


@pytest.mark.parametrize("weights", [[1.0, 0.5, 3.0], (0, 2, 0), torch.tensor([1, 2, 3])], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("case", [case for case in CASES if "binary" not in case])
def test_class_weights(case, reduction, weights):
    compare(case, reduction=reduction, class_weights=weights, normalized=True)


def test_class_weights_of_sums_over_the_batch():
    options = {"reduction": "batchwise_mean", "class_weights": [1.0, 0.5, 3.0]}
    assert_parity(*make("multiclass", **options), LOGITS[..., 0, 0], LABELS[:, 0, 0])
    assert_parity(*make("multiclass", **options, ignore_index=255), LOGITS, VOID)


def test_normaliser_has_a_floor():
    """1e-6, whatever eps is."""
    sure = 10.0 * (2 * HARD - 1)
    for mode, logits, target in (("multilabel", sure, HARD), ("binary", sure, HARD)):
        for reduction in ("sum", "none"):
            losses = make(mode, normalized=True, reduction=reduction, eps=0.5)
            assert_parity(*losses, logits, target, dtype=torch.float32)


def test_labels_that_are_no_class_are_background():
    for labels in (torch.full_like(LABELS, 7), LABELS - 1, torch.where(LABELS == 1, -100, LABELS)):
        for options in ({}, {"ignore_index": 0}, {"ignore_index": 255, "reduction": "sum"}):
            assert_parity(*make("multiclass", **options), LOGITS, labels, dtype=torch.float64)


@pytest.mark.parametrize("spatial", [(), (7,), (1,), (2, 3, 2), (0,)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchwise_mean", "none"])
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_any_number_of_dimensions(mode, reduction, spatial):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(N, C, *spatial, generator=g, dtype=torch.float64)
    labels = torch.randint(0, C, (N, *spatial), generator=g)
    target = labels if mode == "multiclass" else (logits.roll(1, 0) > 0).long()
    assert_parity(*make(mode, reduction=reduction), logits, target, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchwise_mean"])
@pytest.mark.parametrize("mode", ["binary", "multiclass"])
def test_nothing_is_left(mode, reduction):
    """The mean over nothing is NaN, the sum 0, the vector empty; gradients are 0."""
    target = torch.full_like(LABELS if mode == "multiclass" else HARD, 255)
    losses = make(mode, reduction=reduction, ignore_index=255)
    assert_parity(*losses, LOGITS, target, dtype=torch.float64)
    assert_parity(*losses, LOGITS[:0], target[:0], dtype=torch.float64)
    assert_parity(*make(mode, reduction=reduction), LOGITS[:0], target[:0], dtype=torch.float64)
    assert losses[0](LOGITS[:0].clone().requires_grad_(), target[:0]).requires_grad


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "reduced_threshold": 0.5}], ids=str)
@pytest.mark.parametrize("case", ["multiclass", "multilabel", "binary"])
def test_huge_logits(case, options, scale):
    mode, logits, target, own = CASES[case]
    losses = make(mode, **own, **options)
    assert_parity(*losses, logits * scale, target, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.bool], ids=str)
@pytest.mark.parametrize("case", ["multiclass", "multiclass ignored", "multilabel", "binary"])
def test_dtypes_of_the_target(case, dtype):
    mode, logits, target, own = CASES[case]
    given = (target % 2 if dtype == torch.bool else target).to(dtype)
    for reduction in ("mean", "none"):
        ours, theirs = make(mode, reduction=reduction, **own)
        torch.testing.assert_close(ours(logits, given), theirs(logits, given), rtol=1e-12, atol=0)


def test_strides():
    for case in ("multiclass", "multilabel soft", "binary soft"):
        mode, logits, target, _ = CASES[case]
        channels_last = logits.movedim(1, -1).contiguous().movedim(-1, 1)
        for x in (channels_last, logits.mT.contiguous().mT, logits[:1].expand(logits.shape)):
            for t in (target.mT.contiguous().mT, target[:1].expand(target.shape)):
                assert_parity(*make(mode), x, t, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_target_of_another_dtype(reduction):
    ours, theirs = make("binary", reduction=reduction, alpha=0.3)
    value, expected = ours(LOGITS.float(), SOFT), theirs(LOGITS.float(), SOFT)
    assert value.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


ERRORS = {
    "binary": (lambda m: m.FocalLoss("binary")(LOGITS, HARD[:, :1]), r"\(120,\), got \(40,\)"),
    "binary with ignore_index": (
        lambda m: m.FocalLoss("binary", ignore_index=2)(LOGITS, HARD[:, :1]), "shape",
    ),
    "multiclass": (
        lambda m: m.FocalLoss("multiclass")(LOGITS, LABELS[:, None]), r"got \(2, 1, 5, 4\)",
    ),
    "multiclass with ignore_index": (
        lambda m: m.FocalLoss("multiclass", ignore_index=2)(LOGITS, LABELS[:, None]), "shape",
    ),
    "multilabel": (lambda m: m.FocalLoss("multilabel")(LOGITS, HARD[..., :3]), "shape"),
    "multilabel with ignore_index": (
        lambda m: m.FocalLoss("multilabel", ignore_index=2)(LOGITS, HARD), "ignore_index",
    ),
    "number of weights": (
        lambda m: m.FocalLoss("multiclass", class_weights=[1.0, 2.0])(LOGITS, LABELS),
        "one weight for each",
    ),
    "weights without reduction": (
        lambda m: m.FocalLoss("multilabel", class_weights=[1.0, 2.0, 3.0], reduction="none")(
            LOGITS, HARD
        ),
        "class_weights need reduction",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(smp)
    assert ours.type is theirs.type


def test_nothing_changes_with_the_layout_of_classes():
    """One native call: the mean over classes of what each gives alone."""
    each = [smp.FocalLoss("binary")(LOGITS[:, c], (LABELS == c).long()) for c in range(C)]
    together = smp.FocalLoss("multiclass")(LOGITS, LABELS)
    assert math.isclose(together, sum(each) / C, rel_tol=1e-12)
