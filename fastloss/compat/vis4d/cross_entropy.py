"""cross_entropy and the classes on it (vis4d 1.0.0, op/loss/{cross_entropy,seg_cross_entropy_loss,
multi_level_seg_loss}.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastloss import functional
from fastloss.compat.vis4d._native import native, reduction_of
from fastloss.compat.vis4d.base import Loss
from fastloss.compat.vis4d.reducers import LossReducer, mean_loss


def cross_entropy(
    output: Tensor, target: Tensor, class_weights: Tensor | None = None, ignore_index: int = 255
) -> Tensor:
    """w_y (-ln softmax(x)_y) of every position, 0 where it is ignored.

    Args:
        output: logits (N, C, *).
        target: class ids (N, *) of any dtype; those of floating point are cut off.
        class_weights: w, (C,); None for ones.
        ignore_index: label of positions that count nothing, whatever their logits.

    Returns (N, *), differentiable in output. IndexError: a label out of range (on the CPU; NaN on
    a GPU). ValueError: another number of images. RuntimeError: another shape, dtype or device.
    """
    loss = native(
        functional.cross_entropy,
        *_rows(output, target),
        class_weight=class_weights,
        ignore_index=ignore_index,
        reduction="none",
    )
    return loss.reshape(target.shape)


class CrossEntropyLoss(Loss):
    """`cross_entropy`, then the reducer.

    Args:
        reducer: callable Tensor -> Tensor. `mean_loss` divides by the number of all positions,
            ignored ones included: 0 where all are, and NaN where there are none.
        class_weights: one number per class; None: 1.

    Call: ``loss(output, target, reducer=None, ignore_index=255)``, logits (N, C, *) and class ids
    (N, *); a reducer given here replaces that of the constructor.
    """

    def __init__(
        self, reducer: LossReducer = mean_loss, class_weights: list[float] | None = None
    ) -> None:
        super().__init__(reducer)
        self.class_weights = class_weights

    def forward(
        self,
        output: Tensor,
        target: Tensor,
        reducer: LossReducer | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """(N, C, *), (N, *) -> the reducer's result of (N, *)."""
        weights = _weights_for(output, self.class_weights)
        return _reduced(output, target, reducer or self.reducer, ignore_index, weights)


class SegCrossEntropyLoss(Loss):
    """`cross_entropy` of logits that are cropped to the size of the target, then the reducer.

    Args:
        reducer: callable Tensor -> Tensor, as in `CrossEntropyLoss`.

    Call: ``loss(output, target, ignore_index=255)`` -> {"loss_seg": Tensor}; logits (N, C, H', W')
    with H' >= H and W' >= W, class ids (N, H, W). RuntimeError: smaller logits.
    """

    def __init__(self, reducer: LossReducer = mean_loss) -> None:
        super().__init__(reducer)

    def forward(self, output: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, Tensor]:
        """(N, C, H', W'), (N, H, W) -> {"loss_seg": the reducer's result}."""
        return {"loss_seg": _reduced(_crop(output, target), target, self.reducer, ignore_index)}


class MultiLevelSegLoss(Loss):
    """`SegCrossEntropyLoss` of several outputs, each with a weight.

    Args:
        reducer: callable Tensor -> Tensor, as in `CrossEntropyLoss`.
        feature_idx: indices of the outputs that have a loss.
        weights: one per index in feature_idx, in its order; None: 1.

    Call: ``loss(outputs, target, ignore_index=255)`` -> {"loss_seg_level{index}": Tensor}; a list
    of logits (N, C, H', W') with H' >= H and W' >= W, class ids (N, H, W).
    """

    def __init__(
        self,
        reducer: LossReducer = mean_loss,
        feature_idx: tuple[int, ...] = (0,),
        weights: list[float] | None = None,
    ) -> None:
        super().__init__(reducer)
        self.feature_idx = feature_idx
        self.weights = [1.0] * len(feature_idx) if weights is None else weights

    def forward(
        self, outputs: list[Tensor], target: Tensor, ignore_index: int = 255
    ) -> dict[str, Tensor]:
        """Outputs (N, C, H', W') and (N, H, W) -> the weighted results by name."""
        losses = {}
        for position, index in enumerate(self.feature_idx):
            output = _crop(outputs[index], target)
            loss = _reduced(output, target, self.reducer, ignore_index)
            weight = self.weights[position]
            if isinstance(weight, Tensor) or weight != 1:  # the default costs no pass
                loss = weight * loss
            losses[f"loss_seg_level{index}"] = loss
        return losses


def _reduced(
    output: Tensor,
    target: Tensor,
    reducer: LossReducer,
    ignore_index: int,
    weights: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """`reducer` of `cross_entropy`, in one pass that makes no map for the mean and the sum."""
    reduction = reduction_of(reducer)
    if reduction in (None, "none"):
        return reducer(cross_entropy(output, target, weights, ignore_index))
    return native(
        functional.cross_entropy,
        *_rows(output, target),
        class_weight=weights,
        ignore_index=ignore_index,
        reduction=reduction,
        # Not the sum of the weights; of nothing 0 / 0.
        avg_factor=target.numel() if reduction == "mean" else None,
    )


def _rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, C, *) and integer class ids (N, *), also of a single row (C,) and ()."""
    if target.is_floating_point() or target.dtype == torch.bool:
        target = target.long()
    if output.dim() == 1 and target.dim() == 0:
        return output[None], target[None]
    expected = (*output.shape[:1], *output.shape[2:])
    if target.shape != expected:
        error = ValueError if target.shape[:1] != expected[:1] else RuntimeError
        raise error(f"target must have the shape {expected}, got {tuple(target.shape)}")
    return output, target


def _weights_for(
    output: Tensor, weights: Tensor | Sequence[float] | None
) -> Tensor | list[float] | None:
    """Class weights as the native losses take them; numbers are copied to the device once."""
    if weights is None:
        return None
    return weights.to(output) if isinstance(weights, Tensor) else [float(w) for w in weights]


def _crop(output: Tensor, target: Tensor) -> Tensor:
    """The first rows and columns of the output, as many as the target has."""
    height, width = target.shape[-2:]
    return output[:, :, :height, :width]
