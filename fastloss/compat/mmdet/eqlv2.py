"""EQLV2Loss (mmdet 3.3.0, models/losses/eqlv2_loss.py)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.registry import LOSSES


def _map(x: Tensor, gamma: float, mu: float) -> Tensor:
    return 1 / (1 + torch.exp(-gamma * (x - mu)))


@LOSSES.register_module()
class EQLV2Loss(nn.Module):
    """Equalization loss v2 (https://arxiv.org/abs/2012.08548), times `loss_weight`.

    Binary cross entropy whose weights balance, for each class, the gradients of positives and of
    negatives collected so far: negatives have v = 1 / (1 + exp(-gamma (r - mu))) with the ratio r,
    buffer `pos_neg`, and positives 1 + alpha (1 - v). The last column, objectness, has weight 1.

    Args:
        use_sigmoid, reduction, class_weight, vis_grad: kept as attributes (`use_sigmoid` as True),
            without an effect.
        loss_weight: factor of the result.
        num_classes: classes without objectness; buffers `pos_grad`, `neg_grad` and `pos_neg` have
            so many entries.
        use_distributed: add up the gradients of all processes.
        mu, alpha, gamma: see above.
        test_with_obj: let `get_activation` multiply scores by 1 - the last one.

    Call: ``loss(cls_score, label, weight=None, avg_factor=None, reduction_override=None)``; the
    last three are ignored. cls_score (N, num_classes + 1), label (N,) with ids in 0..num_classes; a
    negative one counts from the end. The result is the sum over N rows, divided by N: NaN without
    rows. The buffers are updated at every call, also of a module in evaluation.
    IndexError: an id out of range, on the CPU; on a GPU the loss is NaN.

    mmdet also leaves `gt_classes` and `pred_class_logits`, which would keep the last batch in
    memory, and `collect_grad`, which takes a one-hot: these are not here.
    """

    pos_grad: Tensor
    neg_grad: Tensor
    pos_neg: Tensor

    def __init__(
        self,
        use_sigmoid: bool = True,
        reduction: str = "mean",
        class_weight: Tensor | None = None,
        loss_weight: float = 1.0,
        num_classes: int = 1203,
        use_distributed: bool = False,
        mu: float = 0.8,
        alpha: float = 4.0,
        gamma: int = 12,
        vis_grad: bool = False,
        test_with_obj: bool = True,
    ) -> None:
        super().__init__()
        self.use_sigmoid = True
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.class_weight = class_weight
        self.num_classes = num_classes
        self.group = True
        self.vis_grad = vis_grad
        self.mu = mu
        self.alpha = alpha
        self.gamma = gamma
        self.use_distributed = use_distributed
        self.register_buffer("pos_grad", torch.zeros(num_classes))
        self.register_buffer("neg_grad", torch.zeros(num_classes))
        # At first both weights are 1.
        self.register_buffer("pos_neg", torch.ones(num_classes) * 100)
        self.test_with_obj = test_with_obj
        self.map_func = partial(_map, gamma=gamma, mu=mu)

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: int | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """cls_score (N, num_classes + 1), label (N,) -> scalar."""
        self.n_i, self.n_c = cls_score.shape
        pos_w, neg_w = self._class_weights(cls_score)
        loss, pos_grad, neg_grad = functional.equalization_loss(
            cls_score,
            label + self.n_c * (label < 0),  # int64, also of int8
            pos_w,
            neg_w,
            gradient_sums=True,
        )
        self._collect(pos_grad[:-1], neg_grad[:-1])
        if not self.n_i:
            loss = loss * math.nan
        return self.loss_weight * loss

    def get_channel_num(self, num_classes: int) -> int:
        """The columns of scores of so many classes."""
        return num_classes + 1

    def get_activation(self, pred: Tensor) -> Tensor:
        """Scores (N, num_classes + 1) of logits of that shape."""
        scores = torch.sigmoid(pred)
        if not self.test_with_obj:
            return scores
        return torch.cat((scores[:, :-1] * (1 - scores[:, -1:]), scores[:, -1:]), 1)

    def get_weight(self, pred: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of positives and of negatives, each expanded to the shape of pred."""
        pos_w, neg_w = self._class_weights(pred)
        return pos_w.expand(pred.shape), neg_w.expand(pred.shape)

    def _class_weights(self, pred: Tensor) -> tuple[Tensor, Tensor]:
        neg_w = self.map_func(self.pos_neg)
        neg_w = neg_w.to(torch.promote_types(neg_w.dtype, pred.dtype))
        neg_w = nn.functional.pad(neg_w, (0, 1), value=1.0)
        return 1 + self.alpha * (1 - neg_w), neg_w

    def _collect(self, pos_grad: Tensor, neg_grad: Tensor) -> None:
        """Add what the gradients of each class sum up to, objectness excluded."""
        if self.use_distributed:
            torch.distributed.all_reduce(pos_grad)
            torch.distributed.all_reduce(neg_grad)
        self.pos_grad += pos_grad
        self.neg_grad += neg_grad
        # In place, so that a CUDA graph and DistributedDataParallel find it where it was.
        self.pos_neg.copy_(self.pos_grad / (self.neg_grad + 1e-10))
