"""The loss of predictions that are matched with targets."""

from collections.abc import Sequence

from torch import Tensor

from .. import functional
from ._module import WithOptions


class MatchedDetectionLoss(WithOptions):
    """Module form of `fastloss.functional.matched_detection`, whose options these are: class and
    box loss for a given matching. Options are attributes that may be changed later."""

    def __init__(
        self,
        *,
        cls_loss: str = "cross_entropy",
        cls_weight: float = 1.0,
        class_weight: Tensor | Sequence[float] | None = None,
        background: int = 0,
        alpha: float = -1.0,
        gamma: float = 2.0,
        distance: str = "l1",
        beta: float = 1.0,
        distance_weight: float = 5.0,
        iou_kind: str = "giou",
        iou_weight: float = 2.0,
        eps: float = 1e-7,
        neg_to_pos_ratio: float | None = None,
        reduction: str = "mean",
    ):
        super().__init__(
            cls_loss=cls_loss,
            cls_weight=cls_weight,
            class_weight=class_weight,
            background=background,
            alpha=alpha,
            gamma=gamma,
            distance=distance,
            beta=beta,
            distance_weight=distance_weight,
            iou_kind=iou_kind,
            iou_weight=iou_weight,
            eps=eps,
            neg_to_pos_ratio=neg_to_pos_ratio,
            reduction=reduction,
        )

    def forward(
        self,
        logits: Tensor,  # (B, N, C)
        boxes: Tensor,  # (B, N, 4), x1 y1 x2 y2
        labels: Tensor,  # (B, M), any integer dtype
        target_boxes: Tensor,  # (B, M, 4)
        matching: Tensor,  # (B, N, M + 1), the background last
        mask: Tensor | None = None,  # (B, M) bool, False for padding
    ) -> Tensor:
        """A scalar, or (B, N) for reduction "none"."""
        return functional.matched_detection(
            logits, boxes, labels, target_boxes, matching, mask, **self._options()
        )
