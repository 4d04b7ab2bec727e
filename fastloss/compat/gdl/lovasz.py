"""LovaszSoftmax (geo-deep-learning, losses/lovasz_loss.py)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastloss import functional

_log = logging.getLogger(__name__)


class LovaszSoftmax(nn.Module):
    """Lovász-Softmax (Berman et al., https://arxiv.org/abs/1705.08790) of every image by itself,
    the mean over images.

    Args:
        ignore_index: label of pixels that count nothing; None: no such label.
        only_present: the mean over the classes that occur among the valid pixels of an image;
            False: over all classes.
        weight: kept and logged, but not used, as upstream.

    Call: ``loss(logits, labels)`` -> scalar. logits (N, C, H, W), or any number of further
    dimensions; labels: class ids, N images with as many pixels as the logits, any dtype. Labels
    that are no class are background of every class. An image without valid pixels, or without any
    class where only_present, has loss 0 and counts. RuntimeError: another number of labels.

    Departures: no image gives 0 (upstream: ZeroDivisionError), and fewer labels than images are an
    error (upstream leaves images out). Pixels with equal errors keep their order.
    """

    def __init__(
        self,
        ignore_index: int | None = None,
        only_present: bool = True,
        weight: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.only_present = only_present
        self.weight = weight
        if weight is not None:
            _log.warning("LovaszSoftmax does not use weight: it balances classes by itself")

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, C, *) and class ids (N, *) -> scalar."""
        images, pixels = len(logits), logits.shape[:1] + logits.shape[2:]
        if labels.shape[:1] != (images,) or labels.numel() != pixels.numel():
            raise RuntimeError(
                f"labels must have the shape {tuple(pixels)}, got {tuple(labels.shape)}"
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            labels = labels.long()
        return functional.lovasz_softmax(
            logits,
            labels.reshape(pixels),
            classes="present" if self.only_present else "all",
            per_image=True,
            ignore_index=self.ignore_index,
            strict=False,
        )
