"""BoundaryLoss and DuoLoss against oracles in float64."""

import logging

import gdl_oracle
import pytest
import torch
from parity import assert_parity

from fastloss.compat import gdl

N, C, H, W = 2, 3, 11, 13
G = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(N, C, H, W, generator=G, dtype=torch.float64)
COARSE = torch.randint(0, C, (N, 4, 5), generator=G)
LABELS = COARSE.repeat_interleave(3, 1)[:, :H].repeat_interleave(3, 2)[..., :W].contiguous()
FLAT = torch.zeros_like(LOGITS)  # all probabilities tie
CASES = {
    "default": (LOGITS, LABELS, ()),
    "3 and 5": (LOGITS, LABELS, (3, 5)),
    "5 and 3": (LOGITS, LABELS, (5, 3)),
    "1 and 1": (LOGITS, LABELS, (1, 1)),
    "3 and 1": (LOGITS, LABELS, (3, 1)),
    "wider than the image": (LOGITS[..., :6, :4], LABELS[:, :6, :4], (19, 19)),
    "noise": (LOGITS, torch.randint(0, C, (N, H, W), generator=G), (3, 3)),
    "absent class": (LOGITS, torch.where(LABELS == 1, 0, LABELS), (3, 5)),
    "one label": (LOGITS, torch.ones_like(LABELS), (3, 5)),
    "one class": (LOGITS[:, :1], torch.zeros_like(LABELS), (3, 5)),
    "one pixel": (LOGITS[:1, :, :1, :1], LABELS[:1, :1, :1], (3, 5)),
    "one row": (LOGITS[..., :1, :], LABELS[:, :1], (3, 5)),
    "constant logits": (FLAT, LABELS, (3, 5)),
    # Two classes: sums of two exponentials round alike in every order, so that ties stay ties.
    "two values": (LOGITS[:, :2].sign(), LABELS.clamp(max=1), (3, 5)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype):
    logits, labels, windows = CASES[case]

    def oracle(pred, gt):
        return gdl_oracle.boundary_loss(pred, gt, *windows)

    assert_parity(gdl.BoundaryLoss(*windows), oracle, logits, labels, dtype=dtype, scale=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_duo_is_the_mean_of_two(dtype):
    def oracle(preds, labels):
        lovasz = gdl_oracle.lovasz_softmax(preds, labels)
        return (lovasz + gdl_oracle.boundary_loss(preds, labels)) / 2

    assert_parity(gdl.DuoLoss(), oracle, LOGITS, LABELS, dtype=dtype, scale=0.1)


def test_duo_of_ignored_pixels():
    """Lovász leaves pixels of a class out; the boundaries have it all the same."""
    lovasz = gdl_oracle.lovasz_softmax(LOGITS, LABELS, ignore_index=1)
    expected = (lovasz + gdl_oracle.boundary_loss(LOGITS, LABELS)) / 2
    torch.testing.assert_close(gdl.DuoLoss(ignore_index=1)(LOGITS, LABELS), expected)
    with pytest.raises(IndexError):
        gdl.DuoLoss(ignore_index=255)(LOGITS, torch.where(LABELS == 1, 255, LABELS))


@pytest.mark.parametrize("name", ["is_binary", "only_present", "weight", "theta0", "theta"])
def test_duo_takes_no_other_argument(name):
    with pytest.raises(TypeError, match=name):
        gdl.DuoLoss(**{name: 3})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=str)
def test_dtypes_of_the_labels(dtype):
    loss = gdl.BoundaryLoss(3, 5)
    assert loss(LOGITS, LABELS.to(dtype)) == loss(LOGITS, LABELS)


def test_strides():
    def oracle(pred, gt):
        return gdl_oracle.boundary_loss(pred, gt, 3, 5)

    channels_last = LOGITS.movedim(1, -1).contiguous().movedim(-1, 1)
    for x in (channels_last, LOGITS.mT.contiguous().mT):
        for y in (LABELS, LABELS.mT.contiguous().mT):
            assert_parity(gdl.BoundaryLoss(3, 5), oracle, x, y, dtype=torch.float64)


def test_no_image_is_zero_with_a_graph():
    logits = LOGITS[:0].clone().requires_grad_()
    value = gdl.BoundaryLoss()(logits, LABELS[:0])
    value.backward()
    assert value == 0 and logits.grad.shape == logits.shape


def test_ignore_index_is_kept_and_logged(caplog):
    with caplog.at_level(logging.WARNING):
        assert gdl.BoundaryLoss(ignore_index=255).ignore_index == 255
    assert "does not implement ignore_index" in caplog.text


BAD = LABELS.clone()
BAD[1, 3, 2] = 255
ERRORS = {
    "dimensions": (LOGITS[0], LABELS[0], {}, ValueError, "N, C, H, W"),
    "shape of labels": (LOGITS, LABELS[:, 1:], {}, RuntimeError, "gt must have the shape"),
    "channel of labels": (LOGITS, LABELS[:, None], {}, RuntimeError, "gt must have the shape"),
    "float labels": (LOGITS, LABELS.float(), {}, IndexError, "integer"),
    "label": (LOGITS, BAD, {}, IndexError, "255"),
    "ignored label": (LOGITS, BAD, {"ignore_index": 255}, IndexError, "255"),
    "negative label": (LOGITS, LABELS - 1, {}, IndexError, "-1"),
    "even theta0": (LOGITS, LABELS, {"theta0": 4}, RuntimeError, "theta0 must be odd"),
    "even theta": (LOGITS, LABELS, {"theta": 2}, RuntimeError, "theta must be odd"),
    "negative theta": (LOGITS, LABELS, {"theta": -3}, RuntimeError, "theta must be odd"),
}


@pytest.mark.parametrize("logits, labels, options, error, text", ERRORS.values(), ids=ERRORS)
def test_errors(logits, labels, options, error, text):
    with pytest.raises(error, match=text):
        gdl.BoundaryLoss(**options)(logits, labels)
