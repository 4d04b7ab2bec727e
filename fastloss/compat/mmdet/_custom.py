"""What the losses share that replace a head's own activation and accuracy."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy_of_classes(scores: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Per cent of the rows with a label below `classes` whose largest score is that of the label.

    scores (N, classes), labels (N,) -> (1,); 0 without such rows. mmdet picks the rows on the host,
    and returns shape () where there are none; a shape cannot depend on values without waiting for
    the device.
    """
    counts = labels < classes
    correct = (scores.topk(1, dim=1).indices[:, 0] == labels) & counts
    share = correct.sum(0, keepdim=True) / counts.sum().clamp(min=1)
    return 100 * share.to(torch.float32)


def check_num_classes(given: int, expected: int) -> int:
    """`given`, or AssertionError: the head has another number of classes than the loss."""
    if given != expected:
        raise AssertionError(f"num_classes must be {expected}, as given to the loss, got {given}")
    return given
