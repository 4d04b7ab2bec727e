"""OhemCrossEntropy2d (geo-deep-learning, losses/ohem_loss.py; after OCNet)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastloss import functional


class OhemCrossEntropy2d(nn.Module):
    """Cross entropy of the hard pixels (online hard example mining).

    With p the probability of its true class, a valid pixel is kept if p <= t. t is thresh or, if
    larger, the min_kept-th smallest p of the batch, so that at least min_kept pixels are kept; all
    are if there are no more. The choice has no gradient. The result is
    sum(w_y (-ln p)) / sum(w_y) over the kept pixels.

    Args:
        thresh: probability up to which a pixel is hard; above 1 all are, below 0 is as 0.
        min_kept: least number of pixels kept, in the whole batch.
        weight: w, one number per class, a tensor or (here only) a list; None: 1. It is the buffer
            ``criterion.weight``.
        ignore_index: label of pixels that count nothing; the attribute `ignore_label`.

    Call: ``loss(predict, target)`` -> scalar. predict: logits (N, C, H, W); target: class ids
    (N, H, W) of any dtype. ValueError: predict does not have four dimensions. IndexError: another
    number of labels, or a label out of range (on the CPU; NaN on a GPU). RuntimeError: as many
    labels in another shape.

    Departures: nothing kept (all pixels ignored or easy) gives 0 with a graph (upstream: NaN). A
    pixel with a NaN logit is always kept, and probabilities that are no normal numbers count as 0.
    """

    def __init__(
        self,
        thresh: float = 0.6,
        min_kept: int = 0,
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.ignore_label = ignore_index
        self.thresh = float(thresh)
        self.min_kept = int(min_kept)
        if weight is not None and not isinstance(weight, Tensor):
            weight = torch.tensor(weight, dtype=torch.float)
        # Holds the class weights under the name that checkpoints have.
        self.criterion = nn.CrossEntropyLoss(weight=weight, ignore_index=ignore_index)

    def forward(self, predict: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C, H, W) and class ids (N, H, W) -> scalar."""
        if predict.dim() != 4:
            raise ValueError(f"predict must have shape (N, C, H, W), got {tuple(predict.shape)}")
        expected = (len(predict), *predict.shape[2:])
        if target.shape != expected:
            error = RuntimeError if target.numel() == predict[:, 0].numel() else IndexError
            raise error(f"target must have the shape {expected}, got {tuple(target.shape)}")
        if target.is_floating_point() or target.dtype == torch.bool:
            target = target.long()
        return functional.ohem_cross_entropy(
            predict,
            target,
            thresh=min(max(self.thresh, 0.0), 1.0),
            min_kept=max(self.min_kept, 0),
            rule="gdl",
            class_weight=self.criterion.weight,
            ignore_index=self.ignore_label,
        )
