"""A small U-Net: three resolutions, 50 thousand parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from segmenter.data import CLASSES


class UNet(nn.Module):
    """Images (B, 1, H, W), H and W multiples of 4 -> logits (B, 3, H, W), as a tuple of one.

    SiLU rather than ReLU: at ReLU's kinks a difference in the last bit can grow, and two correct
    implementations of a loss would drift apart within twenty steps.
    """

    def __init__(self, widths: tuple[int, int, int] = (8, 20, 44)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.down1 = _block(1, fine)
        self.down2 = _block(fine, middle)
        self.bottom = _block(middle, coarse)
        self.up2 = _block(coarse + middle, middle)
        self.up1 = _block(middle + fine, fine)
        self.head = nn.Conv2d(fine, len(CLASSES), 1)
        # No class is preferred much at first: a wild start would amplify rounding.
        nn.init.normal_(self.head.weight, std=0.1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        # Background lies at about 0.35, nuclei above: apart, and on both sides of 0.
        one = self.down1(4 * images - 2)  # (B, fine, H, W)
        two = self.down2(F.avg_pool2d(one, 2))  # (B, middle, H/2, W/2)
        three = self.bottom(F.avg_pool2d(two, 2))  # (B, coarse, H/4, W/4)
        two = self.up2(torch.cat([_twice(three), two], 1))
        one = self.up1(torch.cat([_twice(two), one], 1))
        return (self.head(one),)


def _block(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), _norm(outputs), nn.SiLU()]
    return nn.Sequential(*layers)


def _norm(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


def _twice(features: torch.Tensor) -> torch.Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="nearest")
