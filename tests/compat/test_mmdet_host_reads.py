"""No class or function of fastloss.compat.mmdet reads a value on the host, forward or backward.

Twice each: on the CPU, where the kernels run, and on the meta device, whose tensors have no values
to read and on which a copy from the host is seen. Checks of values that are made only where nothing
waits are left out on both, as on a GPU. (`fastloss.testing` runs the same on every op.)
"""

import contextlib
import inspect
from types import SimpleNamespace

import pytest
import torch

from fastloss.compat import mmdet
from fastloss.testing import forbid_host_reads

NO_LOSSES = {"LOSSES", "build_loss", "weighted_loss"}
# What is on the host already (corners, sizes and numbers of targets) is copied to the device.
# Besides, DDQAuxLoss's linear_assignment without a CUDA kernel makes one transfer each way.
COPIES = {"AssociativeEmbeddingLoss", "ae_loss_per_image", "DDQAuxLoss"}

N, C = 6, 3
LOGITS = torch.linspace(-2, 2, N * C).reshape(N, C)
P = LOGITS.sigmoid()
IDS = torch.arange(N) % (C + 1)  # C is background
LABELS = torch.arange(N) % C
ROWS = torch.linspace(0.2, 1, N)
BOXES = torch.tensor([0.0, 0.0, 4.0, 4.0]) + torch.arange(4 * N).reshape(N, 4) % 5 / 8
OTHERS = BOXES.roll(1, 0)
MASKS = torch.linspace(-1, 1, 2 * C * 12).reshape(2, C, 3, 4)
CORNERS = [((0, 1), (2, 3)), ((1, 1), (2, 2))]
SIZE = {"img_shape": (9, 9)}
CLASS_WEIGHT = {"class_weight": [1.0, 2.0, 0.5]}
CODER = SimpleNamespace(decode=lambda rois, deltas: rois + deltas)
SAMPLED = [SimpleNamespace(pos_assigned_gt_inds=torch.arange(5) % 2)]  # IDS has 5 positives


def softmax(scores, labels, reduction_override):
    return mmdet.CrossEntropyLoss()(scores, labels, reduction_override=reduction_override)


def options(*args, **given):
    return args, given


