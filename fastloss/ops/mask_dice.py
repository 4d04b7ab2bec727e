"""Dice loss of masks, one mask a sample."""

import torch
from torch import Tensor

from ..reference._reduce import reduce
from ..reference.segmentation_table import bits, columns
from . import _arguments as check
from . import _segmentation as segmentation


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
    if target.dtype not in (*check.FLOATING, *segmentation.INDEX_DTYPES, torch.bool):
        target = target.long()
    check.flag("squared", squared)
    check.flag("activated", activated)
    eps = check.at_least("eps", eps, 0)
    weight = check.weight_like(weight, logits.shape[:1], "logits", logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "logits", logits)
    if target.is_floating_point() and torch.float64 in (logits.dtype, target.dtype):
        logits, target = check.promote(logits, target)  # sums of other dtypes are in float32
    # Masks are images of one class: their rows are read one after the other, in parallel.
    reading = segmentation.Reading("none" if activated else "sigmoid", per_image=True)
    power = "_squared" if squared else ""
    statistics = bits({"product", f"probability{power}", f"target{power}"})
    x, t = logits.flatten(1)[:, None], target.flatten(1)[:, None]  # (N, 1, P)
    table = segmentation.table(x, t, statistics, *reading)[..., 0]  # (N, 3)
    sums = dict(zip(columns(statistics), table.unbind(1)))
    total = sums[f"probability{power}"] + sums[f"target{power}"]
    divisor_of_mask = total + (2 * eps if squared else eps)
    rest = torch.sub(divisor_of_mask if squared else total, sums["product"], alpha=2)
    loss = rest / divisor_of_mask
    dtype = torch.promote_types(segmentation.result_dtype(logits), target.dtype)
    return reduce(loss, weight, avg_factor, divisor, reduction, len(loss), dtype)
