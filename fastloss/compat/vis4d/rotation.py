"""rotation_loss (vis4d 1.0.0, op/loss/common.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss import functional
from fastloss.compat.vis4d._native import floats, native, reduction_of
from fastloss.compat.vis4d.distance import smooth_l1_loss
from fastloss.compat.vis4d.reducers import LossReducer, identity_loss


def rotation_loss(
    pred: Tensor,
    target_bin: Tensor,
    target_res: Tensor,
    num_bins: int,
    reducer: LossReducer = identity_loss,
) -> Tensor:
    """Class loss of angle bins and regression of the sine and cosine of the residual in each.

    Binary cross entropy of the bins, averaged over the boxes and summed over the bins, plus the
    smooth L1 distances (beta 1) from sin and cos of the residual, over the rows whose bin has the
    target 1: for every bin the reducer's result for the sine and that for the cosine, summed.

    Args:
        pred: (B, 3 num_bins): a logit for each bin, then sin and cos for each bin.
        target_bin: (B, num_bins) in [0, 1].
        target_res: angles less that of the bin, (B, num_bins), in radians; read where target_bin
            is 1 and nowhere else.
        num_bins: number of bins.
        reducer: callable Tensor -> scalar. `mean_loss` and `sum_loss` are computed for all bins at
            once; for any other the rows of each bin are selected, and the device is waited for.

    Returns a scalar, differentiable in pred and both targets. RuntimeError: the reducer is the
    default, whose result is not a scalar (upstream: only if any bin has the target 1). ValueError:
    target_bin of another shape. IndexError: too few columns or rows of pred or target_res.
    """
    rows = len(pred)
    logits, bins = floats(pred[:, :num_bins], target_bin)
    if logits.shape != bins.shape:
        raise ValueError(
            f"target_bin must have shape {tuple(logits.shape)}, got {tuple(bins.shape)}"
        )
    values, angles = pred[:, num_bins : 3 * num_bins], target_res[:, :num_bins]
    if values.shape != (rows, 2 * num_bins) or angles.shape != (rows, num_bins):
        raise IndexError(
            f"pred must have shape {(rows, 3 * num_bins)} and target_res {(rows, num_bins)}, "
            f"got {tuple(pred.shape)} and {tuple(target_res.shape)}"
        )
    loss = native(functional.binary_cross_entropy, logits, bins, reduction="mean", avg_factor=rows)
    return loss + _residuals(values.unflatten(1, (num_bins, 2)), angles, bins == 1, reducer)


def _residuals(values: Tensor, angles: Tensor, chosen: Tensor, reducer: LossReducer) -> Tensor:
    """Sines and cosines (B, bins, 2) against angles (B, bins) where chosen (B, bins)."""
    reduction = reduction_of(reducer)
    if reduction == "none":
        raise RuntimeError("rotation_loss needs a reducer whose result is a scalar")
    if reduction is None:
        return _by_bin(values, angles, chosen, reducer)
    angles = angles.masked_fill(~chosen, 0)  # not at the end: 0 times a NaN is NaN
    values = values.masked_fill(~chosen[..., None], 0)
    values, directions = floats(values, torch.stack((angles.sin(), angles.cos()), -1))
    weight = chosen.to(torch.promote_types(values.dtype, torch.float32))  # (B, bins)
    if reduction == "mean":
        weight = weight / weight.sum(0).clamp(min=1)
    return native(
        functional.regression_loss,
        values,
        directions,
        kind="smooth_l1",
        weight=weight[..., None],
        reduction="sum",
    )


def _by_bin(values: Tensor, angles: Tensor, chosen: Tensor, reducer: LossReducer) -> Tensor:
    """The reducer's own results, of bins with at least one row."""
    total = values.new_zeros(())
    for i in range(chosen.shape[1]):
        rows = chosen[:, i]
        if rows.any():
            angle, value = angles[rows, i], values[rows, i]
            for part, direction in ((value[:, 0], angle.sin()), (value[:, 1], angle.cos())):
                # In place, so that a result that is not a scalar is a RuntimeError.
                total += smooth_l1_loss(part, direction, reducer)
    return total
