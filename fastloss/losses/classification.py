"""Classification losses with a modulating factor."""

from collections.abc import Sequence

from torch import Tensor

from .. import functional
from ._module import FunctionalLoss, WithOptions


class SigmoidFocalLoss(FunctionalLoss):
    """Module form of `fastloss.functional.sigmoid_focal_loss`: forward(logits (*, C), target dense
    or class indices (*), weight=None, avg_factor=None)."""

    function = staticmethod(functional.sigmoid_focal_loss)

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        activated: bool = False,
        reduction: str = "mean",
    ):
        super().__init__(alpha=alpha, gamma=gamma, activated=activated, reduction=reduction)


class QualityFocalLoss(FunctionalLoss):
    """Module form of `fastloss.functional.quality_focal_loss`: forward(logits (*, C), dense target
    or (class indices (*), qualities (*)), weight=None, avg_factor=None)."""

    function = staticmethod(functional.quality_focal_loss)

    def __init__(self, beta: float = 2.0, activated: bool = False, reduction: str = "mean"):
        super().__init__(beta=beta, activated=activated, reduction=reduction)


class VarifocalLoss(FunctionalLoss):
    """Module form of `fastloss.functional.varifocal_loss`: forward(logits, target, weight=None,
    avg_factor=None)."""

    function = staticmethod(functional.varifocal_loss)

    def __init__(
        self,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        reduction: str = "mean",
    ):
        super().__init__(alpha=alpha, gamma=gamma, iou_weighted=iou_weighted, reduction=reduction)


class GaussianFocalLoss(FunctionalLoss):
    """Module form of `fastloss.functional.gaussian_focal_loss`: forward(probs, heat map,
    weight=None, avg_factor=None)."""

    function = staticmethod(functional.gaussian_focal_loss)

    def __init__(
        self,
        alpha: float = 2.0,
        gamma: float = 4.0,
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
        reduction: str = "mean",
    ):
        super().__init__(
            alpha=alpha,
            gamma=gamma,
            pos_weight=pos_weight,
            neg_weight=neg_weight,
            reduction=reduction,
        )


class BinaryCrossEntropyLoss(FunctionalLoss):
    """Module form of `fastloss.functional.binary_cross_entropy`: forward(logits, target,
    weight=None, avg_factor=None)."""

    function = staticmethod(functional.binary_cross_entropy)

    def __init__(
        self,
        class_weight: Tensor | Sequence[float] | None = None,
        ignore_index: int | None = -100,
        avg_non_ignore: bool = False,
        reduction: str = "mean",
    ):
        super().__init__(
            class_weight=class_weight,
            ignore_index=ignore_index,
            avg_non_ignore=avg_non_ignore,
            reduction=reduction,
        )


class SeesawLoss(WithOptions):
    """Module form of `fastloss.functional.seesaw_loss`: forward(logits (N, C), classes (N,) with C
    for background, class_count (C,), weight=None, avg_factor=None). Counting is the caller's;
    `fastloss.compat.mmdet.SeesawLoss` counts."""

    def __init__(self, p: float = 0.8, q: float = 2.0, eps: float = 1e-2, reduction: str = "mean"):
        super().__init__(p=p, q=q, eps=eps, reduction=reduction)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        class_count: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        return functional.seesaw_loss(
            input, target, class_count, weight=weight, avg_factor=avg_factor, **self._options()
        )
