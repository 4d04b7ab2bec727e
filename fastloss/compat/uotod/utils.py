"""Inputs of uotod's losses and matchers (its module ``uotod.utils``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Batch = dict[str, Tensor]


def convert_target_to_dict(target: Sequence[Batch]) -> Batch:
    """Targets of several images in one batch, padded with zeros to the longest.

    Args:
        target: one dict per image: "boxes" (M_i, 4) and "labels" (M_i,), M_i may be 0. Labels may
            be one-hot (M_i, C), then they keep their dtype.

            A single label is that of all boxes of its image.

    Returns:
        "boxes" (B, M, 4) float32, "labels" (B, M) int64, "mask" (B, M) bool, False for padding; on
        the device of the boxes.

    Raises:
        RuntimeError: an image has not as many labels as boxes.
    """
    boxes = [image["boxes"] for image in target]
    device = boxes[0].device
    labels = [_labels(image).to(device) for image in target]
    real = [x.new_ones(len(x), dtype=torch.bool, device=device) for x in boxes]
    return {
        "boxes": pad_sequence([x.to(device, torch.float32) for x in boxes], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True),
        "mask": pad_sequence(real, batch_first=True),
    }


def _labels(image: Batch) -> Tensor:
    """(M_i,) int64, or one-hot (M_i, C)"""
    labels = image["labels"]
    labels = labels if labels.dim() > 1 else labels.long()
    return labels.expand(len(image["boxes"]), *labels.shape[1:])


def box_cxcywh_to_xyxy(x: Tensor) -> Tensor:
    """Corners x1 y1 x2 y2 of boxes (*, 4) given by centre and size, cx cy w h. ValueError: another
    last dimension."""
    if x.shape[-1:] != (4,):
        raise ValueError(f"x must have shape (*, 4), got {tuple(x.shape)}")
    centre, half = x[..., :2], 0.5 * x[..., 2:]
    return torch.cat((centre - half, centre + half), -1)


def stack_input(input: Batch | Sequence[Batch] | None) -> Batch | None:
    """An input given whole or image by image: "pred_logits" (B, P, C), "pred_boxes" (B, P, 4)."""
    if input is None or isinstance(input, dict):
        return input
    return {name: torch.stack([image[name] for image in input]) for name in input[0]}


def pad_target(target: Batch | Sequence[Batch]) -> Batch:
    """A target given whole or image by image."""
    return target if isinstance(target, dict) else convert_target_to_dict(target)
