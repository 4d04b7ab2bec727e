"""Lovász losses."""

from collections.abc import Sequence

from .. import functional
from .segmentation import _PixelLoss


class LovaszSoftmaxLoss(_PixelLoss):
    """Module form of `fastloss.functional.lovasz_softmax`: forward(logits (N, C, *), class indices
    (N, *))."""

    function = staticmethod(functional.lovasz_softmax)

    def __init__(
        self,
        classes: str | Sequence[int] = "present",
        per_image: bool = False,
        ignore_index: int | None = None,
        method: str = "exact",
        bins: int = 4096,
        from_logits: bool = True,
        strict: bool = True,
        reduction: str = "mean",
    ):
        super().__init__(
            classes=classes,
            per_image=per_image,
            ignore_index=ignore_index,
            method=method,
            bins=bins,
            from_logits=from_logits,
            strict=strict,
            reduction=reduction,
        )


class LovaszHingeLoss(_PixelLoss):
    """Module form of `fastloss.functional.lovasz_hinge`: forward(logits and target (N, *) or
    (N, 1, *))."""

    function = staticmethod(functional.lovasz_hinge)

    def __init__(
        self,
        per_image: bool = False,
        ignore_index: int | None = None,
        method: str = "exact",
        bins: int = 4096,
        reduction: str = "mean",
    ):
        super().__init__(
            per_image=per_image,
            ignore_index=ignore_index,
            method=method,
            bins=bins,
            reduction=reduction,
        )