# The name, and what tells several calls of it apart: arguments of the call, of the constructor.
CALLS = {
    "Accuracy": options(LOGITS, LABELS),
    "AssociativeEmbeddingLoss": options(MASKS, MASKS + 1, [CORNERS, []]),
    "BoundedIoULoss": options(BOXES, OTHERS, BOXES, 3.0),
    "CrossEntropyCustomLoss": options(LOGITS, LABELS, ROWS, num_classes=C - 1),
    "CrossEntropyLoss": options(LOGITS, LABELS, ROWS, **CLASS_WEIGHT, avg_non_ignore=True),
    "CrossEntropyLoss of probabilities": options(LOGITS, P, **CLASS_WEIGHT),
    "CrossEntropyLoss with a sigmoid": options(
        LOGITS, IDS, ROWS, use_sigmoid=True, avg_non_ignore=True, **CLASS_WEIGHT
    ),
    "CrossEntropyLoss of masks": options(
        MASKS, MASKS[:, 0].sigmoid(), LABELS[:2], use_mask=True, class_weight=[2.0]
    ),
    "DDQAuxLoss": options(P[None], BOXES[None], [OTHERS[:2]], [LABELS[:2]], [SIZE]),
    "DiceLoss": options(MASKS, MASKS.sigmoid(), ROWS[:2]),
    "DistributionFocalLoss": options(LOGITS, LABELS / 2, ROWS, 3.0),
    "EQLV2Loss": options(LOGITS, LABELS, num_classes=C - 1),
    "FocalCustomLoss": options(LOGITS, IDS, ROWS, num_classes=C),
    "FocalLoss": options(LOGITS, IDS, ROWS, torch.tensor(3.0)),
    "FocalLoss of dense targets": options(P, P, LOGITS, 3.0, activated=True),
    "GHMC": options(LOGITS, IDS, ROWS, momentum=0.5),
    "GHMR": options(BOXES, OTHERS, BOXES, momentum=0.5),
    "GaussianFocalLoss": options(P, P, None, None, LOGITS, 3.0),
    "GaussianFocalLoss at centres": options(P, P, LABELS[1:2], LABELS[:1]),
    "KnowledgeDistillationKLDivLoss": options(LOGITS, P, ROWS, 3.0),
    "MultiPosCrossEntropyLoss": options(LOGITS, IDS[:, None] == torch.arange(C), ROWS, 3.0),
    "QualityFocalLoss": options(LOGITS, (IDS, ROWS), ROWS, 3.0),
    "QualityFocalLoss of dense targets": options(P, P, ROWS, 3.0, activated=True),
    "SeesawLoss": options(P[:, :1] + LOGITS.repeat(1, 2)[:, : C + 2], IDS, ROWS, num_classes=C),
    "TripletLoss": options(LOGITS, LABELS),
    "VarifocalLoss": options(LOGITS, P, LOGITS, 3.0),
    "accuracy": options(LOGITS, LABELS, (1, 2), 0.5),
    "ae_loss_per_image": options(MASKS[0], MASKS[1], CORNERS),
    "binary_cross_entropy": options(LOGITS, IDS, ROWS),
    "carl_loss": options(LOGITS, IDS, BOXES, OTHERS, mmdet.SmoothL1Loss(), 1, 0.2, None, False, C),
    "cross_entropy": options(LOGITS, LABELS, ROWS),
    "dice_loss": options(MASKS.sigmoid(), MASKS.sigmoid(), ROWS[:2]),
    "distribution_focal_loss": options(LOGITS, LABELS / 2, ROWS),
    "gaussian_focal_loss": options(P, P, LOGITS),
    "gaussian_focal_loss_with_pos_inds": options(P, P, LABELS[1:2], LABELS[:1]),
    "isr_p": options(
        P.repeat(1, 2)[:, : C + 1], BOXES, (IDS, ROWS, OTHERS, OTHERS), BOXES, SAMPLED, softmax,
        CODER, 2, 0, C,
    ),
    "knowledge_distillation_kl_div_loss": options(LOGITS, P, ROWS, T=10),
    "mask_cross_entropy": options(MASKS, MASKS[:, 0].sigmoid(), LABELS[:2]),
    "py_focal_loss_with_prob": options(P, IDS, ROWS),
    "py_sigmoid_focal_loss": options(LOGITS, P, ROWS),
    "quality_focal_loss": options(LOGITS, (IDS, ROWS), ROWS),
    "quality_focal_loss_tensor_target": options(LOGITS, P, ROWS),
    "quality_focal_loss_with_prob": options(P, (IDS, ROWS), ROWS),
    "reduce_loss": options(LOGITS, "mean"),
    "seesaw_ce_loss": options(LOGITS, LABELS, ROWS, ROWS[:C], C, 0.8, 2.0, 0.01),
    "sigmoid_focal_loss": options(LOGITS, IDS, ROWS),
    "varifocal_loss": options(LOGITS, P, LOGITS),
    "weight_reduce_loss": options(LOGITS, P, "mean", 3.0),
}  # fmt: skip
for names, weight in (
    ("IoULoss GIoULoss DIoULoss CIoULoss EIoULoss SIoULoss", ROWS),
    ("iou_loss giou_loss diou_loss ciou_loss eiou_loss siou_loss", ROWS),
    ("L1Loss SmoothL1Loss BalancedL1Loss MSELoss", BOXES),
    ("l1_loss smooth_l1_loss balanced_l1_loss mse_loss l2_loss bounded_iou_loss", BOXES),
):
    CALLS |= {name: options(BOXES, OTHERS, weight) for name in names.split()}
for name in ("L2Loss", "MarginL2Loss"):
    mined = {"neg_pos_ub": 1, "pos_margin": 0.1}
    CALLS[name] = options(P, P.round(), LOGITS, **mined)
    CALLS[f"{name} of the hardest"] = options(P, P.round(), LOGITS, hard_mining=True, **mined)


def test_every_name_is_called():
    assert {call.split()[0] for call in CALLS} == set(mmdet.__all__) - NO_LOSSES


def moved(tree, device):
    if isinstance(tree, torch.Tensor):
        return tree.to(device)
    if isinstance(tree, (tuple, list)):
        return type(tree)(moved(x, device) for x in tree)
    if isinstance(tree, SimpleNamespace):
        return SimpleNamespace(**{key: moved(x, device) for key, x in vars(tree).items()})
    return tree


def tensors(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [x for part in parts for x in tensors(part)]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("call", CALLS)
def test_reads_nothing(call, device, monkeypatch):
    for module in ("shortcut", "pisa", "tracking"):
        monkeypatch.setattr(f"fastloss.compat.mmdet.{module}.values_may_be_read", lambda _: False)
    name = call.split()[0]
    args, keywords = CALLS[call]
    loss = getattr(mmdet, name)
    if inspect.isclass(loss):
        loss, keywords = loss(**keywords).to(device), {}
    pred, *others = moved(args, device)
    pred = pred.clone().requires_grad_()
    loss = loss.loss if name == "DDQAuxLoss" else loss
    reductions = [{}]
    if "reduction_override" in inspect.signature(loss).parameters and "masks" not in call:
        reductions.append({"reduction_override": "none"})
    for reduction in reductions:
        may_copy = device == "meta" and name in COPIES
        with contextlib.nullcontext() if may_copy else forbid_host_reads():
            results = tensors(loss(pred, *others, **keywords, **reduction))
            for value in results:
                if value.requires_grad:
                    value.backward(torch.ones_like(value), retain_graph=True)
