"""A detection loss with its matching, as De Plaen et al. (CVPR 2023) define it: class and box loss
of every pair, weighted with the matching."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.baselines.linear_assignment import linear_assignment
from bench.baselines.pairwise_iou import pairwise_iou
from bench.baselines.sinkhorn import sinkhorn


def detection_loss(
    logits: Tensor,  # (B, P, C)
    boxes: Tensor,  # (B, P, 4)
    labels: Tensor,  # (B, T), 0 is the background
    target_boxes: Tensor,  # (B, T, 4)
    mask: Tensor,  # (B, T), False for padding
    anchors: Tensor,  # (P, 4)
    *,
    matcher: str,
) -> Tensor:
    with torch.no_grad():
        if matcher == "hungarian":
            matching = _hungarian(logits, boxes, labels, target_boxes, mask)
        else:
            matching = _unbalanced(anchors.expand_as(boxes), target_boxes, mask)
    at_targets, at_background = matching[..., :-1], matching[..., -1]
    real = mask[:, None, :]
    log_p = logits.log_softmax(-1)
    of_targets = -log_p.gather(-1, labels[:, None, :].expand(-1, logits.shape[1], -1)) * real
    negatives = at_background * -log_p[..., 0]  # (B, P)
    overlaps = (1 - pairwise_iou(boxes, target_boxes, kind="giou", eps=1e-18)) * real
    positives = at_targets.sum().clamp(min=1)
    counted = positives
    if matcher == "hungarian":
        counted = positives + at_background.sum()
    else:
        negatives = negatives * _hard(negatives.detach(), matching, ratio=3.0)
    classes = (at_targets * of_targets).sum() + negatives.sum()
    return classes / counted + (at_targets * overlaps).sum() / positives


def _hungarian(
    logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, mask: Tensor
) -> Tensor:
    probability = logits.softmax(-1).gather(-1, labels[:, None, :].expand(-1, logits.shape[1], -1))
    cost = (boxes[:, :, None] - target_boxes[:, None]).abs().sum(-1) - probability
    rows = linear_assignment(cost, mask)  # (B, T), -1 for padding
    one_hot = F.one_hot(rows + 1, boxes.shape[1] + 1)[..., 1:].transpose(1, 2).to(cost.dtype)
    return torch.cat([one_hot, 1 - one_hot.sum(-1, keepdim=True)], dim=-1)


def _unbalanced(anchors: Tensor, target_boxes: Tensor, mask: Tensor) -> Tensor:
    cost = (1 - pairwise_iou(anchors, target_boxes, kind="iou", eps=1e-18)) * mask[:, None, :]
    cost = torch.cat([cost, torch.full_like(cost[..., :1], 0.5)], dim=-1)
    cost = cost / cost.max()
    count = anchors.shape[1]
    left = count - mask.sum(1, keepdim=True)
    masses = torch.cat([mask, left], dim=1).to(cost.dtype) / count
    reg = 0.12 / (math.log(2 * count) + 1)
    uniform = torch.full_like(cost[..., 0], 1 / count)
    plan = sinkhorn(cost, uniform, masses, reg=reg, num_iter=70, tau_a=1e3, tau_b=1e-3)
    return plan * count


def _hard(losses: Tensor, matching: Tensor, ratio: float) -> Tensor:
    """1 for the hardest negatives of each image, as many as their mass allows."""
    order = losses.argsort(dim=1, descending=True)
    mass = matching[..., -1].gather(1, order).cumsum(1)
    kept = (mass <= ratio * matching[..., :-1].sum((1, 2))[:, None]).to(losses.dtype)
    return torch.zeros_like(losses).scatter(1, order, kept)
