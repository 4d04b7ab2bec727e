"""Boxes out of the network's answer, and how many of them are right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

SCORE = 0.4  # an answer below this is not reported; set on the training side of the picture
_SAME = 0.4  # two answers overlapping more than this are one object
_HIT = 0.5  # IoU from which an answer counts as right


class Detections(NamedTuple):
    """What was found in one picture, best score first."""

    boxes: np.ndarray  # (K, 4) xyxy in pixels
    scores: np.ndarray  # (K,)
    hits: np.ndarray  # (K,) bool, right at IoU 0.5
    found: np.ndarray  # (M,) bool, which true boxes were hit

    @property
    def f1(self) -> float:
        return 2 * float(self.hits.sum()) / max(len(self.hits) + len(self.found), 1)


@torch.no_grad()
def detect(model: nn.Module, image: np.ndarray, truth: np.ndarray) -> Detections:
    """Run the model on one (H, W) image and compare with its (M, 4) true boxes."""
    device = next(model.parameters()).device
    logits, boxes = model(torch.from_numpy(np.ascontiguousarray(image))[None, None].to(device))
    scores = logits[:, 0].sigmoid().cpu().numpy()
    kept = _suppress(boxes.cpu().numpy(), scores)
    found_boxes = boxes.cpu().numpy()[kept]
    hits, found = _match(_iou(found_boxes, truth))
    return Detections(found_boxes, scores[kept], hits, found)


def _suppress(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Non-maximum suppression: indices of the answers kept, best first."""
    order = np.flatnonzero(scores >= SCORE)
    order = order[np.argsort(-scores[order], kind="stable")]
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[_iou(boxes[best : best + 1], boxes[rest])[0] <= _SAME]
    return np.array(kept, dtype=np.int64)


def _match(iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, M) overlaps, best score first -> hits (K,), found (M,); each true box is hit once."""
    hits, found = np.zeros(iou.shape[0], dtype=bool), np.zeros(iou.shape[1], dtype=bool)
    for index, row in enumerate(iou):
        free = np.where(found, 0.0, row)
        if free.size and free.max() >= _HIT:
            hits[index] = found[free.argmax()] = True
    return hits, found


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(K, 4), (M, 4) -> (K, M) IoU of xyxy boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    area_first = (first[:, 2:] - first[:, :2]).prod(axis=1)
    area_second = (second[:, 2:] - second[:, :2]).prod(axis=1)
    return intersection / (area_first[:, None] + area_second[None] - intersection)
