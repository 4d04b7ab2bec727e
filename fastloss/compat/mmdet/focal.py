"""FocalLoss and its functions (mmdet 3.3.0, models/losses/focal_loss.py).

pred holds logits (probabilities where said), target either class ids (N,) with C for background,
or a dense target of pred's shape. Formula: `fastloss.functional.sigmoid_focal_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet._custom import accuracy_of_classes, check_num_classes
from fastloss.compat.mmdet.reduction import (
    NativeLoss,
    choose_reduction,
    reduce_and_scale,
    weight_reduce_loss,
)
from fastloss.compat.mmdet.registry import LOSSES


def py_sigmoid_focal_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Focal loss of logits (*) and a dense target (*), 0 or 1 or soft, of any number type.

    weight (*), or (N,) for (N, C), or flattened (N * C,). "mean" divides by the number of elements.
    """
    native = _dense(pred, target, gamma, alpha, activated=False)
    return weight_reduce_loss(native, _match_weight(weight, pred.shape), reduction, avg_factor)


def py_focal_loss_with_prob(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Focal loss of probabilities pred (*) and a dense target (*), or (N, C) and class ids (N,)."""
    return _focal(pred, target, weight, gamma, alpha, reduction, avg_factor, activated=True)


def sigmoid_focal_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float = 0.25,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Focal loss of logits (N, C) and class ids (N,), C for background, on any device.

    weight as in `py_sigmoid_focal_loss`. AssertionError: target is not a list of N integers, as in
    mmcv's operator.
    """
    problem = _label_problem(pred, target)
    if problem:
        raise AssertionError(problem)
    return _focal(pred, target, weight, gamma, alpha, reduction, avg_factor, activated=False)


@LOSSES.register_module()
class FocalLoss(nn.Module):
    """Sigmoid focal loss (https://arxiv.org/abs/1708.02002), times `loss_weight`.

    Args:
        use_sigmoid: must be True; AssertionError otherwise.
        gamma: exponent of the modulating factor.
        alpha: weight of the positive entries, 1 - alpha of the negative ones.
        reduction: "none", "mean" or "sum"; the mean divides by the number of elements N * C.
        loss_weight: factor of the result.
        activated: pred holds probabilities, not logits (the logarithms are bounded below by -100,
            as in torch).

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)``. pred (N,
    C) with class ids (N,), C for background; or pred and target of one shape with any number of
    dimensions (one-hot or soft). weight: pred's shape, (N,) or flattened (N * C,). No elements:
    the mean is NaN, 0 with an avg_factor.
    AssertionError: another number of weights, a wrong `reduction_override`. RuntimeError or
    ValueError: target of another shape. RuntimeError: a class id outside 0..C, on the CPU; on a
    GPU that row is NaN (mmcv's operator ignores it).
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid is not True:
            raise AssertionError(f"use_sigmoid must be True, got {use_sigmoid!r}")
        self.use_sigmoid = use_sigmoid
        self.gamma = gamma
        self.alpha = alpha
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.activated = activated

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred (N, C), ids (N,), or both (*) -> scalar, or the shape of pred for "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        return _focal(
            pred,
            target,
            weight,
            self.gamma,
            self.alpha,
            reduction,
            avg_factor,
            self.activated,
            self.loss_weight,
        )


@LOSSES.register_module()
class FocalCustomLoss(nn.Module):
    """`FocalLoss` for heads that ask their loss for the number of channels, the activation and the
    accuracy (V3Det).

    Args:
        num_classes: classes without background; required, AssertionError otherwise.
        use_sigmoid, gamma, alpha, reduction, loss_weight: as in `FocalLoss`.
        activated: kept, but without effect, as in mmdet.

    Call: as `FocalLoss` with class ids (N,), C for background.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        num_classes: int = -1,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid is not True:
            raise AssertionError(f"use_sigmoid must be True, got {use_sigmoid!r}")
        if num_classes == -1:
            raise AssertionError("num_classes must be given")
        self.use_sigmoid = use_sigmoid
        self.num_classes = num_classes
        self.gamma = gamma
        self.alpha = alpha
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.activated = activated
        self.custom_cls_channels = True
        self.custom_activation = True
        self.custom_accuracy = True

    def get_cls_channels(self, num_classes: int) -> int:
        """Channels of the classifier: the classes."""
        return check_num_classes(num_classes, self.num_classes)

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """(N, num_classes) probabilities."""
        return cls_score[:, : self.num_classes].sigmoid()

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{"acc_classes": per cent of correct labels among those of classes, (1,)}."""
        classes = cls_score[:, : self.num_classes]
        return {"acc_classes": accuracy_of_classes(classes, labels, self.num_classes)}

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred (N, C), ids (N,) -> scalar, or (N, C) for "none"."""
        problem = _label_problem(pred, target)
        if problem:
            raise RuntimeError(problem)
        reduction = choose_reduction(reduction_override, self.reduction)
        options = (self.gamma, self.alpha, reduction, avg_factor, False, self.loss_weight)
        return _focal(pred, target, weight, *options)


def _focal(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    gamma: float,
    alpha: float,
    reduction: str,
    avg_factor: float | Tensor | None,
    activated: bool,
    loss_weight: float = 1.0,
) -> Tensor:
    """mmdet's rule: targets with as many dimensions as pred are dense, others class ids."""
    if pred.dim() == target.dim():
        native = _dense(pred, target, gamma, alpha, activated)
    else:
        native = _class_ids(pred, target, gamma, alpha, activated)
    weight = _match_weight(weight, pred.shape)
    try:
        return reduce_and_scale(native, weight, reduction, avg_factor, loss_weight)
    except IndexError as error:
        # A class id out of range; mmdet's one_hot raises RuntimeError.
        raise RuntimeError(str(error)) from error


def _dense(pred: Tensor, target: Tensor, gamma: float, alpha: float, activated: bool) -> NativeLoss:
    if target.shape != pred.shape:
        raise _shape_error(pred.shape, target.shape)(
            f"target must have the shape of pred, {tuple(pred.shape)}, got {tuple(target.shape)}"
        )
    options = {"gamma": gamma, "alpha": alpha, "activated": activated}
    return NativeLoss(
        functional.sigmoid_focal_loss, pred, target.to(pred.dtype), pred.shape, options
    )


def _class_ids(
    pred: Tensor, target: Tensor, gamma: float, alpha: float, activated: bool
) -> NativeLoss:
    problem = _label_problem(pred, target)
    if problem:
        raise RuntimeError(problem)
    options = {"gamma": gamma, "alpha": alpha, "activated": activated}
    return NativeLoss(functional.sigmoid_focal_loss, pred, target, pred.shape, options)


def _label_problem(pred: Tensor, target: Tensor) -> str | None:
    """What is wrong with class ids (N,) for pred (N, C), or None."""
    if pred.dim() != 2 or target.dim() != 1 or len(pred) != len(target):
        return (
            "target must be class ids (N,) for pred (N, C), or have the shape of pred, "
            f"got target {tuple(target.shape)} and pred {tuple(pred.shape)}"
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        return f"target must be integer class ids, got {target.dtype}"
    return None


def _shape_error(pred: torch.Size, target: torch.Size) -> type[Exception]:
    """RuntimeError, or ValueError if both broadcast: mmdet multiplies before torch checks."""
    pairs = zip(reversed(pred), reversed(target), strict=False)
    return ValueError if all(a == b or 1 in (a, b) for a, b in pairs) else RuntimeError


def _match_weight(weight: Tensor | None, shape: torch.Size) -> Tensor | None:
    """Weights as mmdet reads them: one per element, one per row (N,), or flattened (N * C,)."""
    if weight is None or weight.shape == shape:
        return weight
    if weight.size(0) == shape[0]:
        matched = weight.reshape(-1, 1)  # (N,) -> (N, 1)
    elif weight.numel() == shape.numel():
        matched = weight.reshape(shape[0], -1)  # (N * C,) -> (N, C)
    else:
        matched = weight
    if matched is weight or matched.dim() != len(shape):
        raise AssertionError(
            f"weight must have the shape of pred, {tuple(shape)}, or {shape[0]} or "
            f"{shape.numel()} elements, got {tuple(weight.shape)}"
        )
    return matched
