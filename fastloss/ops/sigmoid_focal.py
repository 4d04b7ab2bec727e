"""Binary losses with a modulating factor: focal, quality focal, varifocal, Gaussian focal, BCE."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._library import register
from ..reference import sigmoid_focal as reference
from . import _arguments as check

_op = register(
    "sigmoid_focal",
    "(Tensor logits, Tensor target, Tensor? score, Tensor? class_weight, Tensor? weight, "
    "Tensor? avg_factor, str kind, bool activated, float alpha, float gamma, float pos_weight, "
    "float neg_weight, int? ignore_index, float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "target", "score", "weight"),
    check=reference.check,
)


def _loss(
    kind: str,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    avg_factor: float | Tensor | None,
    *,
    name: str = "logits",
    score: Tensor | None = None,
    class_weight: Tensor | None = None,
    per_row: bool = False,
    activated: bool = False,
    alpha: float = 0.0,
    gamma: float = 0.0,
    pos_weight: float = 1.0,
    neg_weight: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Check what all kinds share and call the op; `per_row` kinds are summed over the last dim."""
    check.flag("activated", activated)
    check.floating(name, logits)
    check.tensor_on("target", target, name, logits)
    if target.dim() == logits.dim() - 1 and target.shape == logits.shape[:-1]:
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"target class indices must be integers, got {target.dtype}")
        target = target.to(torch.int64)
    elif target.shape != logits.shape:
        raise ValueError(
            f"target must have the shape of {name}, {tuple(logits.shape)}, or hold class indices "
            f"of shape {tuple(logits.shape[:-1])}, got {tuple(target.shape)}"
        )
    elif target.dtype not in check.FLOATING:
        target = target.to(logits.dtype)
    else:
        logits, target = check.promote(logits, target)
    shape = logits.shape
    widen, row_weight = check.under_autocast(logits), None
    if per_row:
        weight = check.weight_like(weight, shape[:-1], name, logits)
        if reduction == "none":
            row_weight, weight = weight, None
        elif weight is not None:
            weight = weight[..., None]
    weight = check.weight_like(weight, shape, name, logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, name, logits)
    loss = _op(
        logits, target, score, class_weight, weight, avg_factor, kind, activated, alpha,
        gamma, pos_weight, neg_weight, ignore_index, divisor, reduction,
        widen or (per_row and reduction == "none"),
    )  # fmt: skip
    if not per_row or reduction != "none":
        return loss
    loss = loss.sum(-1)  # of float32 for half logits, so that a row is rounded once
    loss = loss if row_weight is None else loss * row_weight
    return loss.to(loss.dtype if widen else logits.dtype)


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    activated: bool = False,
    weight: Tensor | None = None,
    reduction: str = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Sigmoid focal loss, :math:`a\,(q t + p (1-t))^\gamma\,\mathrm{bce}(x, t)` per element.

    p = sigmoid(x), q = 1 - p, :math:`a = \alpha t + (1-\alpha)(1-t)`.
    Source: Lin et al., arXiv 1708.02002.

    Args:
        logits: Any shape with a dense target, (*, C) with class indices; floating point.
        target: Dense values in [0, 1] of the same shape (any dtype), or integer class indices (*)
            in [0, C], C meaning background; no one-hot is ever built.
        alpha: Weight of positives, 1 - alpha that of negatives; negative: no balancing.
        gamma: Exponent of the modulating factor, >= 0.
        activated: `logits` are probabilities; their logarithms are floored at -100.
        weight: Broadcasts to the shape of `logits`.
        reduction: "none", "mean" (over all elements) or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean".

    Returns:
        The shape of `logits` for "none", else a scalar, in the input's dtype (float32 for half
        inputs under autocast). 0 for empty inputs. Differentiable in logits, dense target, weight.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or reduction, negative gamma.
        IndexError: a class index out of range on CPU or in debug mode. On CUDA the loss is NaN.
    """
    alpha, gamma = check.number("alpha", alpha), check.at_least("gamma", gamma, 0)
    return _loss(
        "focal", logits, target, weight, reduction, avg_factor,
        activated=activated, alpha=alpha, gamma=gamma,
    )  # fmt: skip


def quality_focal_loss(
    logits: Tensor,
    target: Tensor | tuple[Tensor, Tensor],
    *,
    beta: float = 2.0,
    activated: bool = False,
    weight: Tensor | None = None,
    reduction: str = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Quality focal loss, :math:`\sum_c |p_c - t_c|^\beta\,\mathrm{bce}(x_c, t_c)` per row.

    Source: Li et al., arXiv 2006.04388.

    Args:
        logits: (*, C), floating point.
        target: Dense qualities (*, C) in [0, 1], or a pair (class indices (*) in [0, C] with C
            background, qualities (*) in [0, 1]).
        beta: Exponent of the modulating factor, >= 0.
        activated: `logits` are probabilities.
        weight: Broadcasts to (*), a weight per row.
        reduction: "none", "mean" (over rows) or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean".

    Returns:
        (*) for "none", else a scalar. Differentiable in logits, qualities and weight.

    Raises:
        As `sigmoid_focal_loss`.
    """
    beta = check.at_least("beta", beta, 0)
    check.floating("logits", logits)
    if logits.dim() == 0:
        raise ValueError("logits must have shape (*, C), got ()")
    score = None
    if isinstance(target, (tuple, list)):
        if len(target) != 2:
            raise ValueError(f"target must be (labels, scores), got {len(target)} elements")
        target, score = target
        check.tensor_on("target[0]", target, "logits", logits)
        check.floating("target[1]", score)
        check.tensor_on("target[1]", score, "logits", logits)
        if target.shape != logits.shape[:-1]:
            raise ValueError(
                f"target[0] must have shape {tuple(logits.shape[:-1])}, got {tuple(target.shape)}"
            )
        check.same_shape("target[1]", score, "target[0]", target)
    return _loss(
        "quality_focal", logits, target, weight, reduction, avg_factor,
        score=score, per_row=True, activated=activated, gamma=beta,
    )  # fmt: skip


