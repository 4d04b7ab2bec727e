"""DistributionFocalLoss and its function against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, LAST = 23, 7
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, LAST + 1, generator=GENERATOR, dtype=torch.float64)
# Integers, halves and just below the last integer, all exact in bfloat16.
TARGET = torch.cat((torch.arange(2 * LAST) / 2, LAST - torch.arange(1, 10) / 32)).double()
ROWS = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = {"none": None, "rows": ROWS, "one": ROWS[:1], "larger": ROWS[:, None]}


def make(**options):
    return mmdet.DistributionFocalLoss(**options), upstream.DistributionFocalLoss(**options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_class(reduction, weight, dtype):
    losses = make(reduction=reduction, loss_weight=2.5)
    assert_parity(*losses, LOGITS, TARGET, WEIGHTS[weight], dtype=dtype)


@pytest.mark.parametrize("avg_factor", [11, 0.0, torch.tensor(13.0), torch.tensor([13.0])], ids=str)
@pytest.mark.parametrize("override", ["mean", "none"])
def test_avg_factor_and_override(override, avg_factor):
    extra = {"avg_factor": avg_factor, "reduction_override": override}
    assert_parity(*make(reduction="sum", loss_weight=0.25), LOGITS, TARGET, ROWS, **extra)


@pytest.mark.parametrize("weight", [None, torch.zeros(0)], ids=["none", "rows"])
@pytest.mark.parametrize("avg_factor", [None, 0.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_no_rows(reduction, avg_factor, weight):
    if reduction == "sum" and avg_factor is not None:
        return
    assert_parity(*make(reduction=reduction), LOGITS[:0], TARGET[:0], weight, avg_factor)


def test_function_and_strides():
    ours, theirs = mmdet.distribution_focal_loss, upstream.distribution_focal_loss
    assert_parity(ours, theirs, LOGITS, TARGET, ROWS, "sum")
    wide = torch.cat((LOGITS, LOGITS), 1)[:, : LAST + 1]
    assert_parity(ours, theirs, wide, TARGET.flip(0)[::2].repeat_interleave(2)[:N], avg_factor=3)
    assert_parity(ours, theirs, LOGITS.t().contiguous().t(), TARGET, reduction="none")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64], ids=str)
def test_other_types_of_targets(dtype):
    ours, theirs = make(reduction="none")
    target = TARGET.to(dtype)
    for x in (LOGITS, LOGITS.float()):
        value, expected = ours(x, target), theirs(x, target)
        torch.testing.assert_close(value, expected, check_dtype=dtype.is_floating_point)


ERRORS = {
    "override": (
        lambda m: m.DistributionFocalLoss()(LOGITS, TARGET, reduction_override="max"),
        "reduction_override must be .*max",
    ),
    "sum with avg_factor": (
        lambda m: m.DistributionFocalLoss(reduction="sum")(LOGITS, TARGET, avg_factor=2),
        "avg_factor",
    ),
    "number of targets": (
        lambda m: m.DistributionFocalLoss()(LOGITS, TARGET[:5]),
        r"got \(5,\)",
    ),
    "target at the end": (
        lambda m: m.DistributionFocalLoss()(LOGITS, TARGET.clone().fill_(LAST)),
        r"target must be in \[0, 7\); got 7 at index 0",
    ),
    "negative target": (
        lambda m: m.DistributionFocalLoss()(LOGITS, TARGET - 1),
        r"target must be in \[0, 7\); got -1 at index 0",
    ),
    "no number": (
        lambda m: m.DistributionFocalLoss()(LOGITS, TARGET * torch.nan),
        r"target must be in \[0, 7\); got nan at index 0",
    ),
}


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type


def test_slightly_negative_targets_are_refused():
    """mmdet gives the integer 1 a share below 0."""
    target = TARGET.clone().fill_(-0.5)
    ours, theirs = make()
    assert theirs(LOGITS, target).isfinite()
    with pytest.raises(IndexError, match=r"got -0.5 at index 0"):
        ours(LOGITS, target)
