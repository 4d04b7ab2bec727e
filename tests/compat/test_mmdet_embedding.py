"""AssociativeEmbeddingLoss and ae_loss_per_image against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet
from fastloss.testing import forbid_host_reads

upstream = references.or_skip(references.mmdet)

MATCHES = {
    "ragged": [[((0, 1), (3, 4)), ((2, 2), (2, 4)), ((1, 0), (3, 1))], [], [[[0, 1], [2, 4]]]],
    "repeated": [[((0, 1), (3, 4))] * 2 + [((0, 1), (2, 0))], [((1, 1), (2, -1))] * 2, []],
    "none": [[], [], []],
}


def maps(channels):
    g = torch.Generator().manual_seed(5)
    return [torch.randn(3, channels, 4, 5, generator=g, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_mmdet(channels, match, dtype):
    options = {"pull_weight": 0.75, "push_weight": 1.5}
    ours = mmdet.AssociativeEmbeddingLoss(**options)
    theirs = upstream.AssociativeEmbeddingLoss(**options)
    assert_parity(
        lambda *args: torch.stack(ours(*args)), lambda *args: torch.stack(theirs(*args)),
        *maps(channels), MATCHES[match], dtype=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("match", MATCHES["ragged"], ids=len)
def test_per_image(match):
    assert_parity(
        lambda *args: torch.stack(mmdet.ae_loss_per_image(*args)),
        lambda *args: torch.stack(upstream.ae_loss_per_image(*args)),
        *(x[0] for x in maps(2)), match,
    )  # fmt: skip


def test_edges():
    loss = mmdet.AssociativeEmbeddingLoss()
    pred, target = maps(1)
    with forbid_host_reads():
        loss(pred, target, MATCHES["ragged"])
    pred[1] = torch.nan  # an image without objects
    assert all(x.isfinite() and x.shape == () for x in loss(pred, target, MATCHES["ragged"]))
    assert [x.item() for x in loss(pred[:0], target[:0], [])] == [0, 0]
    for match in ([], [[((0, 5), (0, 0))]], [[((0, 0), (-5, 0))]]):
        for losses in (mmdet, upstream):
            with pytest.raises(IndexError):
                losses.AssociativeEmbeddingLoss()(pred[:1], target[:1], match)
    assert type(mmdet.build_loss({"type": "AssociativeEmbeddingLoss"})) is type(loss)
