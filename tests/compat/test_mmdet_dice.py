"""DiceLoss and dice_loss against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(5, 4, 6, generator=GENERATOR, dtype=torch.float64)
SOFT = torch.rand(5, 4, 6, generator=GENERATOR)
SOFT = SOFT.bfloat16()  # exact in every dtype: mmdet rounds its target to float32
HARD = (SOFT > 0.5).long()
WEIGHT = torch.rand(5, generator=GENERATOR, dtype=torch.float64) - 0.3


def make(**options):
    return mmdet.DiceLoss(**options), upstream.DiceLoss(**options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("naive", [False, True])
def test_class(naive, reduction, dtype):
    losses = make(reduction=reduction, naive_dice=naive, loss_weight=2.5, eps=0.1)
    # mmdet has the target and its sums in float32, in float64 too.
    rounded = {"dtype": dtype, "scale": 1.0 if dtype != torch.float64 else 1e8}
    assert_parity(*losses, LOGITS, HARD, **rounded)
    assert_parity(*losses, LOGITS, SOFT, WEIGHT, **rounded)
    losses = make(reduction=reduction, naive_dice=naive, activate=False)
    assert_parity(*losses, LOGITS.sigmoid(), HARD, WEIGHT, **rounded)


@pytest.mark.parametrize("avg_factor", [7, 0.0, torch.tensor(3.5)], ids=str)
@pytest.mark.parametrize("override", ["mean", "none"])
def test_avg_factor_and_override(override, avg_factor):
    # reduction_override is the fourth positional argument.
    assert_parity(*make(reduction="sum"), LOGITS, HARD, WEIGHT, override, avg_factor, scale=1.0)


def test_function():
    p = LOGITS.sigmoid()
    for arguments in ((), (WEIGHT,), (WEIGHT, 0.5, "sum", True), (None, 0.5, "mean", True, 9)):
        assert_parity(mmdet.dice_loss, upstream.dice_loss, p, HARD, *arguments, scale=1.0)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_no_masks_and_empty_masks(reduction):
    for naive in (False, True):
        losses = make(reduction=reduction, naive_dice=naive)
        assert_parity(*losses, LOGITS[:0], HARD[:0])
        assert_parity(*losses, LOGITS[:, :0], HARD[:, :0])
        assert_parity(*losses, LOGITS - 60, HARD * 0, scale=1.0)


ERRORS = {
    "use_sigmoid": (lambda m: m.DiceLoss(use_sigmoid=False)(LOGITS, HARD), "use_sigmoid"),
    "override": (lambda m: m.DiceLoss()(LOGITS, HARD, None, "max"), "reduction_override"),
    "length": (lambda m: m.DiceLoss()(LOGITS, HARD, WEIGHT[:4]), r"weight .*\(5,\), got \(4,\)"),
    "rank": (lambda m: m.DiceLoss()(LOGITS, HARD, LOGITS), r"weight must have shape \(5,\)"),
    "sum": (lambda m: m.DiceLoss()(LOGITS, HARD, None, "sum", 3), "avg_factor"),
    "reduction": (lambda m: m.DiceLoss(reduction="max")(LOGITS, HARD), "reduction"),
}


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type


def test_probabilities_without_a_sigmoid():
    assert mmdet.DiceLoss(use_sigmoid=False, activate=False)(LOGITS.sigmoid(), HARD) > 0