def varifocal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    iou_weighted: bool = True,
    weight: Tensor | None = None,
    reduction: str = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Varifocal loss per element.

    :math:`t\,\mathrm{bce}` where t > 0, :math:`\alpha |p-t|^\gamma\,\mathrm{bce}` elsewhere.
    The gradient flows through the factor. Source: Zhang et al., arXiv 2008.13367.

    Args:
        logits: Any shape with a dense target, (*, C) with class indices; floating point.
        target: Dense IoU-aware scores in [0, 1] of the same shape, or class indices (*) in [0, C].
        alpha: Weight of negatives, >= 0.
        gamma: Exponent of the modulating factor of negatives, >= 0.
        iou_weighted: Weight positives with their target; otherwise with 1.
        weight, reduction, avg_factor: As `sigmoid_focal_loss`.

    Returns:
        As `sigmoid_focal_loss`. Raises likewise, and ValueError for negative alpha.
    """
    alpha, gamma = check.at_least("alpha", alpha, 0), check.at_least("gamma", gamma, 0)
    return _loss(
        "varifocal", logits, target, weight, reduction, avg_factor,
        alpha=alpha, gamma=gamma, pos_weight=float(check.flag("iou_weighted", iou_weighted)),
    )  # fmt: skip


def gaussian_focal_loss(
    probs: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    gamma: float = 4.0,
    pos_weight: float = 1.0,
    neg_weight: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Focal loss of heat maps per element.

    :math:`-[t=1]\,w_+ (1-p)^\alpha \ln p - w_- (1-t)^\gamma p^\alpha \ln(1-p)`; 1e-12 is added
    inside both logarithms. Source: Law & Deng (CornerNet), arXiv 1808.01244.

    Args:
        probs: Probabilities in [0, 1], any shape, floating point.
        target: Gaussian bumps in [0, 1] of the same shape; exactly 1 marks a centre.
        alpha, gamma: Exponents of the modulating factor and of the fade around centres, >= 0.
        pos_weight, neg_weight: Factors of the two parts, >= 0.
        weight, reduction, avg_factor: As `sigmoid_focal_loss`.

    Returns:
        As `sigmoid_focal_loss`. Raises likewise.
    """
    alpha, gamma = check.at_least("alpha", alpha, 0), check.at_least("gamma", gamma, 0)
    pos_weight = check.at_least("pos_weight", pos_weight, 0)
    neg_weight = check.at_least("neg_weight", neg_weight, 0)
    return _loss(
        "gaussian_focal", probs, target, weight, reduction, avg_factor,
        name="probs", alpha=alpha, gamma=gamma, pos_weight=pos_weight, neg_weight=neg_weight,
    )  # fmt: skip


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int | None = -100,
    avg_non_ignore: bool = False,
    weight: Tensor | None = None,
    reduction: str = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Binary cross entropy with logits, :math:`-(c\,t \ln p + (1-t) \ln(1-p))` per element.

    Args:
        logits: Any shape with a dense target, (*, C) with class indices; floating point.
        target: Dense values in [0, 1] of the same shape, or class indices (*) in [0, C].
            Dense entries that are negative or equal `ignore_index`, and rows whose index is
            `ignore_index`, have loss 0.
        class_weight: c, weight of the positive part for each entry of the last dimension, (C).
        ignore_index: See target; None ignores nothing.
        avg_non_ignore: Let "mean" divide by the number of entries that are not ignored.
        weight, reduction, avg_factor: As `sigmoid_focal_loss`.

    Returns:
        As `sigmoid_focal_loss`. Raises likewise, and ValueError for a class_weight of wrong shape.
    """
    check.floating("logits", logits)
    check.tensor_on("target", target, "logits", logits)
    check.flag("avg_non_ignore", avg_non_ignore)
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, type(None))):
        raise TypeError(
            f"ignore_index must be an integer or None, got {type(ignore_index).__name__}"
        )
    if class_weight is not None:
        if not isinstance(class_weight, Tensor):
            class_weight = check.constant(check.numbers("class_weight", class_weight), logits)
        check.floating("class_weight", class_weight)
        check.tensor_on("class_weight", class_weight, "logits", logits)
        if class_weight.shape != logits.shape[-1:]:
            raise ValueError(
                f"class_weight must have shape {tuple(logits.shape[-1:])}, "
                f"got {tuple(class_weight.shape)}"
            )
        if class_weight.requires_grad:
            raise ValueError("class_weight has no gradient here: pass class_weight.detach()")
    if avg_non_ignore and avg_factor is None and reduction == "mean":
        valid = target >= 0
        if ignore_index is not None:
            valid &= target != ignore_index
        per_entry = logits.shape[-1] if target.dim() < logits.dim() else 1
        avg_factor = (valid.sum() * per_entry).clamp(min=1).to(torch.float32)
    return _loss(
        "binary_cross_entropy", logits, target, weight, reduction, avg_factor,
        class_weight=class_weight, ignore_index=ignore_index,
    )  # fmt: skip
