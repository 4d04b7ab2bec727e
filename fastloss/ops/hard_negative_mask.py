"""Hard negative mining: the negatives with the largest losses."""

import torch
from torch import Tensor

from .._library import register
from ..reference import hard_negative_mask as reference
from . import _arguments as check
from ._segmentation import INDEX_DTYPES

_op = register(
    "hard_negative_mask", "(Tensor loss, Tensor negative, Tensor count)", reference.forward
)


def hard_negative_mask(loss: Tensor, negative: Tensor, count: Tensor) -> Tensor:
    """Of every row the `count` negatives with the largest losses, or as many as have that mass.

    Of equal losses the first in the row is chosen first; NaN is larger than any number. The counts
    stay on the device, so that they may follow from the number of positives there, as in
    `count = 3 * positive.sum(1)`.

    Args:
        loss: (B, N), floating point.
        negative: (B, N), bool: the elements to choose from. Or floating point: the mass of each, as
            a soft matching gives it; elements without a mass > 0 are not chosen.
        count: (B,), any integer dtype, on the device of the loss. More than there are negatives:
            all of them; 0 or less: none. With masses also floating point: elements are chosen as
            long as the sum of their masses, in float64, is at most this.

    Returns:
        (B, N), bool. Without a gradient: multiply the loss by it, or select with torch.where.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    check.floating("loss", loss)
    if loss.dim() != 2:
        raise ValueError(f"loss must have shape (B, N), got {tuple(loss.shape)}")
    has_masses = isinstance(negative, Tensor) and negative.is_floating_point()
    if has_masses:
        check.floating("negative", negative)
        check.tensor_on("negative", negative, "loss", loss)
        check.same_shape("negative", negative, "loss", loss)
    else:
        check.mask("negative", negative, loss.shape, "loss", loss)
    check.tensor_on("count", count, "loss", loss)
    if count.dtype == torch.bool or (count.is_floating_point() and not has_masses):
        raise TypeError(f"count must be of an integer dtype, got {count.dtype}")
    if count.shape != loss.shape[:1]:
        raise ValueError(f"count must have shape {tuple(loss.shape[:1])}, got {tuple(count.shape)}")
    if has_masses:
        return _op(loss.detach(), negative.detach(), count.detach().double())
    return _op(loss.detach(), negative, count if count.dtype in INDEX_DTYPES else count.long())
