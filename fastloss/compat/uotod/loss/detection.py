"""DetectionLoss (uotod 0.3, loss/DetectionLoss.py)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from fastloss import functional
from fastloss._library import values_may_be_read
from fastloss.compat.uotod._terms import (
    NotFused,
    of_pairs,
    refuse_overrides,
    without_padding,
)
from fastloss.compat.uotod.loss._fused import box_options, class_options, indices
from fastloss.compat.uotod.match._Match import _Match, mask_of
from fastloss.compat.uotod.utils import Batch, pad_target, stack_input
from fastloss.ops.matched_detection import reduce_rows


class DetectionLoss(_Loss):
    r"""Class and box loss of predictions that a matcher matches with targets and the background.

    With the matching m, the class weights w (`cls_loss_module.weight`) and the label 0 for the
    background, "mean" is

    .. math::
        \frac{\sum_{ij} m_{ij} \, \mathrm{cls}(x_i, y_j) + \sum_i m_{i0} \, \mathrm{cls}(x_i, 0)}
        {P + N} + \frac{\sum_{ij} m_{ij} \, \mathrm{loc}(b_i, t_j)}{P}, \quad
        P = \max\left(1, \sum_{ij} m_{ij} w_{y_j}\right), \quad N = w_0 \sum_i m_{i0},

    with N = 0 for `bg_class_position` "none" and with hard negative mining. The matching has no
    gradient.

    CrossEntropyLoss (with class weights), NegativeProbLoss or SigmoidFocalLoss for the classes and
    L1Loss, SmoothL1Loss or MSELoss with IoULoss or GIoULoss for the boxes, also in a
    MultipleObjectiveLoss, are computed in one pass that makes nothing for each pair
    (`fastloss.functional.matched_detection`). Anything else, a subclass of these too, is called
    with every pair. `plan` says which, and why.

    Args:
        cls_loss_module: class loss with reduction "none": logits (n, C) and classes (n,), or
            one-hot rows (n, C) for position "none", -> (n,).
        loc_loss_module: box loss with reduction "none": (n, 4), (n, 4) -> (n,) or (n, 4), which is
            summed.
        matching_method: a matcher of `fastloss.compat.uotod.match`, with a background.
        bg_class_position: class of the background among the labels: "first" (0), "last" (C - 1), or
            "none": labels are one-hot, and the background is the row of zeros.
        use_hard_negative_mining: count in each image only the largest background losses, as long
            as their mass is at most `neg_to_pos_ratio` times that of its positives.
        neg_to_pos_ratio: see there; needed with mining, without it a warning says it is ignored.
        reduction: "mean" or "sum".

    Call: ``loss(input, target, anchors=None)`` -> scalar. ``input`` has "pred_logits" (B, P, C) and
    "pred_boxes" (B, P, 4), ``target`` "labels" (B, T) or (B, T, C), "boxes" (B, T, 4) and "mask"
    (B, T), bool, False for padding, boxes x1 y1 x2 y2; or both are lists with a dict for each
    image. ``anchors`` are (P, 4) or (B, P, 4), for a matcher that is anchor-based.

    Mended: mining keeps the negative with which the budget is exactly used up (upstream one less);
    lists of inputs; NaN in columns of padding.

    Raises:
        AssertionError: matching_method is no matcher, unknown bg_class_position, mining without a
            ratio, another number of classes in one-hot labels than in the logits.
        NotImplementedError: one-hot labels with a position, or class indices with "none".
        ValueError: another reduction, at the call.
        RuntimeError: the matcher has no background.
    """

    def __init__(
        self,
        cls_loss_module: _Loss,
        loc_loss_module: _Loss,
        matching_method: _Match,
        bg_class_position: str = "first",
        use_hard_negative_mining: bool = False,
        neg_to_pos_ratio: float | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        assert isinstance(matching_method, _Match), (
            f"matching_method must be a matcher of fastloss.compat.uotod.match, "
            f"got {type(matching_method).__name__}"
        )
        assert bg_class_position in ("first", "last", "none"), (
            f'bg_class_position must be "first", "last" or "none", got {bg_class_position!r}'
        )
        if use_hard_negative_mining:
            assert neg_to_pos_ratio is not None, (
                "neg_to_pos_ratio must be given with use_hard_negative_mining"
            )
        elif neg_to_pos_ratio is not None:
            warnings.warn(
                "neg_to_pos_ratio is ignored without use_hard_negative_mining", stacklevel=2
            )
        self.matching_method = matching_method
        self.loss_cls_module = cls_loss_module
        self.loss_loc_module = loc_loss_module
        self.bg_class_position = bg_class_position
        self.use_hard_negative_mining = use_hard_negative_mining
        self.neg_to_pos_ratio = neg_to_pos_ratio
        self._plan: str | None = None

    @property
    def plan(self) -> str:
        """How the last call computed its terms, or how the next one will: "fused", or "generic" and
        why."""
        if self._plan is not None:
            return self._plan
        try:
            self._options()
        except NotFused as reason:
            return f"generic: {reason}"
        return "fused"

    def forward(
        self,
        input: Batch | Sequence[Batch],
        target: Batch | Sequence[Batch],
        anchors: Tensor | None = None,
    ) -> Tensor:
        """See the class."""
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", got {self.reduction!r}')
        input, target = stack_input(input), pad_target(target)
        logits, labels, mask = input["pred_logits"], target["labels"], mask_of(target)
        self._check_labels(logits, labels)
        matching = self.matching_method(input, target, anchors)
        if matching.shape[-1] != labels.shape[1] + 1:
            raise RuntimeError("matching_method must have a background: set background=True")
        try:
            options, labels = self._options(), self._indices(labels, mask)
            self._refuse_gradients(target)
            self._plan = "fused"
        except NotFused as reason:
            self._plan = f"generic: {reason}"
            return self._of_every_pair(input, target, mask, matching)
        return functional.matched_detection(
            logits, input["pred_boxes"], labels, target["boxes"], matching, mask,
            **options, background=-1 if self.bg_class_position == "last" else 0,
            neg_to_pos_ratio=self._ratio(), reduction=self.reduction,
        )  # fmt: skip

    def _check_labels(self, logits: Tensor, labels: Tensor) -> None:
        one_hot = labels.dim() == 3
        if one_hot != (self.bg_class_position == "none"):
            raise NotImplementedError(
                f"bg_class_position {self.bg_class_position!r} needs labels of shape "
                f"{'(B, T)' if one_hot else '(B, T, C), one-hot'}, got {tuple(labels.shape)}"
            )
        assert not one_hot or labels.shape[2] == logits.shape[2], (
            f"one-hot labels must have {logits.shape[2]} classes as the logits, "
            f"got {labels.shape[2]}"
        )

    def _ratio(self) -> float | None:
        return self.neg_to_pos_ratio if self.use_hard_negative_mining else None

    def _options(self) -> dict[str, object]:
        """Of `matched_detection`; raises NotFused if it does not know the losses."""
        refuse_overrides(self, DetectionLoss, "_compute_cls_losses", "_compute_loc_losses")
        classes, boxes = class_options(self.loss_cls_module), box_options(self.loss_loc_module)
        focal = classes["cls_loss"] == "sigmoid_focal"
        if focal != (self.bg_class_position == "none"):
            raise NotFused(
                f"{classes['cls_loss']} with background position {self.bg_class_position!r}"
            )
        return {**classes, **boxes}

    def _indices(self, labels: Tensor, mask: Tensor | None) -> Tensor:
        if self.bg_class_position != "none":
            return labels
        index, one_hot = indices(labels.detach())
        if values_may_be_read(labels):
            real = one_hot if mask is None else one_hot | ~mask
            if not bool(real.all()):
                raise NotFused("labels are not one-hot")
        return index

    @staticmethod
    def _refuse_gradients(target: Batch) -> None:
        for name in ("boxes", "labels"):
            if target[name].requires_grad and torch.is_grad_enabled():
                raise NotFused(f'target["{name}"] requires a gradient')

    def _of_every_pair(
        self, input: Batch, target: Batch, mask: Tensor | None, matching: Tensor
    ) -> Tensor:
        labels, boxes = without_padding(target["labels"], mask), target["boxes"]
        at_targets, at_background = matching[..., :-1], matching[..., -1]
        if mask is not None:
            boxes = torch.where(mask[..., None], boxes, 0)
            at_targets = torch.where(mask[:, None, :], at_targets, 0)
        cls_loss = self._compute_cls_losses(input["pred_logits"], labels)
        loc_loss = self._compute_loc_losses(input["pred_boxes"], boxes)
        weighted, background_weight = at_targets, 0 if self.bg_class_position == "none" else 1
        weight = getattr(self.loss_cls_module, "weight", None)
        if weight is not None and self.bg_class_position != "none":
            weighted = at_targets * weight[labels][:, None, :]
            background_weight = weight[0 if self.bg_class_position == "first" else -1]
        rows = (
            _weighted(at_targets, cls_loss[..., :-1]).sum(-1),
            _weighted(at_background, cls_loss[..., -1]),
            _weighted(at_targets, loc_loss).sum(-1),
            at_targets.sum(-1),
            weighted.sum(-1),
        )
        return reduce_rows(rows, at_background, background_weight, self._ratio(), self.reduction)

    def _compute_cls_losses(self, pred_logits: Tensor, tgt_labels: Tensor) -> Tensor:
        """Of every prediction with every target and the background, (B, P, T + 1)."""
        last = pred_logits.shape[2] - 1 if self.bg_class_position == "last" else 0
        shape = (len(tgt_labels), 1, *tgt_labels.shape[2:])
        background = tgt_labels.new_full(shape, last)  # zeros, if labels are one-hot
        return of_pairs(self.loss_cls_module, pred_logits, torch.cat((tgt_labels, background), 1))

    def _compute_loc_losses(self, pred_locs: Tensor, tgt_locs: Tensor) -> Tensor:
        """Of every prediction with every target, (B, P, T)."""
        return of_pairs(self.loss_loc_module, pred_locs, tgt_locs)


def _weighted(mass: Tensor, loss: Tensor) -> Tensor:
    """mass * loss, 0 where there is no mass, whatever the loss."""
    return torch.where(mass != 0, mass * loss, 0)
