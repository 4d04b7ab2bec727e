"""The losses that geo-deep-learning has of its own, as slowly and plainly as they can be written.

The project is on no package index, so that this module is what `fastloss.compat.gdl` is compared
with. It is written from the formulas (see the docstrings there), computes in float64 whatever the
dtype of the logits, has its gradients from autograd, and uses nothing of fastloss.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ohem_cross_entropy(
    predict: Tensor,  # (N, C, H, W)
    target: Tensor,  # (N, H, W)
    thresh: float = 0.6,
    min_kept: int = 0,
    weight: list[float] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """The hard pixels are chosen with a sorted list of Python numbers."""
    classes = predict.shape[1]
    log_p = predict.double().movedim(1, -1).reshape(-1, classes).log_softmax(1)  # (pixels, C)
    labels = target.long().reshape(-1).tolist()
    valid = [pixel for pixel, label in enumerate(labels) if label != ignore_index]
    p = {pixel: log_p[pixel, labels[pixel]].exp().item() for pixel in valid}
    kept = valid
    if min_kept < len(valid):
        threshold = thresh
        if min_kept > 0:
            threshold = max(thresh, sorted(p.values())[min_kept - 1])
        kept = [pixel for pixel in valid if p[pixel] <= threshold]
    if not kept:
        return torch.zeros_like(predict).double().mul(predict.nan_to_num(0)).sum()
    kept_labels = [labels[pixel] for pixel in kept]
    w = torch.tensor([1.0] * classes if weight is None else weight, dtype=torch.float64)
    return -(w[kept_labels] * log_p[kept, kept_labels]).sum() / w[kept_labels].sum()


def lovasz_softmax(
    logits: Tensor,  # (N, C, *)
    labels: Tensor,  # (N, *)
    ignore_index: int | None = None,
    only_present: bool = True,
) -> Tensor:
    """Per image the mean over classes of sum_k e_k (J_k - J_{k-1}), J_k the Jaccard loss when the
    k pixels with the largest errors are wrong."""
    classes, total = logits.shape[1], torch.zeros((), dtype=torch.float64)
    for image, label in zip(logits.double(), labels.long(), strict=True):
        p = image.reshape(classes, -1).softmax(0)  # (C, pixels)
        y = label.reshape(-1)
        valid = torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
        p, y = p[:, valid], y[valid]
        counted = [c for c in range(classes) if not only_present or (y == c).any()]
        losses = [_lovasz_of_class(p[c], y == c) for c in counted] if len(y) else []
        total = total + (sum(losses) / len(losses) if losses else 0 * image.nan_to_num(0).sum())
    return total / len(logits)


def _lovasz_of_class(p: Tensor, truth: Tensor) -> Tensor:
    """(pixels,) probabilities of the class, and whether a pixel has it."""
    errors = (truth.double() - p).abs()
    order = errors.detach().sort(descending=True, stable=True).indices.tolist()
    positives, wrong_positives, wrong_negatives = int(truth.sum()), 0, 0
    loss, before = torch.zeros((), dtype=torch.float64), 0.0
    for pixel in order:
        wrong_positives += int(truth[pixel])
        wrong_negatives += 1 - int(truth[pixel])
        jaccard = 1 - (positives - wrong_positives) / (positives + wrong_negatives)
        loss, before = loss + errors[pixel] * (jaccard - before), jaccard
    return loss


def boundary_loss(
    pred: Tensor,  # (N, C, H, W)
    gt: Tensor,  # (N, H, W)
    theta0: int = 19,
    theta: int = 19,
) -> Tensor:
    """Mean over images and classes of 1 - F1 of the soft boundaries."""
    p = pred.double().softmax(1)
    truth = torch.stack([(gt.long() == c).double() for c in range(pred.shape[1])], 1)
    edge, true_edge = (_pool(1 - x, theta0) - (1 - x) for x in (p, truth))
    near, true_near = _pool(edge, theta), _pool(true_edge, theta)
    precision = (edge * true_near).sum((2, 3)) / (edge.sum((2, 3)) + 1e-7)
    recall = (near * true_edge).sum((2, 3)) / (true_edge.sum((2, 3)) + 1e-7)
    return (1 - 2 * precision * recall / (precision + recall + 1e-7)).mean()


def _pool(x: Tensor, window: int) -> Tensor:
    """The maximum of each window (N, C, H, W); of equal values the first has the gradient."""
    side = window // 2
    padded = torch.nn.functional.pad(x, (side, side, side, side), value=-torch.inf)
    windows = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(-2)
    # NumPy promises the first of equal maxima, torch does not.
    first = torch.from_numpy(windows.detach().numpy().argmax(-1))
    return windows.gather(-1, first[..., None])[..., 0]
