"""CrossEntropyLoss, CrossEntropyCustomLoss and their functions.

Source: mmdet 3.3.0, models/losses/cross_entropy_loss.py. Formulas: `fastloss.functional`'s
`cross_entropy` and `binary_cross_entropy`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet._custom import accuracy_of_classes, check_num_classes
from fastloss.compat.mmdet.reduction import (
    NativeLoss,
    choose_reduction,
    scale,
    weight_reduce_loss,
)
from fastloss.compat.mmdet.registry import LOSSES
from fastloss.ops._arguments import constant, numbers

IGNORE_INDEX = -100  # what None means


def cross_entropy(
    pred: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int | None = -100,
    avg_non_ignore: bool = False,
) -> Tensor:
    """Softmax cross entropy of logits pred (N, C, *) and class ids label (N, *).

    weight broadcasts to (N, *); class_weight (C,) multiplies each loss and enters no divisor.
    "mean" divides by the number of labels, with avg_non_ignore by that of labels that are not
    ignore_index (None: -100). Labels that are probabilities (N, C, *) go to torch, and what does
    not fit together, which torch refuses.
    """
    ignore_index = IGNORE_INDEX if ignore_index is None else ignore_index
    if avg_factor is None and avg_non_ignore and reduction == "mean":
        avg_factor = _count(_differs(label, ignore_index), pred)
    if class_weight is not None:
        class_weight = _as_tensor(class_weight, pred)
    ids = not label.is_floating_point() and label.dtype != torch.bool
    ids = ids and pred.dim() > 1 and label.shape == (pred.shape[0], *pred.shape[2:])
    if ids and (class_weight is None or class_weight.shape == pred.shape[1:2]):
        options = {"class_weight": class_weight, "ignore_index": ignore_index}
        loss = NativeLoss(functional.cross_entropy, pred, label, label.shape, options)
    else:
        class_weight = class_weight if class_weight is None else class_weight.to(pred.dtype)
        loss = F.cross_entropy(pred, label, class_weight, None, ignore_index, reduction="none")
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


def binary_cross_entropy(
    pred: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int | None = -100,
    avg_non_ignore: bool = False,
) -> Tensor:
    """Binary cross entropy of logits pred, of every entry.

    pred (N, C) and class ids label (N,), C and larger for background: rows whose id is negative or
    ignore_index (None: -100) count 0; weight (N,). Or pred and label (*) of as many dimensions:
    entries that are negative or ignore_index count 0; weight broadcasts to (*). class_weight (C,)
    multiplies the positive part. "mean" divides by the number of entries, with avg_non_ignore by
    that of the entries that count.
    """
    ignore_index = IGNORE_INDEX if ignore_index is None else ignore_index
    valid = (label >= 0) & _differs(label, ignore_index)
    entries = 1
    if pred.dim() != label.dim():
        entries = pred.size(-1)
        label = torch.where(valid, label.long().clamp(max=entries), IGNORE_INDEX)
        ignore_index = IGNORE_INDEX
        weight = weight if weight is None else weight.reshape(-1, 1)
    if avg_factor is None and avg_non_ignore and reduction == "mean":
        avg_factor = _count(valid, pred) * entries
    if class_weight is not None:
        class_weight = _as_tensor(class_weight, pred)
        if class_weight.dim() > 1 or class_weight.numel() not in (1, pred.size(-1)):
            raise RuntimeError(
                f"class_weight must have shape ({pred.size(-1)},) or (1,), "
                f"got {tuple(class_weight.shape)}"
            )
        class_weight = class_weight.expand(pred.size(-1))
    options = {"class_weight": class_weight, "ignore_index": ignore_index}
    native = NativeLoss(functional.binary_cross_entropy, pred, label, pred.shape, options)
    return weight_reduce_loss(native, weight, reduction, avg_factor)


def mask_cross_entropy(
    pred: Tensor,
    target: Tensor,
    label: Tensor,
    reduction: str = "mean",
    avg_factor: None = None,
    class_weight: Tensor | None = None,
    ignore_index: None = None,
    **kwargs: Any,
) -> Tensor:
    """Mean binary cross entropy of the masks pred[n, label[n]]: logits pred (N, C, *), masks target
    (N, *), class ids label (N,) -> shape (1,).

    class_weight broadcasts to (N, *). AssertionError: another reduction, an avg_factor or an
    ignore_index.
    """
    for name, value, wanted in (
        ("ignore_index", ignore_index, None),
        ("reduction", reduction, "mean"),
        ("avg_factor", avg_factor, None),
    ):
        if value != wanted:
            raise AssertionError(f"{name} must be {wanted!r} for masks, got {value!r}")
    rows = torch.arange(len(pred), device=pred.device)
    masks = pred[rows, label].squeeze(1)  # (N, *)
    if class_weight is not None:
        class_weight = _as_tensor(class_weight, pred).to(pred.dtype)
    options = {"ignore_index": None}
    native = NativeLoss(functional.binary_cross_entropy, masks, target, masks.shape, options)
    return weight_reduce_loss(native, class_weight)[None]


@LOSSES.register_module()
class CrossEntropyLoss(nn.Module):
    """Cross entropy, times `loss_weight`: softmax, sigmoid (`use_sigmoid`) or of the masks of
    instances (`use_mask`).

    Args:
        use_sigmoid: `binary_cross_entropy` of every entry.
        use_mask: `mask_cross_entropy`; AssertionError together with use_sigmoid.
        reduction: "none", "mean" or "sum"; "mean" alone for masks.
        class_weight: list or tensor (C,): factor of each class, with sigmoid of its positive part.
        ignore_index: label that counts nothing; None: -100.
        loss_weight: factor of the result.
        avg_non_ignore: divide the mean by the labels (entries) that are not ignored, not by all.

    Call: ``loss(cls_score, label, weight=None, avg_factor=None, reduction_override=None,
    ignore_index=None)``; the third positional argument is the class ids of the instances for
    masks. `ignore_index` of a call replaces that of the constructor. cls_score (N, C, *) logits,
    label (N, *) class ids; see the functions for the shapes of the others. All ignored: 0. No
    rows: the mean is NaN, 0 with an avg_factor.
    AssertionError: a wrong `reduction_override`, for masks all but a plain mean. ValueError:
    avg_factor with "sum". IndexError: a class id out of range, on the CPU; on a GPU NaN.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = "mean",
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid is not False and use_mask is not False:
            raise AssertionError("use_sigmoid and use_mask must not both be True")
        self.use_sigmoid = use_sigmoid
        self.use_mask = use_mask
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.class_weight = class_weight
        self.ignore_index = ignore_index
        self.avg_non_ignore = avg_non_ignore
        if ignore_index is not None and not avg_non_ignore and reduction == "mean":
            warnings.warn(
                "ignored labels count in the mean; avg_non_ignore=True divides by the others, "
                "as torch's cross_entropy does",
                stacklevel=2,
            )
        if use_sigmoid:
            self.cls_criterion = binary_cross_entropy
        elif use_mask:
            self.cls_criterion = mask_cross_entropy
        else:
            self.cls_criterion = cross_entropy

    def extra_repr(self) -> str:
        return f"avg_non_ignore={self.avg_non_ignore}"

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """cls_score (N, C, *), label (N, *) -> scalar, the shape of the losses for "none", or (1,)
        for masks."""
        reduction = choose_reduction(reduction_override, self.reduction)
        loss = self.cls_criterion(
            cls_score,
            label,
            weight,
            class_weight=self._class_weight(cls_score),
            reduction=reduction,
            avg_factor=avg_factor,
            ignore_index=self.ignore_index if ignore_index is None else ignore_index,
            avg_non_ignore=self.avg_non_ignore,
            **kwargs,
        )
        return scale(loss, self.loss_weight)

    def _class_weight(self, cls_score: Tensor) -> Tensor | None:
        """On the device of the scores."""
        weight = self.class_weight
        if isinstance(weight, Tensor):
            return weight.detach().to(cls_score)
        if isinstance(weight, (int, float)):
            weight = [weight]
        return weight if weight is None else _as_tensor([float(x) for x in weight], cls_score)


