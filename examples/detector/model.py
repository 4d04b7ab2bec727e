"""A small one-stage detector: at every cell of a stride-4 grid, a class score and a box."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from detector.data import STRIDE


class Detector(nn.Module):
    """Images (B, 1, H, W) -> class logits (N, 1) and boxes (N, 4), xyxy in pixels; N = B·H/4·W/4.

    SiLU rather than ReLU: at ReLU's kinks a difference in the last bit can grow, and two correct
    implementations of a loss would drift apart within twenty steps.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, width, 3, stride=2, padding=1),
            _norm(width),
            nn.SiLU(),
        )
        # The growing dilation lets a cell see about 100 pixels: the largest nuclei measure 39.
        self.blocks = nn.Sequential(*(_Block(width, dilation) for dilation in (1, 2, 4, 1)))
        self.score = nn.Conv2d(width, 1, 3, padding=1)
        self.edges = nn.Conv2d(width, 4, 3, padding=1)
        # Nearly the same answer everywhere at first: a wild start would amplify rounding, and two
        # runs that differ in the last bit only would drift apart.
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.edges.weight, std=0.01)
        nn.init.constant_(self.score.bias, -2.2)  # sigmoid(-2.2) = 0.1: objects are rare
        nn.init.constant_(self.edges.bias, 3.0)  # about 12 pixels from the centre to each edge

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.blocks(self.stem(images))  # (B, width, H/4, W/4)
        logits = self.score(features).permute(0, 2, 3, 1).reshape(-1, 1)  # (N, 1)
        edges = STRIDE * F.softplus(self.edges(features))  # (B, 4, H/4, W/4), distances in pixels
        left, top, right, bottom = edges.unbind(1)
        rows, columns = edges.shape[2:]
        y = (torch.arange(rows, device=edges.device)[:, None] + 0.5) * STRIDE
        x = (torch.arange(columns, device=edges.device)[None, :] + 0.5) * STRIDE
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)  # (B, H/4, W/4, 4)
        return logits, boxes.reshape(-1, 4)


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            _norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _norm(width),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.silu(features + self.body(features))


def _norm(width: int) -> nn.Module:
    return nn.GroupNorm(8, width)
