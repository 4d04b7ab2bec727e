"""What a mirrored class asks of the device: which operators run, and that the host never waits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastloss.compat import mmdet
from fastloss.testing import forbid_host_reads

N, C = 12, 5
BOXES = torch.tensor([[0.0, 0.0, 5.0, 4.0]]) + torch.arange(4 * N).reshape(N, 4) % 7 / 8
IDS = torch.arange(N) % (C + 1)
LOGITS = torch.linspace(-3, 3, N * C).reshape(N, C)

PER_BOX = ("IoULoss", "GIoULoss", "DIoULoss", "CIoULoss", "EIoULoss", "SIoULoss")
PER_ROW = (
    "QualityFocalLoss", "DistributionFocalLoss", "KnowledgeDistillationKLDivLoss", *PER_BOX
)  # fmt: skip
CALLS = {
    **dict.fromkeys((*PER_BOX, "BoundedIoULoss"), (BOXES, BOXES.roll(1, 0))),
    "L1Loss": (BOXES, BOXES.roll(1, 0)),
    "SmoothL1Loss": (BOXES, BOXES.roll(1, 0)),
    "BalancedL1Loss": (BOXES, BOXES.roll(1, 0)),
    "MSELoss": (BOXES, BOXES.roll(1, 0)),
    "FocalLoss": (LOGITS, IDS),
    "VarifocalLoss": (LOGITS, LOGITS.sigmoid()),
    "QualityFocalLoss": (LOGITS, LOGITS.sigmoid()),
    "GaussianFocalLoss": (LOGITS.sigmoid(), LOGITS.sigmoid()),
    "DistributionFocalLoss": (LOGITS, IDS / 2),
    "KnowledgeDistillationKLDivLoss": (LOGITS, LOGITS.roll(1, 0)),
}
PER_ENTRY = ("FocalLoss", "VarifocalLoss", "GaussianFocalLoss")
OPS = {
    **dict.fromkeys((*PER_ENTRY, "QualityFocalLoss"), "sigmoid_focal"),
    "DistributionFocalLoss": "distribution_focal",
    "KnowledgeDistillationKLDivLoss": "distillation",
    "L1Loss": "regression_loss",
    "SmoothL1Loss": "regression_loss",
    "BalancedL1Loss": "regression_loss",
    "MSELoss": "regression_loss",
    "BoundedIoULoss": "bounded_iou_loss",
}


class Recorder(TorchDispatchMode):
    """The names of all operators that run inside, views left out."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def step(loss, pred, target, *args, **kwargs):
    """Forward and backward; the value."""
    pred = pred.clone().requires_grad_()
    value = loss(pred, target, *args, **kwargs)
    value.backward(torch.ones_like(value))
    return value


def weight_for(name):
    if name in PER_ENTRY:
        return LOGITS.abs()
    return torch.linspace(-1, 1, N) if name in PER_ROW else BOXES - 1


@pytest.mark.parametrize(
    "extra", [{}, {"avg_factor": 7.0}, {"reduction_override": "none"}], ids=str
)
@pytest.mark.parametrize("name", CALLS)
def test_without_weight_only_the_kernels_run(name, extra):
    factor = 1.0 if "reduction_override" in extra else 2.0
    loss = getattr(mmdet, name)(loss_weight=factor)
    pred = CALLS[name][0].clone().requires_grad_()
    above = torch.ones_like(loss(*CALLS[name], **extra))
    with Recorder() as recorder:
        torch.autograd.grad(loss(pred, CALLS[name][1], **extra), pred, above)
    op = f"fastloss::{OPS.get(name, 'box_loss')}"
    unreduced = "reduction_override" in extra
    calls = [op, f"{op}_backward"] if unreduced else [f"{op}_with_gradient", "fastloss::scale_"]
    names = [entry for entry in recorder.names if entry not in ("aten::detach", "aten::sum")]
    assert names == calls  # the sum is that of a row's classes


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("avg_factor", [None, 3.0, torch.tensor(3.0)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_no_host_read(name, weighted, avg_factor, reduction, monkeypatch):
    monkeypatch.setattr("fastloss.compat.mmdet.shortcut.values_may_be_read", lambda _: False)
    weight = weight_for(name) if weighted else None
    extra = {"weight": weight, "avg_factor": avg_factor}
    with forbid_host_reads():
        step(getattr(mmdet, name)(reduction=reduction, loss_weight=2.0), *CALLS[name], **extra)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_compiles_to_one_graph(name, weighted):
    torch.compiler.reset()
    loss = getattr(mmdet, name)(loss_weight=2.0)
    weight = weight_for(name) if weighted else None
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    extra = {"weight": weight, "avg_factor": 3.0}
    torch.testing.assert_close(
        step(compiled, *CALLS[name], **extra), step(loss, *CALLS[name], **extra)
    )
