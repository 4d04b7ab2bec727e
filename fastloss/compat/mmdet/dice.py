"""DiceLoss and its function (mmdet 3.3.0, models/losses/dice_loss.py).

pred (n, *) and target (n, *) hold one mask a sample. Formula:
`fastloss.functional.mask_dice_loss`. As in mmdet the sums of a half-precision pred are returned in
float32; a float64 target is not rounded to float32 first, which mmdet does.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.reduction import NativeLoss, choose_reduction, reduce_and_scale
from fastloss.compat.mmdet.registry import LOSSES


def dice_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-3,
    reduction: str = "mean",
    naive_dice: bool = False,
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Dice loss of probabilities pred (n, *) and target (n, *), of any number type.

    weight (n,). naive_dice: no squares in the divisor. "mean" divides by n. AssertionError for a
    weight of another shape.
    """
    return _dice(pred, target, weight, eps, reduction, naive_dice, avg_factor, True, 1)


@LOSSES.register_module()
class DiceLoss(nn.Module):
    """Dice loss of masks (V-Net, https://arxiv.org/abs/1606.04797), times `loss_weight`.

    Args:
        use_sigmoid: with `activate` must be True; NotImplementedError otherwise, when called.
        activate: pred holds logits, of which the sigmoid is taken; False: probabilities.
        reduction: "none", "mean" or "sum"; the mean divides by the number of masks.
        naive_dice: no squares in the divisor.
        loss_weight: factor of the result.
        eps: added to the sums.

    Called as (pred, target, weight, reduction_override, avg_factor): in mmdet's other losses
    avg_factor comes before reduction_override.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: str = "mean",
        naive_dice: bool = False,
        loss_weight: float = 1.0,
        eps: float = 1e-3,
    ):
        super().__init__()
        self.use_sigmoid = use_sigmoid
        self.reduction = reduction
        self.naive_dice = naive_dice
        self.loss_weight = loss_weight
        self.eps = eps
        self.activate = activate

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction_override: str | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of pred (n, *) and target (n, *); weight (n,)."""
        reduction = choose_reduction(reduction_override, self.reduction)
        if self.activate and not self.use_sigmoid:
            raise NotImplementedError("use_sigmoid must be True where activate is, got False")
        activated, naive = not self.activate, self.naive_dice
        return _dice(
            pred, target, weight, self.eps, reduction, naive, avg_factor, activated,
            self.loss_weight,
        )  # fmt: skip


def _dice(
    pred: Tensor, target: Tensor, weight: Tensor | None, eps: float, reduction: str, naive: bool,
    avg_factor: float | Tensor | None, activated: bool, loss_weight: float,
) -> Tensor:  # fmt: skip
    if weight is not None and weight.shape != pred.shape[:1]:
        raise AssertionError(
            f"weight must have shape {tuple(pred.shape[:1])}, got {tuple(weight.shape)}"
        )
    if not target.is_floating_point() and pred.element_size() < 4:
        target = target.float()  # for a float32 result
    options = {"squared": not naive, "eps": eps, "activated": activated}
    native = NativeLoss(functional.mask_dice_loss, pred, target, pred.shape[:1], options)
    return reduce_and_scale(native, weight, reduction, avg_factor, loss_weight)
