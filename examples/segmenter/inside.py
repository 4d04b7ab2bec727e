"""What two of the losses look at: the hard pixels of OHEM, and the curve whose area is Lovász's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fastloss import functional as fused
from segmenter.data import CLASSES, Labelled
from segmenter.evaluate import logits_of
from segmenter.plain_losses import hard_pixels


class Curve(NamedTuple):
    """One class of one picture. J(t) is the Jaccard loss when the pixels with an error above t are
    the wrong ones: a staircase, `height[i]` from `t[i]` to `t[i + 1]`."""

    t: np.ndarray  # (P + 2,) rising from 0 to 1, P pixels
    height: np.ndarray  # (P + 1,)
    loss: float  # Lovász loss of the class, from fastloss

    @property
    def area(self) -> float:
        return float((np.diff(self.t) * self.height).sum())

    def at(self, t: float) -> float:
        return float(self.height[np.searchsorted(self.t, t, side="right") - 1])


class Hard(NamedTuple):
    """A square of a training batch, and its pixels that OHEM keeps."""

    image: np.ndarray  # (H, W)
    classes: np.ndarray  # (H, W)
    kept: np.ndarray  # (H, W) bool
    share: float  # kept of all pixels of the batch


def hard_square(
    model: nn.Module, images: torch.Tensor, target: torch.Tensor, thresh: float, min_kept: int
) -> Hard:
    """Of the batch, the square in which most pixels are not background."""
    with torch.no_grad():
        kept = hard_pixels(model(images)[0], target, thresh, min_kept)
    busiest = int((target > 0).sum((1, 2)).argmax())
    square = (tensor[busiest].cpu().numpy() for tensor in (images[:, 0], target, kept))
    return Hard(*square, share=float(kept.double().mean()))


def jaccard_curves(model: nn.Module, picture: Labelled) -> list[Curve]:
    """The curve of every class for a whole picture."""
    logits = logits_of(model, picture.image)
    target = torch.from_numpy(np.ascontiguousarray(picture.classes))[None].to(logits.device)
    p = logits.double().softmax(1)[0].cpu().numpy()  # (3, H, W)
    return [
        jaccard_curve(
            np.abs((picture.classes == c) - p[c]),
            picture.classes == c,
            float(fused.lovasz_softmax(logits, target, classes=[c])),
        )
        for c in range(len(CLASSES))
    ]


def jaccard_curve(errors: np.ndarray, truth: np.ndarray, loss: float) -> Curve:
    """Errors in [0, 1] and whether a pixel is of the class, of one shape."""
    order = np.argsort(errors, axis=None)
    rising, positive = errors.flat[order], truth.flat[order]
    # Above t[i] lie the errors i, i + 1, ...: so many positives and negatives are wrong there.
    wrong_positives = positive[::-1].cumsum()[::-1]
    wrong_negatives = (~positive)[::-1].cumsum()[::-1]
    jaccard = 1 - (positive.sum() - wrong_positives) / (positive.sum() + wrong_negatives)
    t = np.concatenate([[0.0], rising, [1.0]])
    return Curve(t, np.append(jaccard, 0.0), loss)
