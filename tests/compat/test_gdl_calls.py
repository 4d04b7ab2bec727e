"""What the losses ask of the device, in training and out of it; the five of smp against smp."""

import copy
import pickle

import pytest
import references
import torch
from parity import assert_parity
from test_mmdet_calls import step

from fastloss.compat import gdl
from fastloss.testing import forbid_host_reads

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 7, 6, generator=G)
LABELS = torch.randint(0, 3, (2, 7, 6), generator=G)
LOSSES = {
    "boundary": gdl.BoundaryLoss(3, 5),
    "duo": gdl.DuoLoss(),
    "lovasz": gdl.LovaszSoftmax(ignore_index=1),
    "ohem": gdl.OhemCrossEntropy2d(0.4, 20, [1.0, 2.0, 3.0], 1),
}
each = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@each
def test_no_host_read(loss):
    with forbid_host_reads():
        step(loss, LOGITS, LABELS)


@each
def test_compiles_to_one_graph(loss):
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled, LOGITS, LABELS), step(loss, LOGITS, LABELS))


@each
def test_validation_before_training(loss):
    fresh = copy.deepcopy(loss)
    with torch.inference_mode():
        value = fresh(LOGITS, LABELS)
    assert torch.equal(step(fresh, LOGITS, LABELS), value)


@each
def test_copies(loss):
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(LOGITS, LABELS), loss(LOGITS, LABELS))


@pytest.fixture
def upstream():
    try:
        return references.smp()
    except references.ReferenceMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", ["DiceLoss", "FocalLoss", "LovaszLoss"])
def test_class_of_smp_with_a_mode(upstream, name):
    ours, theirs = (getattr(library, name)("multiclass") for library in (gdl, upstream))
    # Not in float64, which smp's Lovász loss refuses.
    torch.testing.assert_close(ours(LOGITS, LABELS), theirs(LOGITS, LABELS))


def test_soft_cross_entropy_of_smp(upstream):
    losses = (library.SoftCrossEntropyLoss(smooth_factor=0.1) for library in (gdl, upstream))
    assert_parity(*losses, LOGITS, LABELS)


def test_soft_bce_of_smp(upstream):
    target = torch.rand(LOGITS.shape, generator=G)
    losses = (library.SoftBCEWithLogitsLoss(smooth_factor=0.1) for library in (gdl, upstream))
    assert_parity(*losses, LOGITS, target)
