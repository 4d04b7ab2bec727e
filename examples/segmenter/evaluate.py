"""How good a segmentation is: Dice of the classes, and F1 of the borders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from segmenter.data import BORDER, CLASSES, disc

TOLERANCE = 2  # pixels by which a border may be beside the true one


class Segmentation(NamedTuple):
    """The answer for one picture, and its scores."""

    classes: np.ndarray  # (H, W)
    dice: float  # mean over the classes
    boundary_f1: float


@torch.no_grad()
def segment(model: nn.Module, image: np.ndarray, truth: np.ndarray) -> Segmentation:
    """Run the model on one (H, W) image and compare with its (H, W) true classes."""
    classes = logits_of(model, image)[0].argmax(0).cpu().numpy()  # (H, W)
    return Segmentation(classes, mean_dice(classes, truth), boundary_f1(classes, truth))


@torch.no_grad()
def logits_of(model: nn.Module, image: np.ndarray) -> torch.Tensor:
    """(H, W) -> (1, 3, H, W)."""
    device = next(model.parameters()).device
    (logits,) = model(torch.from_numpy(np.ascontiguousarray(image))[None, None].to(device))
    return logits


def mean_dice(classes: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of each class, mean over the classes; 1 where both are empty."""
    scores = []
    for c in range(len(CLASSES)):
        found, true = classes == c, truth == c
        total = found.sum() + true.sum()
        scores.append(2 * (found & true).sum() / total if total else 1.0)
    return float(np.mean(scores))


def boundary_f1(classes: np.ndarray, truth: np.ndarray) -> float:
    """F1 of the border pixels: found ones are right with a true one within the tolerance, and true
    ones are found with a found one there."""
    found, true = classes == BORDER, truth == BORDER
    precision = (found & _widened(true)).sum() / max(found.sum(), 1)
    recall = (true & _widened(found)).sum() / max(true.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _widened(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels not farther than the tolerance from one that is set."""
    height, width = pixels.shape
    around = np.pad(pixels, TOLERANCE)
    wide = np.zeros_like(pixels)
    for y, x in disc(TOLERANCE):
        top, left = TOLERANCE + y, TOLERANCE + x
        wide |= around[top : top + height, left : left + width]
    return wide
