"""Softmax cross entropy of pixels (or rows)."""

from collections.abc import Sequence

from torch import Tensor

from .._library import register
from ..reference import cross_entropy as reference
from . import _arguments as check
from . import _segmentation as segmentation

_loss = register(
    "cross_entropy",
    "(Tensor logits, Tensor target, Tensor? class_weight, Tensor? weight, Tensor? avg_factor, "
    "int? ignore_index, float smoothing, float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "weight"),
    check=reference.check,
)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Softmax cross entropy with the arguments and values of torch.nn.functional.cross_entropy,
    and with a weight of each pixel.

    :math:`w_y (1-s)(-\ln p_y) + \frac{s}{C} \sum_c w_c (-\ln p_c)` per pixel; "mean" divides the
    sum by :math:`\sum w_y`, whatever the weights of the pixels. One tensor of the size of the
    logits is made, the gradient. Where a reduced loss of float32 or float64 needs it, it is written
    while the logits are read for the loss; else the logits are read once forward and once backward.

    Args:
        logits: (N, C, *), any number of further dimensions, floating point. Channels-last logits
            are read in place.
        target: Class indices (N, *) in [0, C), any integer dtype.
        class_weight: w, (C,), tensor or numbers; None for ones.
        ignore_index: Pixels with this label count nothing, whatever their logits; None: no such
            label.
        label_smoothing: s in [0, 1].
        weight: Of the pixels; broadcasts to (N, *).
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean"; nothing is added to
            it.

    Returns:
        A scalar, or (N, *) for "none", in the input's dtype (float32 for half inputs under
        autocast). The mean over nothing is 0, where torch returns NaN. Differentiable in logits
        and weight.

    Raises:
        IndexError: a label out of range, on the CPU; on CUDA the loss is NaN.
        TypeError: an argument is not of the type named.
        ValueError: wrong shape, different devices, unknown reduction, s outside [0, 1], negative
            avg_factor, or avg_factor with "sum".
    """
    segmentation.has_classes(logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "logits", logits)
    smoothing = check.at_least("label_smoothing", label_smoothing, 0)
    if smoothing > 1:
        raise ValueError(f"label_smoothing must be <= 1, got {smoothing}")
    target = segmentation.class_indices(logits, target)
    ignore_index = segmentation.ignored_index(ignore_index)
    class_weight = segmentation.class_weight_of(logits, class_weight)
    weight = check.weight_like(weight, target.shape, "logits", logits)
    x, labels = segmentation.pixels(logits, target, per_image=False)
    if weight is not None:
        weight = segmentation.pixels(logits, weight, per_image=False)[1]
    loss = _loss(
        x, labels, class_weight, weight, avg_factor, ignore_index, smoothing, divisor, reduction,
        check.under_autocast(logits),
    )  # fmt: skip
    return loss.view(target.shape) if reduction == "none" else loss
