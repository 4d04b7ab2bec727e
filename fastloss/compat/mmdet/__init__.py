"""The losses of mmdet 3.3.0 (``mmdet.models.losses``) on fastloss kernels.

One flat namespace: what mmdet has in submodules (``mmdet.models.losses.iou_loss`` ...) is imported
from here too: change the import line, nothing else. Arguments, defaults, values, gradients and
exception types are mmdet's.

No loss waits for a device, but for two: SeesawLoss with reduction "none" returns a loss for each
positive, so the number of positives has to be known; DDQAuxLoss assigns on the host, in one
transfer each way for a batch. On the CPU, where nothing waits, values are looked at for the
zero-weight shortcut (`shortcut`) and for errors.
"""

from fastloss.compat.mmdet.accuracy import Accuracy, accuracy
from fastloss.compat.mmdet.box_variants import (
    BoundedIoULoss,
    EIoULoss,
    SIoULoss,
    bounded_iou_loss,
    eiou_loss,
    siou_loss,
)
from fastloss.compat.mmdet.boxes import (
    CIoULoss,
    DIoULoss,
    GIoULoss,
    IoULoss,
    ciou_loss,
    diou_loss,
    giou_loss,
    iou_loss,
)
from fastloss.compat.mmdet.cross_entropy import (
    CrossEntropyCustomLoss,
    CrossEntropyLoss,
    binary_cross_entropy,
    cross_entropy,
    mask_cross_entropy,
)
from fastloss.compat.mmdet.ddq import DDQAuxLoss
from fastloss.compat.mmdet.dice import DiceLoss, dice_loss
from fastloss.compat.mmdet.distribution import (
    DistributionFocalLoss,
    KnowledgeDistillationKLDivLoss,
    distribution_focal_loss,
    knowledge_distillation_kl_div_loss,
)
from fastloss.compat.mmdet.embedding import AssociativeEmbeddingLoss, ae_loss_per_image
from fastloss.compat.mmdet.eqlv2 import EQLV2Loss
from fastloss.compat.mmdet.focal import (
    FocalCustomLoss,
    FocalLoss,
    py_focal_loss_with_prob,
    py_sigmoid_focal_loss,
    sigmoid_focal_loss,
)
from fastloss.compat.mmdet.gaussian_focal import (
    GaussianFocalLoss,
    gaussian_focal_loss,
    gaussian_focal_loss_with_pos_inds,
)
from fastloss.compat.mmdet.ghm import GHMC, GHMR
from fastloss.compat.mmdet.pisa import carl_loss, isr_p
from fastloss.compat.mmdet.quality_focal import (
    QualityFocalLoss,
    quality_focal_loss,
    quality_focal_loss_tensor_target,
    quality_focal_loss_with_prob,
)
from fastloss.compat.mmdet.reduction import reduce_loss, weight_reduce_loss, weighted_loss
from fastloss.compat.mmdet.registry import LOSSES, build_loss
from fastloss.compat.mmdet.regression import (
    BalancedL1Loss,
    L1Loss,
    MSELoss,
    SmoothL1Loss,
    balanced_l1_loss,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from fastloss.compat.mmdet.seesaw import SeesawLoss, seesaw_ce_loss
from fastloss.compat.mmdet.tracking import (
    L2Loss,
    MarginL2Loss,
    MultiPosCrossEntropyLoss,
    TripletLoss,
    l2_loss,
)
from fastloss.compat.mmdet.varifocal import VarifocalLoss, varifocal_loss

__all__ = [
    "GHMC",
    "GHMR",
    "LOSSES",
    "Accuracy",
    "AssociativeEmbeddingLoss",
    "BalancedL1Loss",
    "BoundedIoULoss",
    "CIoULoss",
    "CrossEntropyCustomLoss",
    "CrossEntropyLoss",
    "DDQAuxLoss",
    "DIoULoss",
    "DiceLoss",
    "DistributionFocalLoss",
    "EIoULoss",
    "EQLV2Loss",
    "FocalCustomLoss",
    "FocalLoss",
    "GIoULoss",
    "GaussianFocalLoss",
    "IoULoss",
    "KnowledgeDistillationKLDivLoss",
    "L1Loss",
    "L2Loss",
    "MSELoss",
    "MarginL2Loss",
    "MultiPosCrossEntropyLoss",
    "QualityFocalLoss",
    "SIoULoss",
    "SeesawLoss",
    "SmoothL1Loss",
    "TripletLoss",
    "VarifocalLoss",
    "accuracy",
    "ae_loss_per_image",
    "balanced_l1_loss",
    "binary_cross_entropy",
    "bounded_iou_loss",
    "build_loss",
    "carl_loss",
    "ciou_loss",
    "cross_entropy",
    "dice_loss",
    "diou_loss",
    "distribution_focal_loss",
    "eiou_loss",
    "gaussian_focal_loss",
    "gaussian_focal_loss_with_pos_inds",
    "giou_loss",
    "iou_loss",
    "isr_p",
    "knowledge_distillation_kl_div_loss",
    "l1_loss",
    "l2_loss",
    "mask_cross_entropy",
    "mse_loss",
    "py_focal_loss_with_prob",
    "py_sigmoid_focal_loss",
    "quality_focal_loss",
    "quality_focal_loss_tensor_target",
    "quality_focal_loss_with_prob",
    "reduce_loss",
    "seesaw_ce_loss",
    "sigmoid_focal_loss",
    "siou_loss",
    "smooth_l1_loss",
    "varifocal_loss",
    "weight_reduce_loss",
    "weighted_loss",
]
