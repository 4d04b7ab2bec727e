"""Aligned IoU-family losses on (N, 4) xyxy boxes, column by column as detection libraries write
them.

IoU loss: Yu et al. 2016 (UnitBox); GIoU: Rezatofighi et al. 2019; DIoU and CIoU: Zheng et al. 2020;
EIoU: Peng & Yu 2021; SIoU: Gevorgyan 2022; bounded IoU: Tychsen-Smith & Petersson 2018. The places
of eps follow mmdet 3.3: a floor under union and hull for IoU and GIoU, an addend for the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.baselines import reduce_weighted


def _intersection_and_areas(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    top_left = torch.max(pred[:, :2], target[:, :2])  # (N, 2)
    bottom_right = torch.min(pred[:, 2:], target[:, 2:])  # (N, 2)
    extent = (bottom_right - top_left).clamp(min=0)  # (N, 2)
    inter = extent[:, 0] * extent[:, 1]  # (N,)
    area_pred = (pred[:, 2] - pred[:, 0]) * (pred[:, 3] - pred[:, 1])  # (N,)
    area_target = (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1])  # (N,)
    return inter, area_pred + area_target


def _hull(pred: Tensor, target: Tensor) -> Tensor:
    """Width and height of the smallest enclosing box: (N, 2)."""
    top_left = torch.min(pred[:, :2], target[:, :2])
    bottom_right = torch.max(pred[:, 2:], target[:, 2:])
    return (bottom_right - top_left).clamp(min=0)


def _iou(pred: Tensor, target: Tensor, mode: str, eps: float) -> Tensor:
    inter, areas = _intersection_and_areas(pred, target)
    union = torch.max(areas - inter, areas.new_tensor(eps))
    iou = (inter / union).clamp(min=eps)
    if mode == "log":
        return -iou.log()
    return 1 - (iou**2 if mode == "square" else iou)


def _giou(pred: Tensor, target: Tensor, eps: float) -> Tensor:
    inter, areas = _intersection_and_areas(pred, target)
    floor = areas.new_tensor(eps)
    union = torch.max(areas - inter, floor)
    hull = _hull(pred, target)
    hull_area = torch.max(hull[:, 0] * hull[:, 1], floor)
    return 1 - (inter / union - (hull_area - union) / hull_area)


def _iou_and_distance(pred: Tensor, target: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """IoU and squared centre distance over squared hull diagonal: (N,), (N,)."""
    inter, areas = _intersection_and_areas(pred, target)
    iou = inter / (areas - inter + eps)
    hull = _hull(pred, target)
    diagonal = hull[:, 0] ** 2 + hull[:, 1] ** 2 + eps
    dx = (target[:, 0] + target[:, 2]) - (pred[:, 0] + pred[:, 2])
    dy = (target[:, 1] + target[:, 3]) - (pred[:, 1] + pred[:, 3])
    return iou, (dx**2 / 4 + dy**2 / 4) / diagonal


def _diou(pred: Tensor, target: Tensor, eps: float) -> Tensor:
    iou, distance = _iou_and_distance(pred, target, eps)
    return 1 - (iou - distance)


def _ciou(pred: Tensor, target: Tensor, eps: float) -> Tensor:
    iou, distance = _iou_and_distance(pred, target, eps)
    angle_pred = torch.atan((pred[:, 2] - pred[:, 0]) / (pred[:, 3] - pred[:, 1] + eps))
    angle_target = torch.atan((target[:, 2] - target[:, 0]) / (target[:, 3] - target[:, 1] + eps))
    v = 4 / math.pi**2 * (angle_target - angle_pred) ** 2
    with torch.no_grad():
        alpha = (iou > 0.5).to(iou.dtype) * v / (1 - iou + v)
    return 1 - (iou - (distance + alpha * v)).clamp(min=-1.0, max=1.0)


def _eiou(pred: Tensor, target: Tensor, eps: float, smooth_point: float = 0.1) -> Tensor:
    """The intersection is a sum of four signed rectangles at the hull's first corner."""
    first = torch.min(pred[:, :2], target[:, :2])  # (N, 2)
    start = torch.max(pred[:, :2], target[:, :2]) - first  # (N, 2)
    end = torch.min(pred[:, 2:], target[:, 2:]) - first  # (N, 2)
    low, high = torch.min(start, end), torch.max(start, end)
    inter = (
        end[:, 0] * end[:, 1]
        + low[:, 0] * low[:, 1]
        - start[:, 0] * high[:, 1]
        - high[:, 0] * start[:, 1]
    )
    _, areas = _intersection_and_areas(pred, target)
    x = 1 - inter / (areas - inter + eps)
    return torch.where(x < smooth_point, 0.5 * x**2 / smooth_point, x - 0.5 * smooth_point)


def _siou(pred: Tensor, target: Tensor, eps: float) -> Tensor:
    inter, areas = _intersection_and_areas(pred, target)
    iou = inter / (areas - inter + eps)
    top_left = torch.min(pred[:, :2], target[:, :2])
    bottom_right = torch.max(pred[:, 2:], target[:, 2:])
    hull = (bottom_right - top_left).clamp(min=eps)  # (N, 2)
    offset = (target[:, :2] + target[:, 2:] - pred[:, :2] - pred[:, 2:]) * 0.5 + eps  # (N, 2)
    sine = offset.abs() / offset.norm(dim=1, keepdim=True)
    sine = torch.where(sine[:, 0] > math.sqrt(0.5), sine[:, 1], sine[:, 0])
    gamma = 2 - torch.sin(2 * torch.asin(sine))  # (N,)
    distance = 2 - torch.exp(gamma[:, None] * (offset / hull) ** 2).sum(1)
    pad = pred.new_tensor([0.0, eps])
    size_pred = pred[:, 2:] - pred[:, :2] + pad
    size_target = target[:, 2:] - target[:, :2] + pad
    change = (size_pred - size_target).abs() / torch.max(size_pred, size_target)
    shape = ((1 - torch.exp(-change)) ** 4).sum(1)
    return 1 - (iou - 0.5 * (distance + shape)).clamp(min=-1.0, max=1.0)


def _bounded_iou(pred: Tensor, target: Tensor, eps: float, beta: float = 0.2) -> Tensor:
    """A loss per coordinate: (N, 4)."""
    size_pred = pred[:, 2:] - pred[:, :2]
    size_target = target[:, 2:] - target[:, :2]
    offset = (target[:, :2] + target[:, 2:] - pred[:, :2] - pred[:, 2:]).abs()
    centre = ((size_target - offset) / (size_target + offset + eps)).clamp(min=0)
    extent = torch.min(size_target / (size_pred + eps), size_pred / (size_target + eps))
    x = 1 - torch.cat((centre, extent), dim=1)
    return torch.where(x < beta, 0.5 * x * x / beta, x - 0.5 * beta)


_KINDS = {
    "giou": _giou,
    "diou": _diou,
    "ciou": _ciou,
    "eiou": _eiou,
    "siou": _siou,
    "bounded_iou": _bounded_iou,
}


def box_loss(
    pred: Tensor,
    target: Tensor,
    *,
    kind: str,
    mode: str = "linear",
    eps: float,
    weight: Tensor | None,
    avg_factor: float,
) -> Tensor:
    """pred, target: (N, 4) xyxy; weight: (N,), for kind "bounded_iou" (N, 4)."""
    if kind == "iou":
        loss = _iou(pred, target, mode, eps)
    else:
        loss = _KINDS[kind](pred, target, eps)
    return reduce_weighted(loss, weight, avg_factor)
