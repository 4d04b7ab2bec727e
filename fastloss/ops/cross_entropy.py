"""Softmax cross entropy of pixels (or rows)."""

from collections.abc import Sequence

from torch import Tensor

from .._library import register
from ..reference import cross_entropy as reference
from . import _arguments as check
from . import _segmentation as segmentation

per_pixel = register(
    "cross_entropy",
    "(Tensor logits, Tensor target, Tensor? class_weight, int? ignore_index, float smoothing, "
    "float gamma, float? threshold, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits",),
    check=reference.check,
)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Softmax cross entropy with the arguments and values of torch.nn.functional.cross_entropy.

    :math:`w_y (1-s)(-\ln p_y) + \frac{s}{C} \sum_c w_c (-\ln p_c)` per pixel; "mean" divides the
    sum by :math:`\sum w_y`. The logits are read once forward and once backward, and one tensor of
    their size is made, the gradient.

    Args:
        logits: (N, C, *), any number of further dimensions, floating point. Channels-last logits
            are read in place.
        target: Class indices (N, *) in [0, C), any integer dtype.
        class_weight: w, (C,), tensor or numbers; None for ones.
        ignore_index: Pixels with this label count nothing, whatever their logits; None: no such
            label.
        label_smoothing: s in [0, 1].
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (N, *) for "none", in the input's dtype (float32 for half inputs under
        autocast). The mean over nothing is 0, where torch returns NaN. Differentiable in logits.

    Raises:
        IndexError: a label out of range, on the CPU; on CUDA the loss is NaN.
        TypeError: an argument is not of the type named.
        ValueError: wrong shape, different devices, unknown reduction, s outside [0, 1].
    """
    segmentation.has_classes(logits)
    check.choice("reduction", reduction, check.REDUCTIONS)
    smoothing = check.at_least("label_smoothing", label_smoothing, 0)
    if smoothing > 1:
        raise ValueError(f"label_smoothing must be <= 1, got {smoothing}")
    target = segmentation.class_indices(logits, target)
    ignore_index = segmentation.ignored_index(ignore_index)
    weight = segmentation.class_weight_of(logits, class_weight)
    x, labels = segmentation.pixels(logits, target, per_image=False)
    if reduction == "none":
        widen = check.under_autocast(logits)
        loss = per_pixel(x, labels, weight, ignore_index, smoothing, 0.0, None, widen)
        return loss.view(target.shape)
    columns = ("target", "nll", *(("neg_log_prob",) if smoothing else ()))
    options = {"divisor": 1 if reduction == "sum" else -1, "floor": 1e-300, "smoothing": smoothing}
    term = segmentation.Term("cross_entropy", columns, 1.0, options, weight)
    reading = segmentation.Reading("softmax", ignore_index)
    return segmentation.fused(x, labels, [term], reading)[0][0]
