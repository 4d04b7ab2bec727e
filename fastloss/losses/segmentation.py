"""Losses of pixels: cross entropy, overlap of regions, and weighted sums from one read."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from .. import functional
from ._module import FunctionalLoss

ClassWeight = Tensor | Sequence[float] | None


class _PixelLoss(FunctionalLoss):
    """A loss whose function takes logits and target alone."""

    def forward(self, input: Tensor, target: Tensor) -> Any:
        return type(self).function(input, target, **self._options())


class CrossEntropyLoss(FunctionalLoss):
    """Module form of `fastloss.functional.cross_entropy`: forward(logits (N, C, *), class indices
    (N, *), weight=None, avg_factor=None)."""

    function = staticmethod(functional.cross_entropy)

    def __init__(
        self,
        class_weight: ClassWeight = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ):
        super().__init__(
            class_weight=class_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )


class OhemCrossEntropyLoss(_PixelLoss):
    """Module form of `fastloss.functional.ohem_cross_entropy`: forward(logits (N, C, *), class
    indices (N, *))."""

    function = staticmethod(functional.ohem_cross_entropy)

    def __init__(
        self,
        thresh: float = 0.7,
        min_kept: int = 100000,
        rule: str = "gdl",
        class_weight: ClassWeight = None,
        ignore_index: int | None = 255,
    ):
        super().__init__(
            thresh=thresh,
            min_kept=min_kept,
            rule=rule,
            class_weight=class_weight,
            ignore_index=ignore_index,
        )


class SegmentationLoss(_PixelLoss):
    """Module form of `fastloss.functional.segmentation_loss`: forward(logits, target).

    Returns the sum of the terms; (sum, values of the terms) if `values`; and with `metrics` (sum,
    values, metrics), as the function does.
    """

    function = staticmethod(functional.segmentation_loss)

    def __init__(
        self,
        terms: Mapping[str, float | Mapping[str, Any]],
        mode: str = "multiclass",
        class_weight: ClassWeight = None,
        ignore_index: int | None = None,
        group: Any = None,
        metrics: bool = False,
        from_logits: bool = True,
        strict: bool = True,
        *,
        values: bool = False,
    ):
        super().__init__(
            terms=terms,
            mode=mode,
            class_weight=class_weight,
            ignore_index=ignore_index,
            group=group,
            metrics=metrics,
            from_logits=from_logits,
            strict=strict,
        )
        self.values = values

    def forward(self, input: Tensor, target: Tensor) -> Any:
        results = super().forward(input, target)
        return results if self.values or self.metrics else results[0]


class _TermLoss(FunctionalLoss):
    """One term of `fastloss.functional.segmentation_loss`: forward(logits, target).

    The attributes named in `shared` are arguments of the call, the others options of the term.
    """

    term: ClassVar[str]
    shared: ClassVar[tuple[str, ...]] = ("mode", "ignore_index", "from_logits", "group")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        options = self._options()
        shared = {name: options.pop(name) for name in self.shared if name in options}
        return functional.segmentation_loss(input, target, terms={self.term: options}, **shared)[0]


class DiceLoss(_TermLoss):
    """The term "dice" of `fastloss.functional.segmentation_loss`."""

    term = "dice"

    def __init__(
        self,
        mode: str = "multiclass",
        smooth: float = 0.0,
        eps: float = 1e-7,
        log: bool = False,
        classes: Sequence[int] | None = None,
        class_weight: ClassWeight = None,
        per_image: bool = False,
        ignore_index: int | None = None,
        from_logits: bool = True,
        group: Any = None,
    ):
        super().__init__(
            mode=mode,
            smooth=smooth,
            eps=eps,
            log=log,
            classes=classes,
            class_weight=class_weight,
            per_image=per_image,
            ignore_index=ignore_index,
            from_logits=from_logits,
            group=group,
        )


class JaccardLoss(DiceLoss):
    """The term "jaccard" of `fastloss.functional.segmentation_loss`; arguments of `DiceLoss`."""

    term = "jaccard"


class TverskyLoss(DiceLoss):
    """The term "tversky" of `fastloss.functional.segmentation_loss`: false positives count alpha,
    false negatives beta, the mean over classes is raised to gamma; then arguments of `DiceLoss`."""

    term = "tversky"

    def __init__(self, alpha: float = 0.5, beta: float = 0.5, gamma: float = 1.0, **of_dice: Any):
        super().__init__(**of_dice)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self._names += ("alpha", "beta", "gamma")


class SoftmaxFocalLoss(_TermLoss):
    """The term "softmax_focal" of `fastloss.functional.segmentation_loss`."""

    term = "softmax_focal"

    def __init__(
        self,
        gamma: float = 2.0,
        reduced_threshold: float | None = None,
        normalized: bool = False,
        class_weight: ClassWeight = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
        group: Any = None,
    ):
        super().__init__(
            gamma=gamma,
            reduced_threshold=reduced_threshold,
            normalized=normalized,
            class_weight=class_weight,
            reduction=reduction,
            ignore_index=ignore_index,
            group=group,
        )


class MCCLoss(_TermLoss):
    """The term "mcc" of `fastloss.functional.segmentation_loss`."""

    term = "mcc"

    def __init__(
        self,
        mode: str = "binary",
        eps: float = 1e-5,
        ignore_index: int | None = None,
        from_logits: bool = True,
        group: Any = None,
    ):
        super().__init__(
            mode=mode, eps=eps, ignore_index=ignore_index, from_logits=from_logits, group=group
        )


class MaskDiceLoss(FunctionalLoss):
    """Module form of `fastloss.functional.mask_dice_loss`: forward(logits (N, *), target (N, *),
    weight=None, avg_factor=None)."""

    function = staticmethod(functional.mask_dice_loss)

    def __init__(
        self,
        squared: bool = True,
        eps: float = 1e-3,
        activated: bool = False,
        reduction: str = "mean",
    ):
        super().__init__(squared=squared, eps=eps, activated=activated, reduction=reduction)
