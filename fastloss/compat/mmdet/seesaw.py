"""SeesawLoss and its function (mmdet 3.3.0, models/losses/seesaw_loss.py).

Formula: `fastloss.functional.seesaw_loss`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.cross_entropy import cross_entropy
from fastloss.compat.mmdet.reduction import NativeLoss, choose_reduction, reduce_and_scale, scale
from fastloss.compat.mmdet.registry import LOSSES
from fastloss.reference._reduce import compute_dtype


def seesaw_ce_loss(
    cls_score: Tensor,
    labels: Tensor,
    label_weights: Tensor | None,
    cum_samples: Tensor,
    num_classes: int,
    p: float,
    q: float,
    eps: float,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Seesaw loss of cls_score (N, C) and labels (N,) in [0, C), with cum_samples (C,) the number
    of samples of each class so far; label_weights (N,).

    "mean" divides by N. A label C is background here: it has no loss; mmdet refuses it.
    AssertionError: C is not `num_classes`.
    """
    _has_columns(cls_score, num_classes)
    if len(cum_samples) != num_classes:
        raise AssertionError(f"cum_samples must have {num_classes} entries, got {len(cum_samples)}")
    options = {"class_count": cum_samples, "p": p, "q": q, "eps": _positive(eps)}
    native = NativeLoss(functional.seesaw_loss, cls_score, labels, labels.shape, options)
    return reduce_and_scale(native, _floats(label_weights), reduction, avg_factor, 1)


@LOSSES.register_module()
class SeesawLoss(nn.Module):
    """Seesaw loss for long-tailed classification (https://arxiv.org/abs/2008.10032), times
    `loss_weight`, and cross entropy of two columns that tell objects from background.

    Every call adds its labels to the buffer `cum_samples` (C + 1), on the device.

    Args:
        use_sigmoid: must be False; AssertionError otherwise.
        p: exponent of the mitigation factor.
        q: exponent of the compensation factor.
        num_classes: C, without background.
        eps: least score that others are compared with.
        reduction: "none", "mean" or "sum"; the mean over classes divides by the number of labels
            that are not background, that over objectness by N.
        loss_weight: factor of the result.
        return_dict: whether the two losses come apart, as {"loss_cls_objectness",
            "loss_cls_classes"}, or as their sum.

    With reduction "none" the losses of the classes have the length of the labels that are not
    background, as in mmdet (a scalar 0 if there is none). Their number is read on the host: it is
    the shape of the result. Nothing else waits for the device.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        p: float = 0.8,
        q: float = 2.0,
        num_classes: int = 1203,
        eps: float = 1e-2,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        return_dict: bool = True,
    ):
        super().__init__()
        if use_sigmoid:
            raise AssertionError("use_sigmoid must be False, got True")
        self.use_sigmoid = False
        self.p = p
        self.q = q
        self.num_classes = num_classes
        self.eps = eps
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.return_dict = return_dict
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1))
        self.custom_cls_channels = True
        self.custom_activation = True
        self.custom_accuracy = True

    def get_cls_channels(self, num_classes: int) -> int:
        """Columns of cls_score, C + 2; AssertionError if C is not that of the loss."""
        if num_classes != self.num_classes:
            raise AssertionError(f"num_classes must be {self.num_classes}, got {num_classes}")
        return num_classes + 2

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores (*, C + 1) of cls_score (*, C + 2): of the classes, times that of being an object,
        and that of background."""
        classes, objectness = self._split(cls_score)
        scores, background = objectness.softmax(-1).split(1, -1)
        return torch.cat((classes.softmax(-1) * scores, background), -1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{"acc_objectness", "acc_classes"}: per cent of the rows, and of those that are not
        background, that are right; (1,) each.

        Of no rows it is 0 with the shape (1,), where mmdet's is (): a shape that depends on labels
        would have to wait for the device.
        """
        classes, objectness = self._split(cls_score)
        background = labels == self.num_classes
        is_object = labels < self.num_classes
        return {
            "acc_objectness": _percent(objectness, background.long(), torch.ones_like(is_object)),
            "acc_classes": _percent(classes, labels, is_object),
        }

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """The losses of cls_score (N, C + 2) and labels (N,), C for background; label_weights
        (N,). IndexError: a label out of range, on the CPU; on a GPU the loss of classes is NaN."""
        reduction = choose_reduction(reduction_override, self.reduction)
        classes, objectness = self._split(cls_score)
        weight, background = _floats(label_weights), labels == self.num_classes
        count = self._counted(labels)
        objectness = objectness.to(compute_dtype(objectness))  # no loss of a row is rounded
        of_objectness = cross_entropy(objectness, background.long(), weight, reduction, avg_factor)
        losses = {
            "loss_cls_objectness": scale(of_objectness, self.loss_weight),
            "loss_cls_classes": self._classes(
                classes, labels, count[:-1], weight, reduction, avg_factor
            ),
        }
        self.cum_samples.copy_(count)
        if self.return_dict:
            return losses
        return losses["loss_cls_classes"] + losses["loss_cls_objectness"]

    def _split(self, cls_score: Tensor) -> tuple[Tensor, Tensor]:
        """Columns of classes and of objectness. The gradients of the two parts of a split are
        joined in one pass, those of slices padded and added up."""
        _has_columns(cls_score, self.num_classes + 2)
        classes, objectness = cls_score.split((self.num_classes, 2), -1)
        return classes, objectness

    def _counted(self, labels: Tensor) -> Tensor:
        """`cum_samples` with the labels, but for those out of range, which the loss reports. They
        are added up apart, as integers: a one is lost beside a large float."""
        labels, end = labels.long(), self.num_classes + 1
        labels = torch.where((labels >= 0) & (labels < end), labels, end)
        new = labels.new_zeros(end + 1).index_add_(0, labels, torch.ones_like(labels))
        return self.cum_samples + new[:-1]

    def _classes(
        self,
        scores: Tensor,
        labels: Tensor,
        count: Tensor,
        weight: Tensor | None,
        reduction: str,
        avg_factor: float | Tensor | None,
    ) -> Tensor:
        options = {"class_count": count, "p": self.p, "q": self.q, "eps": _positive(self.eps)}
        native = NativeLoss(functional.seesaw_loss, scores, labels, labels.shape, options)
        if reduction == "none":
            losses = self.loss_weight * native.call(weight=weight, reduction="none")
            chosen = losses[labels < self.num_classes]
            return chosen if len(chosen) else chosen.sum()
        if avg_factor is None:
            return self.loss_weight * native.call(weight=weight, reduction=reduction)
        return reduce_and_scale(native, weight, reduction, avg_factor, self.loss_weight)


def _floats(label_weights: Tensor | None) -> Tensor | None:
    return None if label_weights is None else label_weights.float()


def _positive(eps: float) -> float:
    """eps as the native loss takes it: a score is never below the smallest float."""
    return max(eps, sys.float_info.min)


def _has_columns(cls_score: Tensor, wanted: int) -> None:
    if cls_score.shape[-1] != wanted:
        raise AssertionError(f"cls_score must have {wanted} columns, got {cls_score.shape[-1]}")


def _percent(scores: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Per cent of the chosen rows whose largest score is that of their label, (1,)."""
    right = (scores.argmax(-1) == labels) & chosen
    return 100 * right.sum(0, keepdim=True) / chosen.sum().clamp(min=1)
