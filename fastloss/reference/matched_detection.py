r"""Losses of N predictions, matched with M targets of their image and the background by masses.

With m_ij >= 0 the mass of prediction i at target j and m_iM at the background, the last column,
x the logits and b the box of i, y the class and t the box of j, w the class weights:

    class        sum_j m_ij w_y l(x, y)
    background   m_iM w_0 l(x, y_0),  y_0 the class of the background and w_0 its weight
    box          sum_j m_ij (distance_weight sum_k d(b_k - t_k) + iou_weight (1 - iou(b, t)))
    matched      sum_j m_ij
    weighted     sum_j m_ij w_y

    l  cross_entropy   -ln p_y,  p = softmax(x)
       negative_prob   -p_y
       sigmoid_focal   sum_c a_c (1 - p_c)^gamma (-ln p_c),  p_y = sigmoid(x_y) and a_y = alpha,
                       p_c = 1 - sigmoid(x_c) and a_c = 1 - alpha for the other classes (a = 1 if
                       alpha < 0); label C and the background (y_0 = -1) are no class; w = 1

d is an element-wise loss of `regression_loss`, iou a kind of `box_similarity` with eps for both its
eps. The class losses need no more of the matching than the mass of each class: with h_c what
prediction i has at targets of class c, and o_c what it has elsewhere,

    class = sum_c h_c l_c + o_c n_c,   l_c = l(x, c), and n_c what a wrong class costs (focal alone)

Edge rules: a pair without mass counts nothing, whatever it holds, nor does one in a column of
padding or one whose class has weight 0; a prediction all of whose masses, times incoming gradients,
are 0 has gradient 0. A pair with a coordinate that is not finite has box loss and gradient NaN. A
label that is no class makes the predictions matched with it NaN, see `check`.

Sources: Carion et al. arXiv 2005.12872 (DETR), Liu et al. arXiv 1512.02325 (SSD), De Plaen et al.
CVPR 2023 (optimal transport); uotod 0.3 `loss/DetectionLoss.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import box_similarity, regression_loss
from ._boxes import scaled
from ._reduce import compute_dtype, gradients

CLASS_LOSSES = ("cross_entropy", "negative_prob", "sigmoid_focal")
DISTANCES = ("l1", "smooth_l1", "mse")
IOU_KINDS = box_similarity.KINDS
ROWS = ("class", "background", "box", "matched", "weighted")


def check(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    matching: Tensor,
    mask: Tensor | None,
    class_weight: Tensor | None,
    cls_loss: str,
    *rest: object,
) -> None:
    """Raise IndexError for the first label of a target that is no class; reads their values."""
    last = logits.shape[-1] if cls_loss == "sigmoid_focal" else logits.shape[-1] - 1
    bad = (labels < 0) | (labels > last)
    position = (bad if mask is None else bad & mask).flatten().nonzero()
    if len(position):
        i = int(position[0])
        raise IndexError(
            f"labels must hold class indices in [0, {last}] where mask is True; "
            f"got {int(labels.flatten()[i])} at index {i}"
        )


def _class_losses(x: Tensor, kind: str, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """l and n of every class, (B, N, C)."""
    if kind == "cross_entropy":
        return -x.log_softmax(-1), torch.zeros_like(x)
    if kind == "negative_prob":
        return -x.softmax(-1), torch.zeros_like(x)
    a, b = (1, 1) if alpha < 0 else (alpha, 1 - alpha)
    p, q = x.sigmoid(), (-x).sigmoid()
    return -a * q.pow(gamma) * F.logsigmoid(x), -b * p.pow(gamma) * F.logsigmoid(-x)


def _class_gradient(
    x: Tensor, h: Tensor, o: Tensor, kind: str, alpha: float, gamma: float
) -> Tensor:
    """Derivative to x of sum_c h_c l_c + o_c n_c, (B, N, C)."""
    if kind == "sigmoid_focal":
        a, b = (1, 1) if alpha < 0 else (alpha, 1 - alpha)
        p, q = x.sigmoid(), (-x).sigmoid()
        # Bounded, so that the logarithm of 0 times 0 is 0.
        log_p, log_q = F.logsigmoid(x).clamp(min=-1024), F.logsigmoid(-x).clamp(min=-1024)
        right = a * q.pow(gamma) * (gamma * p * log_p - q)
        wrong = b * p.pow(gamma) * (p - gamma * q * log_q)
        gradient = h * right + o * wrong
    elif kind == "cross_entropy":
        gradient = h.sum(-1, keepdim=True) * x.softmax(-1) - h
    else:
        p = x.softmax(-1)
        gradient = p * ((h * p).sum(-1, keepdim=True) - h)
    return torch.where(_are_used(h, o), gradient, 0)


def _are_used(*masses: Tensor) -> Tensor:
    """Whether a prediction has a mass, (B, N, 1)."""
    return torch.stack([mass != 0 for mass in masses]).any(0).any(-1, keepdim=True)


def _times(mass: Tensor, loss: Tensor) -> Tensor:
    return torch.where(mass != 0, mass * loss, 0)


def _masses(
    x: Tensor,
    labels: Tensor,
    matching: Tensor,
    mask: Tensor | None,
    class_weight: Tensor | None,
    cls_loss: str,
    background: int,
) -> tuple[Tensor, ...]:
    """Masses at targets (B, N, M), the same weighted, h and o (B, N, C) of the targets and of the
    background."""
    classes = x.shape[-1]
    weight = x.new_ones(classes) if class_weight is None else class_weight.to(x.dtype)
    at_targets, at_background = matching[..., :-1].to(x.dtype), matching[..., -1:].to(x.dtype)
    if mask is not None:
        at_targets = torch.where(mask[:, None, :], at_targets, 0)
    labels = labels.long()
    is_class = (labels >= 0) & (labels < classes)
    w = torch.where(is_class, weight[torch.where(is_class, labels, 0)], torch.nan)  # (B, M)
    kind = torch.where(is_class, labels, 0)
    if cls_loss == "sigmoid_focal":
        none = labels == classes
        w, kind = torch.where(none, 1, w), torch.where(none, classes, kind)
    weighted = _times(at_targets, w[:, None, :])
    shape = (*x.shape[:2], classes + 1)  # the last for no class
    by_kind = x.new_zeros(shape).scatter_add(2, kind[:, None, :].expand_as(weighted), weighted)
    own = torch.arange(classes, device=x.device) == background
    h, h_background = by_kind[..., :-1], torch.where(own, _times(at_background, weight), 0)
    o, o_background = torch.zeros_like(x), torch.zeros_like(x)
    if cls_loss == "sigmoid_focal":
        before = F.pad(by_kind.cumsum(-1)[..., :-2], (1, 0))
        o = before + by_kind.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        o_background = at_background.expand_as(x)
    return at_targets, weighted, h, o, h_background, o_background


def _pairs(boxes: Tensor, target_boxes: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Both boxes of every pair, (B, N, M, 4), 0 where it has no mass."""
    has_mass = (mass != 0)[..., None]
    # Whatever the strides of the boxes, sums over pairs have one order.
    pairs = (boxes.contiguous()[:, :, None, :], target_boxes.contiguous()[:, None, :, :])
    return tuple(torch.where(has_mass, x.to(mass.dtype), 0) for x in pairs)


