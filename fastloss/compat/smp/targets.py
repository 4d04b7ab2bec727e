"""What the classes share: modes, one native term, class weights on the device of the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.smp._functional import to_tensor
from fastloss.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE

MODES = (BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE)


def check_mode(mode: str) -> str:
    """The mode; AssertionError for an unknown one."""
    if mode not in MODES:
        raise AssertionError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    return mode


def native_term(
    kind: str, y_pred: Tensor, y_true: Tensor, mode: str, options: dict[str, Any], **shared: Any
) -> PixelTerm:
    """A term of `functional.segmentation_loss`. RuntimeError: a label out of range, as from torch's
    one_hot and gather."""
    y_true = y_true.to(torch.uint8) if y_true.dtype == torch.bool else y_true
    return PixelTerm(kind, y_pred, y_true, mode, options, **shared)


class WeightedLoss(_Loss):
    """Base of the losses with class weights and perhaps a choice of classes.

    Both are plain tensors, usually on the CPU, as in smp. To change them later, assign new ones:
    what they make together is kept.
    """

    def __init__(self, mode: str, class_weights: Any, classes: Any = None) -> None:
        super().__init__()
        self.mode = check_mode(mode)
        if class_weights is not None and mode == BINARY_MODE:
            raise ValueError('class_weights are not supported with mode="binary"')
        if classes is not None and mode == BINARY_MODE:
            raise AssertionError('classes are not supported with mode="binary"')
        if classes is not None:
            classes = to_tensor(classes, dtype=torch.long)
        if class_weights is not None:
            class_weights = to_tensor(class_weights, dtype=torch.float)
        self.classes = classes
        self.class_weights = class_weights
        self._on_device: tuple[Any, ...] = ()

    def weights_of(self, y_pred: Tensor) -> Tensor | None:
        """The weight of each class times the number of times that it is chosen, (C,) on the device
        of y_pred; None: all are 1. Made and copied once."""
        if self.class_weights is None and self.classes is None:
            return None
        count, device = y_pred.shape[1], y_pred.device
        cached = self._on_device
        if not (
            cached
            and cached[0] is self.class_weights
            and cached[1] is self.classes
            and cached[2:4] == (count, device)
        ):
            weights = _combined(self.class_weights, self.classes, count, device)
            cached = self._on_device = (self.class_weights, self.classes, count, device, weights)
        return cached[4]


def _combined(
    weights: Tensor | None, classes: Tensor | None, count: int, device: torch.device
) -> Tensor:
    """(C,); RuntimeError for another number of weights, IndexError for a class out of range."""
    if weights is not None:
        weights = weights.to(device)
    if classes is None:
        if weights.shape != (count,):
            raise RuntimeError(
                f"class_weights must have one weight for each of the {count} classes, "
                f"got {tuple(weights.shape)}"
            )
        return weights
    classes = classes.to(device)
    chosen = torch.ones(classes.shape, device=device) if weights is None else weights[classes]
    classes = torch.where(classes < 0, classes + count, classes)
    return torch.zeros(count, device=device).index_add(0, classes, chosen)
