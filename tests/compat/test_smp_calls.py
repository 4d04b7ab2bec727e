"""What a mirrored class asks of the device: which operators run, and that the host never waits."""

import copy
import pickle

import pytest
import torch
from test_mmdet_calls import Recorder, step

from fastloss.compat import smp
from fastloss.testing import forbid_host_reads

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 5, 4, generator=G)
LABELS = torch.randint(0, 3, (2, 5, 4), generator=G)
SOFT = torch.rand(2, 3, 5, 4, generator=G)
TARGETS = {"multiclass": LABELS, "multilabel": SOFT, "binary": SOFT}
WEIGHTS = [1.0, 2.0, 3.0]
# name -> loss, prediction, target
CALLS = {
    f"{name} {mode}": (getattr(smp, name)(mode), LOGITS, TARGETS[mode])
    for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss")
    for mode in TARGETS
} | {
    "weights": (smp.DiceLoss("multiclass", [0, 2], class_weights=WEIGHTS), LOGITS, LABELS),
    "focal": (
        smp.FocalLoss("multiclass", ignore_index=1, normalized=True, class_weights=WEIGHTS),
        LOGITS, LABELS,
    ),
    "bce": (
        smp.SoftBCEWithLogitsLoss(smooth_factor=0.1, pos_weight=torch.ones(3, 1, 1)),
        LOGITS, SOFT,
    ),
    "mcc": (smp.MCCLoss(), SOFT, SOFT.round()),
}  # fmt: skip
SORTED = {
    "lovasz multiclass": (smp.LovaszLoss("multiclass", ignore_index=1), LOGITS, LABELS),
    "lovasz binary": (smp.LovaszLoss("binary", per_image=True), LOGITS, SOFT.round()),
}
OTHERS = {
    "ce map": (smp.SoftCrossEntropyLoss("none", 0.1), LOGITS, LABELS),
    "bce map": (smp.SoftBCEWithLogitsLoss(reduction="none"), LOGITS, SOFT),
    "bce weight": (smp.SoftBCEWithLogitsLoss(weight=SOFT), LOGITS, SOFT),
    "focal map": (smp.FocalLoss("binary", reduction="none"), LOGITS, SOFT),
    "probabilities": (smp.FocalLoss("multilabel", from_logits=False), SOFT, SOFT.round()),
}
ONE_PASS = {
    "lovasz": SORTED,
    "cross_entropy": {
        "ce": (smp.SoftCrossEntropyLoss(smooth_factor=0.1), LOGITS, LABELS),
    },
}
FUSED = ("segmentation_table", "segmentation_loss")


@pytest.mark.parametrize("loss, pred, target", CALLS.values(), ids=CALLS)
def test_every_pixel_is_read_by_the_kernels_alone(loss, pred, target):
    pred = pred.clone().requires_grad_()
    loss(pred, target)
    with Recorder() as recorder:
        value = loss(pred, target)
        torch.autograd.grad(value, pred)
    kernels = [name for name in recorder.names if name.startswith("fastloss::")]
    table, of_table = (f"fastloss::{name}" for name in FUSED)
    assert kernels == [table, of_table, f"{of_table}_backward", f"{table}_backward"]
    # Class weights are widened, the gradients of the total and of the term put together.
    small = ["aten::new_ones", "aten::_to_copy", "aten::stack", "aten::ones_like", "aten::zeros"]
    others = [name for name in recorder.names if name not in kernels]
    assert set(others) <= set(small) and others.count("aten::_to_copy") <= 1


@pytest.mark.parametrize("stem", ONE_PASS)
def test_value_and_gradient_come_from_one_pass(stem):
    for loss, pred, target in ONE_PASS[stem].values():
        pred = pred.clone().requires_grad_()
        with Recorder() as recorder:
            torch.autograd.grad(loss(pred, target), pred)
        kernels = [name for name in recorder.names if name.startswith("fastloss::")]
        assert kernels == [f"fastloss::{stem}_with_gradient", "fastloss::scale_"]


ALL = CALLS | SORTED | OTHERS
each = pytest.mark.parametrize("loss, pred, target", ALL.values(), ids=ALL)


@each
def test_no_host_read(loss, pred, target):
    with forbid_host_reads():
        step(loss, pred, target)


COMPILED = ("weights", "focal", "bce", "ce map", "mcc", "lovasz multiclass", "lovasz binary")


@pytest.mark.parametrize("loss, pred, target", [ALL[name] for name in COMPILED], ids=COMPILED)
def test_compiles_to_one_graph(loss, pred, target):
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled, pred, target), step(loss, pred, target))


@each
def test_validation_before_training(loss, pred, target):
    fresh = copy.deepcopy(loss)
    with torch.inference_mode():
        value = fresh(pred, target)
    assert torch.equal(step(fresh, pred, target), value)


@each
def test_copies(loss, pred, target):
    expected = loss(pred, target)  # fills what is kept per device
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(pred, target), expected)