def forward(
    logits: Tensor,  # (B, N, C)
    boxes: Tensor,  # (B, N, 4) xyxy
    labels: Tensor,  # (B, M)
    target_boxes: Tensor,  # (B, M, 4) xyxy
    matching: Tensor,  # (B, N, M + 1)
    mask: Tensor | None,  # (B, M) bool, False for padding
    class_weight: Tensor | None,  # (C,)
    cls_loss: str,
    background: int,
    alpha: float,
    gamma: float,
    distance: str,
    beta: float,
    distance_weight: float,
    iou_kind: str,
    iou_weight: float,
    eps: float,
) -> Tensor:
    """`ROWS` of every prediction, (5, B, N); float64 if the logits are, else float32."""
    x = logits.to(compute_dtype(logits))
    at_targets, weighted, h, o, h_background, o_background = _masses(
        x, labels, matching, mask, class_weight, cls_loss, background
    )
    x = torch.where(_are_used(h, o, h_background, o_background), x, 0)
    right, wrong = _class_losses(x, cls_loss, alpha, gamma)
    b, t = _pairs(boxes, target_boxes, at_targets)
    p, q, s, _ = scaled(b, t)
    pair = (p - q).sum(-1) * 0  # 0 or NaN, (B, N, M); its gradient is 0 where no term has a weight
    if distance_weight:
        pair = pair + distance_weight * regression_loss.value(b - t, distance, beta).sum(-1)
    if iou_weight:
        iou = box_similarity.similarity(p, q, s.squeeze(-1), iou_kind, eps, eps)
        pair = pair + iou_weight * (1 - iou)
    return torch.stack(
        (
            (_times(h, right) + _times(o, wrong)).sum(-1),
            (_times(h_background, right) + _times(o_background, wrong)).sum(-1),
            _times(at_targets, pair).sum(-1),
            at_targets.sum(-1),
            weighted.sum(-1),
        )
    )


def backward(
    grad: Tensor,  # (5, B, N)
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    matching: Tensor,
    mask: Tensor | None,
    class_weight: Tensor | None,
    cls_loss: str,
    background: int,
    alpha: float,
    gamma: float,
    distance: str,
    beta: float,
    distance_weight: float,
    iou_kind: str,
    iou_weight: float,
    eps: float,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits and boxes."""
    x = logits.to(compute_dtype(logits))
    g_class, g_background, g_box = grad[:3].to(x.dtype)[..., None]  # (B, N, 1) each
    at_targets, _, h, o, h_background, o_background = _masses(
        x, labels, matching, mask, class_weight, cls_loss, background
    )
    h, o = g_class * h + g_background * h_background, g_class * o + g_background * o_background
    g_logits = _class_gradient(x, h, o, cls_loss, alpha, gamma) if needs & 1 else None
    b, t = _pairs(boxes, target_boxes, at_targets)
    p, q, s, poison = scaled(b, t)
    slope = poison[..., None].expand_as(b)  # (B, N, M, 4)
    if distance_weight:
        slope = slope + distance_weight * regression_loss.derivative(b - t, distance, beta)
    if iou_weight:
        of_iou = box_similarity.gradient(p, q, s.squeeze(-1), iou_kind, eps, eps)[0]
        slope = slope - iou_weight * s * of_iou
    g_boxes = _times((g_box * at_targets)[..., None], slope).sum(2)
    return gradients(needs, logits, (g_logits, logits.dtype), (g_boxes, boxes.dtype))
