"""Matchers."""

from torch import Tensor

from .. import functional
from ._module import WithOptions


class HungarianMatcher(WithOptions):
    """DETR's matcher: `fastloss.functional.matching_cost`, whose options these are, and
    `linear_assignment` of a whole batch. Options are attributes that may be changed later."""

    def __init__(
        self,
        *,
        cls_cost: str | None = "softmax",
        cls_weight: float = 1.0,
        l1_weight: float = 5.0,
        iou_weight: float = 2.0,
        iou_kind: str = "giou",
        box_format: str = "xyxy",
        alpha: float = 0.25,
        gamma: float = 2.0,
        eps: float = 1e-7,
    ):
        super().__init__(
            cls_cost=cls_cost,
            cls_weight=cls_weight,
            l1_weight=l1_weight,
            iou_weight=iou_weight,
            iou_kind=iou_kind,
            box_format=box_format,
            alpha=alpha,
            gamma=gamma,
            eps=eps,
        )

    def forward(
        self,
        logits: Tensor | None,  # (B, N, C)
        boxes: Tensor,  # (B, N, 4)
        labels: Tensor | None,  # (B, M), any integer dtype
        target_boxes: Tensor,  # (B, M, 4)
        mask: Tensor | None = None,  # (B, M) bool, False for padding
    ) -> Tensor:
        """(B, M) int64: the prediction of each target; -1 for padding and, where there are more
        targets than predictions, for those left over."""
        cost = functional.matching_cost(
            logits, boxes, labels, target_boxes, mask, **self._options()
        )
        return functional.linear_assignment(cost, mask)
