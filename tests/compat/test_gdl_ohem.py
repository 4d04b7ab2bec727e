"""OhemCrossEntropy2d against an oracle in float64."""

import gdl_oracle
import pytest
import torch
from parity import assert_parity

from fastloss.compat import gdl

N, C, H, W = 2, 4, 5, 6
G = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(N, C, H, W, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, C, (N, H, W), generator=G)
VOID = torch.where(torch.rand(N, H, W, generator=G) < 0.3, 255, LABELS)
WEIGHT = [0.5, 1.0, 2.5, 0.25]
PIXELS = LABELS.numel()
FLAT = torch.ones_like(LOGITS)  # every probability is exactly 1 / 4
CASES = {
    "default": (LOGITS, LABELS, {}),
    "ignored": (LOGITS, VOID, {}),
    "ignored class": (LOGITS, LABELS, {"ignore_index": 2}),
    "weight": (LOGITS, VOID, {"weight": WEIGHT}),
    "min_kept": (LOGITS, VOID, {"thresh": 0.05, "min_kept": 11}),
    "min_kept 1": (LOGITS, LABELS, {"thresh": 0.0, "min_kept": 1}),
    "min_kept below thresh": (LOGITS, LABELS, {"thresh": 0.9, "min_kept": 3}),
    "min_kept all but one": (LOGITS, LABELS, {"thresh": 0.1, "min_kept": PIXELS - 1}),
    "min_kept all": (LOGITS, LABELS, {"thresh": 0.1, "min_kept": PIXELS}),
    "min_kept huge": (LOGITS, VOID, {"thresh": 0.1, "min_kept": 10**6, "weight": WEIGHT}),
    "min_kept negative": (LOGITS, LABELS, {"min_kept": -3}),
    "all are hard": (LOGITS, VOID, {"thresh": 1.0}),
    "all are easy": (LOGITS, VOID, {"thresh": 0.0}),
    "thresh above 1": (LOGITS, VOID, {"thresh": 1.5}),
    "thresh below 0": (LOGITS, VOID, {"thresh": -0.5, "min_kept": 4}),
    "all ignored": (LOGITS, torch.full_like(LABELS, 255), {"min_kept": 5}),
    "ties kept": (FLAT, VOID, {"thresh": 0.1, "min_kept": 3}),
    "ties at thresh": (FLAT, LABELS, {"thresh": 0.25}),
    "ties above thresh": (FLAT, LABELS, {"thresh": 0.2}),
    "one class": (LOGITS[:, :1], torch.where(VOID == 255, 255, 0), {"thresh": 1.0}),
    "one pixel": (LOGITS[:1, :, :1, :1], LABELS[:1, :1, :1], {"min_kept": 1}),
    "saturated": (1e4 * LOGITS, LABELS, {"min_kept": 7}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype):
    logits, target, options = CASES[case]

    def oracle(predict, labels):
        return gdl_oracle.ohem_cross_entropy(predict, labels, **options)

    assert_parity(gdl.OhemCrossEntropy2d(**options), oracle, logits, target, dtype=dtype)


def test_nothing_kept_is_zero_with_a_graph():
    for target, thresh in ((torch.full_like(LABELS, 255), 0.6), (LABELS, 0.0)):
        logits = LOGITS.clone().requires_grad_()
        value = gdl.OhemCrossEntropy2d(thresh)(logits, target)
        assert value == 0 and value.dim() == 0
        assert not torch.autograd.grad(value, logits)[0].any()


def test_ignored_pixels_may_be_nan():
    logits = torch.where(VOID[:, None] == 255, torch.nan, LOGITS).requires_grad_()
    loss = gdl.OhemCrossEntropy2d(min_kept=9)
    value = loss(logits, VOID)
    assert value == loss(LOGITS, VOID)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32], ids=str)
def test_dtypes_of_the_target(dtype):
    loss = gdl.OhemCrossEntropy2d(min_kept=9)
    assert loss(LOGITS, VOID.to(dtype)) == loss(LOGITS, VOID)


def test_strides():
    def oracle(predict, labels):
        return gdl_oracle.ohem_cross_entropy(predict, labels, 0.1, 13)

    channels_last = LOGITS.movedim(1, -1).contiguous().movedim(-1, 1)
    transposed = LOGITS.mT.contiguous().mT
    for x, t in ((channels_last, VOID), (transposed, VOID), (LOGITS[..., ::2], VOID[..., ::2])):
        for labels in (t, t.mT.contiguous().mT):
            loss = gdl.OhemCrossEntropy2d(0.1, 13)
            assert_parity(loss, oracle, x, labels, dtype=torch.float64)


def test_weight_is_a_list_a_tensor_or_of_a_checkpoint():
    lists = gdl.OhemCrossEntropy2d(weight=WEIGHT)
    tensor = gdl.OhemCrossEntropy2d(weight=torch.tensor(WEIGHT))
    loaded = gdl.OhemCrossEntropy2d(weight=torch.ones(C))
    loaded.load_state_dict({"criterion.weight": torch.tensor(WEIGHT)})
    expected = gdl_oracle.ohem_cross_entropy(LOGITS, VOID, weight=WEIGHT)
    for loss in (lists, tensor, loaded):
        torch.testing.assert_close(loss(LOGITS, VOID), expected)
        torch.testing.assert_close(loss.double()(LOGITS, VOID), expected)


ERRORS = {
    "dimensions": (LOGITS[0], LABELS[0], {}, ValueError, "N, C, H, W"),
    "too few labels": (LOGITS, LABELS[:, 1:], {}, IndexError, "target must have the shape"),
    "shape of labels": (LOGITS, LABELS[:, None], {}, RuntimeError, "target must have the shape"),
    "label": (LOGITS, LABELS + 1, {}, IndexError, "4"),
    "label of a class that is kept anyway": (
        LOGITS, LABELS + 1, {"min_kept": 10**6}, IndexError, "4",
    ),
    "negative label": (LOGITS, LABELS - 1, {}, IndexError, "-1"),
    "number of weights": (LOGITS, LABELS, {"weight": [1.0, 2.0]}, ValueError, "weight"),
}  # fmt: skip


@pytest.mark.parametrize("logits, target, options, error, text", ERRORS.values(), ids=ERRORS)
def test_errors(logits, target, options, error, text):
    with pytest.raises(error, match=text):
        gdl.OhemCrossEntropy2d(**options)(logits, target)
