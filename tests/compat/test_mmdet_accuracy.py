"""accuracy and Accuracy against mmdet's."""

import pytest
import references
import torch

from fastloss.compat import mmdet
from fastloss.testing import forbid_host_reads

upstream = references.or_skip(references.mmdet)
G = torch.Generator().manual_seed(0)
PRED, TARGET = torch.randn(53, 7, generator=G), torch.randint(0, 8, (53,), generator=G)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("thresh", [None, 0.5])
@pytest.mark.parametrize("topk", [1, 3, (1,), (5, 1, 2, 7), 0], ids=str)
@pytest.mark.parametrize("rows", [53, 1, 0])
def test_equals_mmdet(rows, topk, thresh, dtype):
    pred, target = PRED[:rows].to(dtype).requires_grad_(), TARGET[:rows]
    expected = upstream.accuracy(pred, target, topk, thresh)
    with forbid_host_reads():
        value = mmdet.accuracy(pred, target, topk, thresh)
    assert type(value) is type(expected)
    if not isinstance(topk, tuple):
        value, expected = [value], [expected]
    for actual, wanted in zip(value, expected, strict=True):
        assert actual.dtype == wanted.dtype and actual.shape == wanted.shape
        assert torch.equal(actual, wanted) and not actual.requires_grad


def test_module():
    for options in ({}, {"topk": 2, "thresh": 0.3}):
        ours, theirs = mmdet.Accuracy(**options), upstream.Accuracy(**options)
        value, expected = ours(PRED, TARGET), theirs(PRED, TARGET)
        assert type(value) is type(expected) and list(value) == list(expected)
    assert "Accuracy" not in mmdet.LOSSES


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((PRED, TARGET, [1]), "topk must be an int or a tuple, got list"),
        ((PRED, TARGET, 8), "topk must be at most 7, got 8"),
        ((PRED, TARGET[:5]), r"got \(53, 7\) and \(5,\)"),
        ((PRED[0], TARGET[:7]), r"got \(7,\) and \(7,\)"),
    ],
    ids=["list", "large", "rows", "dim"],
)
def test_errors(arguments, text):
    with pytest.raises(AssertionError):
        upstream.accuracy(*arguments)
    with pytest.raises(AssertionError, match=text):
        mmdet.accuracy(*arguments)


def test_a_score_at_the_threshold_does_not_count():
    scores, labels = torch.tensor([[0.5, 0.1], [0.6, 0.1]]), torch.zeros(2, dtype=torch.int64)
    values = [m.accuracy(scores, labels, 1, 0.5) for m in (mmdet, upstream)]
    assert values[0] == values[1] == 50
