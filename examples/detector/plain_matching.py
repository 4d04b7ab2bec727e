"""uotod's detection loss (De Plaen et al. 2023) as it is usually written in plain PyTorch: a cost
and a loss for every pair of prediction and object, SciPy or Sinkhorn's iterations between them."""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detector import plain_losses


def focal_cost(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Of the object's class alone (Zhu et al. 2021): (B, P, C), (B, T) -> (B, P, T)."""
    own = logits.gather(-1, labels[:, None].expand(-1, logits.shape[1], -1)).sigmoid()
    positive = (1 - own) ** gamma * -(own + 1e-8).log()
    return positive - own**gamma * -(1 - own + 1e-8).log()


def of_pairs(loss, boxes: Tensor, targets: Tensor) -> Tensor:
    """A loss of aligned boxes (n, 4) for every pair: (B, P, 4), (B, T, 4) -> (B, P, T)."""
    shape = (*boxes.shape[:2], targets.shape[1], 4)
    value = loss(
        boxes[:, :, None].expand(shape).reshape(-1, 4),
        targets[:, None].expand(shape).reshape(-1, 4),
    )
    return value.flatten(1).sum(1).view(shape[:3]) if value.dim() > 1 else value.view(shape[:3])


def l1_distance(boxes: Tensor, targets: Tensor) -> Tensor:
    return (boxes - targets).abs().sum(-1)


def hungarian(cost: Tensor, mask: Tensor) -> Tensor:
    """Each object has one prediction, the others are background: one image after another.
    (B, P, T) -> (B, P, T + 1)."""
    matching = torch.zeros_like(cost)
    for image, (costs, real) in enumerate(zip(cost.cpu(), mask.cpu())):
        columns = real.nonzero().flatten()
        rows, chosen = linear_sum_assignment(costs[:, columns].numpy())
        matching[image, rows, columns[chosen]] = 1
    return torch.cat([matching, 1 - matching.sum(-1, keepdim=True)], dim=-1)


def sinkhorn(
    cost: Tensor,
    mask: Tensor,
    background: float,
    reg_pred: float,
    reg_target: float,
    reg_dimless: float = 0.12,
    iterations: int = 70,
) -> Tensor:
    """Unbalanced optimal transport with an entropy; predictions and objects have mass 1 / P, the
    background what is left. (B, P, T) -> (B, P, T + 1)."""
    count = cost.shape[1]
    reg = reg_dimless / (math.log(2 * count) + 1)
    cost = cost * mask[:, None]
    cost = torch.cat([cost, torch.full_like(cost[..., :1], background)], dim=-1)
    left = count - mask.sum(1, keepdim=True)
    b = torch.cat([mask, left], dim=1).to(cost.dtype) / count  # (B, T + 1)
    kernel = torch.exp(-cost / cost.max() / reg)
    of_pred, of_target = reg_pred / (reg_pred + reg), reg_target / (reg_target + reg)
    u = cost.new_ones(cost.shape[:2])  # (B, P)
    for _ in range(iterations):
        v = (b / (kernel * u[..., None]).sum(1)) ** of_target
        u = (1 / count / (kernel * v[:, None]).sum(2)) ** of_pred
    v = (b / (kernel * u[..., None]).sum(1)) ** of_target
    return count * u[..., None] * kernel * v[:, None]


def detection_loss(
    logits: Tensor,  # (B, P, C)
    boxes: Tensor,  # (B, P, 4)
    labels: Tensor,  # (B, T)
    targets: Tensor,  # (B, T, 4)
    mask: Tensor,  # (B, T)
    matching: Tensor,  # (B, P, T + 1)
    l1_weight: float,
) -> Tensor:
    """Focal loss of every prediction with every object and the background, L1 and GIoU with every
    object, weighted with the matching."""
    count, classes = logits.shape[1:]
    no_class = torch.full_like(labels[:, :1], classes)
    answers = torch.cat([labels, no_class], dim=1)[:, None].expand(-1, count, -1)  # (B, P, T + 1)
    repeated = logits[:, :, None].expand(*answers.shape, classes).reshape(-1, classes)
    focal = plain_losses.sigmoid_focal_loss(repeated, answers.reshape(-1)).sum(-1)
    score = matching * focal.view(answers.shape)
    distance = l1_weight * of_pairs(l1_distance, boxes, targets)
    overlap = of_pairs(plain_losses.giou_loss, boxes, targets)
    matched = matching[..., :-1] * mask[:, None]
    positives = matched.sum().clamp(min=1)
    return (score.sum() + (matched * (distance + overlap)).sum()) / positives
