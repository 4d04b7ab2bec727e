"""Cost matrices of matchers: by one kernel where it knows the modules, else by calling them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.uotod._terms import NotFused, flatten, is_plain
from fastloss.compat.uotod.loss.boxes import GIoULoss, IoULoss
from fastloss.compat.uotod.loss.classification import NegativeProbLoss, SigmoidFocalCost

CLASS_COSTS = {
    NegativeProbLoss: "softmax",
    nn.CrossEntropyLoss: "nll",
    SigmoidFocalCost: "sigmoid_focal",
}


def fused_options(
    cls_module: nn.Module | None, loc_module: nn.Module | None, background_cost: float | None
) -> dict[str, Any]:
    """Options with which `matching_cost` computes what the modules do; raises NotFused."""
    options = {"cls_cost": None, "background_cost": background_cost}
    if background_cost is not None and not (
        isinstance(background_cost, (int, float)) and math.isfinite(background_cost)
    ):
        raise NotFused("background_cost is no finite number")
    options |= {} if cls_module is None else _class_options(cls_module)
    return options | _box_options([] if loc_module is None else flatten(loc_module))


def _class_options(module: nn.Module) -> dict[str, Any]:
    terms = flatten(module)
    if len(terms) != 1:
        raise NotFused(f"{len(terms)} classification terms")
    weight, term = terms[0]
    if not is_plain(term, *CLASS_COSTS):
        raise NotFused(f"{type(term).__name__} as a classification term")
    options = {"cls_cost": CLASS_COSTS[type(term)], "cls_weight": weight}
    if isinstance(term, nn.CrossEntropyLoss):
        # A negative ignore_index, as by default, is the label of no target.
        if term.weight is not None or term.label_smoothing or term.ignore_index >= 0:
            raise NotFused("CrossEntropyLoss with options")
    elif isinstance(term, SigmoidFocalCost):
        if not term.gamma >= 0:
            raise NotFused("SigmoidFocalCost with a negative gamma")
        options |= {"gamma": term.gamma, "alpha": -1.0}
    return options


def _box_options(terms: list[tuple[float, nn.Module]]) -> dict[str, Any]:
    # Without an eps, as upstream; a quotient with a denominator of 0 is 0.
    options = {"l1_weight": 0.0, "iou_weight": 0.0, "eps": 0.0}
    seen = set()
    for weight, term in terms:
        if is_plain(term, nn.L1Loss):
            options["l1_weight"] = weight
        elif is_plain(term, IoULoss, GIoULoss):
            options |= {"iou_weight": weight, "constant": weight, "iou_kind": term.kind}
        else:
            raise NotFused(f"{type(term).__name__} as a localization term")
        if isinstance(term, nn.L1Loss) in seen:
            raise NotFused("two localization terms of one kind")
        seen.add(isinstance(term, nn.L1Loss))
    return options


def fused(
    options: dict[str, Any],
    logits: Tensor | None,  # (B, P, C)
    labels: Tensor | None,  # (B, T), or one-hot (B, T, C)
    locs: Tensor,  # (B, P, 4)
    target_boxes: Tensor,  # (B, T, 4)
    mask: Tensor | None,  # (B, T)
) -> Tensor | None:
    """(B, P, T), or (B, P, T + 1) with a background; None where the kernel cannot: it has no
    gradient, and takes one-hot labels only where argmax is what the module makes of them."""
    has_classes = options["cls_cost"] is not None
    given = [locs, target_boxes] + ([logits] if has_classes else [])
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        return None
    if has_classes and labels.dim() == 3:
        if options["cls_cost"] != "sigmoid_focal":
            return None
        labels = labels.argmax(-1)
    return functional.matching_cost(logits, locs, labels, target_boxes, mask, **options)


def finish(terms: list[Tensor], mask: Tensor | None, background_cost: float | None) -> Tensor:
    """The sum of one term or two, with columns of 0 for padding and that of the background."""
    cost = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    if mask is not None:
        cost = torch.where(mask[:, None], cost, 0)
    if background_cost is not None:
        background = cost.new_zeros((*cost.shape[:2], 1)) + background_cost
        cost = torch.cat((cost, background.to(cost.dtype)), -1)
    return cost
