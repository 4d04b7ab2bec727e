r"""NegativeProbLoss, SigmoidFocalLoss and SigmoidFocalCost (uotod 0.3, loss/NegativeProbLoss.py and
loss/SigmoidFocalLoss.py)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from fastloss import functional
from fastloss.compat.uotod.loss.boxes import reduced

EPS = 1e-8  # upstream's, under the logarithms of SigmoidFocalCost


class NegativeProbLoss(_Loss):
    """-softmax(x)[y], the negative probability of the target's class.

    Args:
        reduction: "mean" or "sum"; any other string: none.

    Call: ``loss(input, target)``, logits (N, C) and classes (N,) -> scalar, or (N,).
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """(N, C), (N,) -> scalar, or (N,) without a reduction."""
        return reduced(-_own(input.softmax(-1), target), self.reduction)


class SigmoidFocalLoss(_Loss):
    r"""Focal loss of sigmoids, summed over the classes, of a one-hot target.

    .. math::
        \sum_c -\alpha_c (1 - p_c^t)^\gamma \ln p_c^t

    with :math:`p^t = p, \alpha_c = \alpha` where the target is 1 and :math:`p^t = 1 - p, \alpha_c =
    1 - \alpha` where it is 0. Lin et al., arXiv 1708.02002.

    Args:
        reduction: "mean" (over the rows) or "sum"; any other string: none.
        alpha: weight of the target's class; negative: all have weight 1.
        gamma: focusing exponent.

    Call: ``loss(input, targets)``, both (N, C), floating point -> scalar, or (N,).
    """

    def __init__(self, reduction: str = "mean", alpha: float = -1.0, gamma: float = 2.0) -> None:
        super().__init__(reduction=reduction)
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, input: Tensor, targets: Tensor) -> Tensor:
        """(N, C), (N, C) -> scalar, or (N,) without a reduction."""
        loss = functional.sigmoid_focal_loss(
            input, targets.to(input.dtype), alpha=self.alpha, gamma=self.gamma
        )
        return reduced(loss.sum(-1), self.reduction)


class SigmoidFocalCost(_Loss):
    r"""The focal cost of Deformable DETR: of the target's class alone, and signed.

    .. math::
        (1-p)^\gamma (-\ln(p + 10^{-8})) - p^\gamma (-\ln(1 - p + 10^{-8}))

    Zhu et al., arXiv 2010.04159.

    Args:
        reduction: "mean" or "sum"; any other string: none.
        alpha: accepted and without effect, as upstream.
        gamma: focusing exponent.

    Call: ``loss(input, targets)``, logits (N, C) and classes (N,), or one-hot (N, C) -> scalar, or
    (N,). AssertionError: another number of dimensions.
    """

    def __init__(self, reduction: str = "mean", alpha: float = -1.0, gamma: float = 2.0) -> None:
        super().__init__(reduction=reduction)
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, input: Tensor, targets: Tensor) -> Tensor:
        """(N, C), (N,) or (N, C) -> scalar, or (N,) without a reduction."""
        assert input.dim() == 2, f"input must have shape (N, C), got {tuple(input.shape)}"
        assert targets.dim() in (1, 2), (
            f"targets must have shape (N,) or (N, C), got {tuple(targets.shape)}"
        )
        if targets.dim() == 2:
            targets = targets.argmax(-1)
        own = _own(input, targets)
        p, q = own.sigmoid(), (-own).sigmoid()
        loss = p.pow(self.gamma) * torch.log(q + EPS) - q.pow(self.gamma) * torch.log(p + EPS)
        return reduced(loss, self.reduction)


def _own(x: Tensor, classes: Tensor) -> Tensor:
    """(N,): of each row of x (N, C) what it has at its class; IndexError: a class is none."""
    return x[torch.arange(len(x), device=x.device), classes.long()]
