"""The losses of pixels as terms of one read of the logits; None for what one read cannot do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastloss import losses
from fastloss.compat import smp
from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.vis4d._native import reduction_of
from fastloss.compat.vis4d.cross_entropy import CrossEntropyLoss, SegCrossEntropyLoss
from fastloss.ops._arguments import under_autocast

IGNORED = 255  # default of vis4d


def torch_cross_entropy(
    loss: nn.CrossEntropyLoss, logits: Tensor, target: Tensor
) -> PixelTerm | None:
    """torch.nn.CrossEntropyLoss of class ids."""
    fits = (
        loss.reduction in ("mean", "sum")
        and target.dtype in (torch.int64, torch.uint8)
        and _is_label_map(logits, target)
        and 0 <= loss.label_smoothing <= 1
        and _are_class_weights(loss.weight, logits)
    )
    if not fits:
        return None
    options = {
        "label_smoothing": loss.label_smoothing,
        "reduction": loss.reduction,
        "class_weight": loss.weight,
        "empty": math.nan,
    }
    return PixelTerm(
        "cross_entropy",
        logits,
        target,
        "multiclass",
        options,
        _ignored(loss.ignore_index, target),
        error=IndexError,
    )


def torch_bce(loss: nn.BCEWithLogitsLoss, logits: Tensor, target: Tensor) -> PixelTerm | None:
    """torch.nn.BCEWithLogitsLoss without weights, or with one for all positive pixels."""
    positive = loss.pos_weight
    fits = (
        loss.reduction in ("mean", "sum")
        and loss.weight is None
        and logits.dim() > 1
        and target.shape == logits.shape
        and _keeps_dtype(logits, target)
        and (positive is None or (positive.numel() == 1 and _is_constant(positive, logits)))
    )
    if not fits:
        return None
    if positive is not None:
        positive = positive.reshape(1).expand(logits.shape[1])
    options = {"smoothing": 0.0, "reduction": loss.reduction, "pos_weight": positive}
    return one_channel(PixelTerm("soft_bce", logits, target, "multilabel", options))


def vis4d_cross_entropy(loss: CrossEntropyLoss, output: Tensor, target: Tensor) -> PixelTerm | None:
    """vis4d's CrossEntropyLoss with a mean or a sum."""
    weights = loss.class_weights
    if isinstance(weights, Tensor):
        weights = weights.to(output)
        if not _are_class_weights(weights, output):
            return None
    elif weights is not None:
        weights = [float(weight) for weight in weights]
        if len(weights) != output.shape[1]:
            return None
    return _vis4d(loss, output, target, weights)


def vis4d_seg_cross_entropy(
    loss: SegCrossEntropyLoss, output: Tensor, target: Tensor
) -> PixelTerm | None:
    """vis4d's SegCrossEntropyLoss where there is nothing to crop."""
    return _vis4d(loss, output, target, None)


def _vis4d(loss: Any, output: Tensor, target: Tensor, weights: Any) -> PixelTerm | None:
    reduction = reduction_of(loss.reducer)
    integer = not target.is_floating_point() and target.dtype != torch.bool
    if reduction not in ("mean", "sum") or not integer or not _is_label_map(output, target):
        return None
    options = {
        "reduction": reduction,
        "avg_factor": target.numel() if reduction == "mean" else None,  # ignored ones count
        "class_weight": weights,
    }
    ignored = _ignored(IGNORED, target)
    return PixelTerm(
        "cross_entropy", output, target, "multiclass", options, ignored, error=IndexError
    )


def smp_loss(loss: Any, y_pred: Tensor, y_true: Tensor) -> PixelTerm | None:
    """A loss of fastloss.compat.smp."""
    term = loss.term_of(y_pred, y_true)
    if term is None:
        return None
    return one_channel(term._replace(ignore_index=_ignored(term.ignore_index, term.target)))


def smp_focal(loss: smp.FocalLoss, y_pred: Tensor, y_true: Tensor) -> PixelTerm | None:
    """FocalLoss of logits; it makes its own of probabilities."""
    return smp_loss(loss, y_pred, y_true) if loss.from_logits else None


def smp_cross_entropy(
    loss: smp.SoftCrossEntropyLoss, y_pred: Tensor, y_true: Tensor
) -> PixelTerm | None:
    """SoftCrossEntropyLoss of logits with the classes where the others have them."""
    return smp_loss(loss, y_pred, y_true) if loss.dim == 1 and y_pred.dim() > 1 else None


def native_cross_entropy(
    loss: losses.CrossEntropyLoss, logits: Tensor, target: Tensor
) -> PixelTerm | None:
    """fastloss.CrossEntropyLoss."""
    options = loss._options()
    ignored = options.pop("ignore_index")
    if options["reduction"] not in ("mean", "sum"):
        return None
    return _native("cross_entropy", logits, target, "multiclass", options, ignored)


def native_term(loss: Any, logits: Tensor, target: Tensor) -> PixelTerm | None:
    """Another loss of fastloss that is one term."""
    options = loss._options()
    if options.pop("group") is not None:
        return None
    mode, ignored = options.pop("mode", "multiclass"), options.pop("ignore_index")
    from_logits = options.pop("from_logits", True)
    return _native(loss.term, logits, target, mode, options, ignored, from_logits)


def _native(
    kind: str, logits: Tensor, target: Tensor, mode: str, options: Any, ignored: Any, *rest: Any
) -> PixelTerm | None:
    if mode == "multiclass" and (target.is_floating_point() or not _is_label_map(logits, target)):
        return None
    ignored = _ignored(ignored, target)
    return PixelTerm(kind, logits, target, mode, options, ignored, *rest, error=IndexError)


def one_channel(term: PixelTerm) -> PixelTerm:
    """A term on the logits of one class, by whichever mode, as (N, 1, pixels) of "binary"."""
    if term.mode == "multiclass" or term.logits.dim() < 2 or term.logits.shape[1] != 1:
        return term
    logits, target = term.logits.flatten(1)[:, None], term.target.flatten(1)[:, None]
    return term._replace(logits=logits, target=target, mode="binary")


def _is_label_map(logits: Tensor, target: Tensor) -> bool:
    """Whether they are (N, C, *) and (N, *)."""
    return logits.dim() > 1 and target.shape == (logits.shape[0], *logits.shape[2:])


def _keeps_dtype(logits: Tensor, target: Tensor) -> bool:
    """Whether torch's result, which has the dtype of the target, has that of the logits."""
    if torch.is_autocast_enabled(logits.device.type):  # float32 of all but float64
        return target.is_floating_point() and torch.float64 not in (logits.dtype, target.dtype)
    return target.dtype == logits.dtype


def _is_constant(weight: Tensor, logits: Tensor) -> bool:
    """Whether torch takes the weight with these logits, and it needs no gradient."""
    fits = weight.dtype == logits.dtype or (
        weight.dtype == torch.float32 and under_autocast(logits)
    )
    return fits and weight.device == logits.device and not weight.requires_grad


def _are_class_weights(weight: Tensor | None, logits: Tensor) -> bool:
    return weight is None or (weight.shape == logits.shape[1:2] and _is_constant(weight, logits))


def _ignored(index: int | None, target: Tensor) -> int | None:
    """None for a label that no target of this dtype can have, so that losses with different ones
    agree."""
    if not isinstance(index, int) or target.is_floating_point() or target.dtype == torch.bool:
        return index
    limits = torch.iinfo(target.dtype)
    return index if limits.min <= index <= limits.max else None
