"""Dice loss of masks, one mask a sample."""

import torch
from torch import Tensor

from .._library import register
from ..reference import mask_dice as reference
from . import _arguments as check
from ._segmentation import INDEX_DTYPES

_loss = register(
    "mask_dice",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? avg_factor, bool squared, float eps, "
    "bool activated, float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "target", "weight"),
)


def mask_dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    squared: bool = True,
    eps: float = 1e-3,
    activated: bool = False,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Dice loss of each mask, as instance segmentation has it.

    With p = sigmoid(logits) and sums over the elements of a mask its loss is

    .. math:: 1 - \frac{2 \sum p t}{\sum p^2 + \sum t^2 + 2 \epsilon} \text{ (squared)}, \quad
        1 - \frac{2 \sum p t + \epsilon}{\sum p + \sum t + \epsilon} \text{ (not squared)}

    (Milletari et al., arXiv 1606.04797, V-Net; mmdet 3.3.0 `models/losses/dice_loss.py`). The
    logits are read once forward and once backward; nothing else of their size but the gradients is
    made.

    Args:
        logits: (N, \*), at least one further dimension, floating point.
        target: (N, \*), in [0, 1], float, integer or bool.
        squared: Squares in the divisor.
        eps: Added to the sums, >= 0; with 0 the loss of two empty masks is NaN.
        activated: `logits` are probabilities.
        weight: Of the masks; broadcasts to (N,).
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of masks);
            nothing is added to it.

    Returns:
        A scalar, or (N,) for "none", in the common dtype of logits and target (float32 for half
        inputs under autocast); 0 for no masks. Differentiable in logits, weight and a
        floating-point target; no host reads.

    Raises:
        TypeError: an argument is not a tensor of such a dtype, not a number, or not a bool.
        ValueError: wrong shape, device or reduction, negative eps or avg_factor, or avg_factor with
            "sum".
    """
    check.floating("logits", logits)
    if logits.dim() < 2:
        raise ValueError(f"logits must have shape (N, *), got {tuple(logits.shape)}")
    check.tensor_on("target", target, "logits", logits)
    check.same_shape("target", target, "logits", logits)
    if target.dtype not in (*check.FLOATING, *INDEX_DTYPES, torch.bool):
        target = target.long()
    check.flag("squared", squared)
    check.flag("activated", activated)
    eps = check.at_least("eps", eps, 0)
    weight = check.weight_like(weight, logits.shape[:1], "logits", logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "logits", logits)
    if target.is_floating_point() and torch.float64 in (logits.dtype, target.dtype):
        logits, target = check.promote(logits, target)
    common = torch.promote_types(logits.dtype, target.dtype)  # float32 if they differ now
    widen = check.under_autocast(logits) or common != logits.dtype
    options = (squared, eps, activated, divisor, reduction, widen)
    return _loss(logits.flatten(1), target.flatten(1), weight, avg_factor, *options)
