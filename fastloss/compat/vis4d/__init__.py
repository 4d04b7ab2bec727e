"""The losses of vis4d 1.0.0 (``vis4d.op.loss`` with its submodules, and the connectors of
``vis4d.engine``), on fastloss kernels.

One flat namespace: change the import line, nothing else. `identity_loss`, `mean_loss`, `sum_loss`
and `SumWeightedLoss` of this module are computed together with the loss; other reducers are called
with the loss per element, as upstream.
"""

from fastloss.compat.vis4d.base import Loss
from fastloss.compat.vis4d.boxes import IoULoss, iou_loss
from fastloss.compat.vis4d.connectors import (
    LossConnector,
    SourceKeyDescription,
    data_key,
    pred_key,
)
from fastloss.compat.vis4d.cross_entropy import (
    CrossEntropyLoss,
    MultiLevelSegLoss,
    SegCrossEntropyLoss,
    cross_entropy,
)
from fastloss.compat.vis4d.distance import l1_loss, l2_loss, smooth_l1_loss
from fastloss.compat.vis4d.loss_module import LossDefinition, LossModule
from fastloss.compat.vis4d.reducers import (
    LossReducer,
    SumWeightedLoss,
    identity_loss,
    mean_loss,
    sum_loss,
)
from fastloss.compat.vis4d.regularization import OrthogonalTransformRegularizationLoss
from fastloss.compat.vis4d.rotation import rotation_loss
from fastloss.compat.vis4d.tracking import (
    EmbeddingDistanceLoss,
    MultiPosCrossEntropyLoss,
    multi_pos_cross_entropy,
)

__all__ = [
    "CrossEntropyLoss",
    "EmbeddingDistanceLoss",
    "IoULoss",
    "Loss",
    "LossConnector",
    "LossDefinition",
    "LossModule",
    "LossReducer",
    "MultiLevelSegLoss",
    "MultiPosCrossEntropyLoss",
    "OrthogonalTransformRegularizationLoss",
    "SegCrossEntropyLoss",
    "SourceKeyDescription",
    "SumWeightedLoss",
    "cross_entropy",
    "data_key",
    "identity_loss",
    "iou_loss",
    "l1_loss",
    "l2_loss",
    "mean_loss",
    "multi_pos_cross_entropy",
    "pred_key",
    "rotation_loss",
    "smooth_l1_loss",
    "sum_loss",
]