@LOSSES.register_module()
class CrossEntropyCustomLoss(CrossEntropyLoss):
    """`CrossEntropyLoss` for heads that ask their loss for the number of channels, the activation
    and the accuracy (V3Det).

    Args:
        num_classes: classes without background; required, AssertionError otherwise.
        use_sigmoid, use_mask, reduction, class_weight, ignore_index, loss_weight, avg_non_ignore:
            as in `CrossEntropyLoss`, whose call it shares.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = "mean",
        num_classes: int = -1,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        super().__init__(
            use_sigmoid, use_mask, reduction, class_weight, ignore_index, loss_weight,
            avg_non_ignore,
        )  # fmt: skip
        if num_classes == -1:
            raise AssertionError("num_classes must be given")
        self.num_classes = num_classes
        self.custom_cls_channels = True
        self.custom_activation = True
        self.custom_accuracy = True

    def get_cls_channels(self, num_classes: int) -> int:
        """Channels of the classifier: the classes, and with softmax the background."""
        return check_num_classes(num_classes, self.num_classes) + (not self.use_sigmoid)

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, C + 1) probabilities of the classes and of the background, the last column."""
        classes = cls_score[:, : self.num_classes]
        if not self.use_sigmoid:
            return torch.cat([classes, cls_score[:, -1:]], dim=-1).softmax(-1)
        probabilities = classes.sigmoid()
        background = (1 - probabilities.sum(1, keepdim=True)).clamp(0, 1)
        return torch.cat([probabilities, background], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{"acc_classes": per cent of correct labels among those of classes, (1,)}."""
        classes = cls_score[:, : self.num_classes]
        return {"acc_classes": accuracy_of_classes(classes, labels, self.num_classes)}


def _as_tensor(class_weight: Tensor | Sequence[float], pred: Tensor) -> Tensor:
    """Numbers as a tensor whose copy on the device is made once."""
    if isinstance(class_weight, Tensor):
        return class_weight
    return constant(numbers("class_weight", class_weight), pred)


def _differs(label: Tensor, index: int) -> Tensor:
    """``label != index``. Torch wraps the index to the label's dtype: -100 to 156 of uint8."""
    return label.to(torch.promote_types(label.dtype, torch.int32)) != index


def _count(valid: Tensor, pred: Tensor) -> Tensor:
    """How many are valid, on the device, as exact as the losses are."""
    return valid.sum(dtype=torch.promote_types(pred.dtype, torch.float32))
