"""What the losses ask of the device: which operators run, and that the host never waits."""

import copy
import pickle

import pytest
import torch
from test_mmdet_calls import Recorder, step
from vis4d_cases import ours

from fastloss.testing import forbid_host_reads

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 5, 4, generator=G)
LABELS = torch.randint(0, 3, (2, 5, 4), generator=G)
BOXES = torch.tensor([[0.0, 0.0, 5.0, 4.0]]) + torch.arange(32).reshape(8, 4) % 7 / 8
OTHERS = BOXES.roll(1, 0)
WEIGHTED = ours.SumWeightedLoss(torch.linspace(0, 1, 8), 3.0)
ON_COORDINATES = ours.SumWeightedLoss(torch.linspace(0, 1, 4), 3.0)


def distance(name, reducer):
    return lambda pred, target: getattr(ours, name)(pred, target, reducer)


def segmentation(pred, target):
    return ours.SegCrossEntropyLoss()(pred, target)["loss_seg"]


def levels(pred, target):
    return sum(ours.MultiLevelSegLoss(feature_idx=(0, 1))([pred, 2 * pred], target).values())


def rotation(pred, target):
    return ours.rotation_loss(pred, (target > 1).float(), target, 1, ours.mean_loss)


def orthogonal(pred, target):
    return ours.OrthogonalTransformRegularizationLoss()([pred, target])


WEIGHTS = [1.0, 2.0, 3.0]
MODULES = {
    "iou": (ours.IoULoss(ours.mean_loss), BOXES, OTHERS),
    "iou sum": (ours.IoULoss(ours.sum_loss, "square"), BOXES, OTHERS),
    "iou weighted": (ours.IoULoss(WEIGHTED, "linear"), BOXES, OTHERS),
    "ce": (ours.CrossEntropyLoss(), LOGITS, LABELS),
    "ce sum": (ours.CrossEntropyLoss(ours.sum_loss), LOGITS, LABELS),
    "ce weights": (ours.CrossEntropyLoss(class_weights=WEIGHTS), LOGITS, LABELS),
}
FUNCTIONS = {
    **{
        f"{name} {how}": (distance(f"{name}_loss", reducer), BOXES, OTHERS)
        for name in ("l1", "l2", "smooth_l1")
        for how, reducer in {
            "mean": ours.mean_loss, "sum": ours.sum_loss, "weighted": ON_COORDINATES,
        }.items()
    },
    "segmentation": (segmentation, LOGITS, LABELS),
}  # fmt: skip
ONE_PASS = MODULES | FUNCTIONS
MAPS = {
    "iou map": (ours.IoULoss(), BOXES, OTHERS),
    "ce map": (ours.CrossEntropyLoss(ours.identity_loss, WEIGHTS), LOGITS, LABELS),
    "l1 map": (ours.l1_loss, BOXES, OTHERS),
}
COMPOSED = {
    "levels": (levels, LOGITS, LABELS),
    "rotation": (rotation, torch.randn(6, 3, generator=G), torch.rand(6, 1, generator=G) * 2),
    "orthogonal": (orthogonal, torch.randn(4, 3, 3, generator=G), torch.eye(3)[None]),
}
ALL = ONE_PASS | MAPS | COMPOSED
every = pytest.mark.parametrize("loss, pred, target", ALL.values(), ids=ALL)


@pytest.mark.parametrize("loss, pred, target", ONE_PASS.values(), ids=ONE_PASS)
def test_known_reducers_are_in_the_kernels(loss, pred, target):
    pred = pred.clone().requires_grad_()
    loss(pred, target)  # class weights are copied to the device once
    with Recorder() as recorder:
        torch.autograd.grad(loss(pred, target), pred)
    # The gradients of the total and of its one term are put together, class weights widened.
    small = ("detach", "ones_like", "zeros", "_to_copy", "stack", "new_ones")
    others = {name for name in recorder.names if not name.startswith("fastloss::")}
    assert others <= {f"aten::{name}" for name in small}


@pytest.mark.parametrize("loss, pred, target", MAPS.values(), ids=MAPS)
def test_a_map_is_one_kernel_each_way(loss, pred, target):
    pred = pred.clone().requires_grad_()
    above = torch.ones_like(loss(pred, target))
    with Recorder() as recorder:
        torch.autograd.grad(loss(pred, target), pred, above)
    names = [name for name in recorder.names if name != "aten::detach"]
    assert len(names) == 2 and names[1] == f"{names[0]}_backward"


@every
def test_no_host_read(loss, pred, target):
    loss(pred, target)
    with forbid_host_reads():
        step(loss, pred, target)


COMPILED = ("iou weighted", "ce weights", "rotation", "orthogonal")


@pytest.mark.parametrize("loss, pred, target", [ALL[name] for name in COMPILED], ids=COMPILED)
def test_compiles_to_one_graph(loss, pred, target):
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled, pred, target), step(loss, pred, target))


@every
def test_validation_before_training(loss, pred, target):
    with torch.inference_mode():
        value = loss(pred, target)
    assert torch.equal(step(loss, pred, target), value)


@pytest.mark.parametrize("loss, pred, target", MODULES.values(), ids=MODULES)
def test_copies(loss, pred, target):
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(pred, target), loss(pred, target))
