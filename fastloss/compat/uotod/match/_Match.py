"""The base of uotod's matchers (uotod 0.3, match/_Match.py, from where users import it)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastloss._library import values_may_be_read
from fastloss.compat.uotod._terms import (
    NotFused,
    of_pairs,
    refuse_overrides,
    without_padding,
)
from fastloss.compat.uotod.match import _costs, _figures
from fastloss.compat.uotod.utils import Batch, pad_target, stack_input


class _Match(nn.Module):
    """Base of the matchers; a subclass says how a cost matrix becomes a matching.

    The cost of a prediction and a target is the sum of what both modules make of them. One kernel
    computes it if it knows the modules, see `plan`; then a pair with a number that is not finite
    costs 1e9. Otherwise the modules are called with every pair.

    Args:
        cls_match_module: classification loss of logits (K, C) and labels (K,), or one-hot (K, C).
        loc_match_module: localization loss of boxes (K, 4), (K, 4). Both return one number per row
            or several, which are summed, so their `reduction` is "none". One of the two is needed.
        background: whether the last column of costs and matchings is that of the background.
        background_cost: what the background costs, >= 0.
        is_anchor_based: take the anchors in the place of the predicted boxes.
        individual: whether the images are matched one by one, for subclasses of one's own: by
            `_compute_matching_apart(cost (P, T_i [+ 1]), zeros like it)`, T_i the number of real
            targets, or by `_compute_matching_together(cost (B, P, T [+ 1]), zeros like it, mask)`.
            Matchers of this package do all at once in any case.
        others: ignored, as upstream, so that a subclass may hand over its own; a class of this
            package warns of them.

    Call: ``matcher(input, target, anchors=None, cost_matrix=None, save=True)`` -> (B, P, T + 1), or
    (B, P, T) without a background, in the dtype of the cost, without a gradient. input:
    "pred_logits" (B, P, C) and "pred_boxes" (B, P, 4); target: "labels" (B, T) or (B, T, C),
    "boxes" (B, T, 4), "mask" (B, T) bool, False for padding, or None; boxes are x1 y1 x2 y2. Both
    may be lists with a dict per image (upstream fails): targets are padded. anchors: (P, 4) (here
    only) or (B, P, 4). cost_matrix: instead of the modules'; of input and target the mask alone is
    used then, and input may be None. save: keep what `plot` draws.

    Raises:
        AssertionError: background is no bool, background_cost negative, the mask not bool, or
            anchors are missing.
        ValueError: a module with a reduction, or no module.
        RuntimeError: the matching is NaN or infinite. On a GPU, where the host would wait for that,
            only within `fastloss.debug()`; otherwise it stays so and makes the loss NaN.
    """

    def __init__(
        self,
        *,
        cls_match_module: nn.Module | None = None,
        loc_match_module: nn.Module | None = None,
        background: bool = True,
        background_cost: float = 10.0,
        is_anchor_based: bool = False,
        individual: bool = True,
        **others: Any,
    ) -> None:
        super().__init__()
        if others and type(self).__module__.startswith(__package__):
            warnings.warn(f"{type(self).__name__} ignores {', '.join(others)}", stacklevel=3)
        assert isinstance(background, bool), f"background must be a bool, got {background!r}"
        assert background_cost >= 0, f"background_cost must be >= 0, got {background_cost}"
        for name, module in (("cls", cls_match_module), ("loc", loc_match_module)):
            if module is not None and module.reduction != "none":
                raise ValueError(
                    f'{name}_match_module must have reduction "none", got {module.reduction!r}'
                )
        self.matching_cls_module = cls_match_module
        self.matching_loc_module = loc_match_module
        self.background = background
        self.background_cost = background_cost
        self.is_anchor_based = is_anchor_based
        self._individual = individual
        self._forget()

    @torch.no_grad()
    def forward(
        self,
        input: Batch | Sequence[Batch] | None,
        target: Batch | Sequence[Batch],
        anchors: Tensor | None = None,
        cost_matrix: Tensor | None = None,
        save: bool = True,
    ) -> Tensor:
        """The matching of each image, (B, P, T + 1), or (B, P, T) without a background."""
        self._forget()
        input, target = stack_input(input), pad_target(target)
        if cost_matrix is None:
            cost_matrix = self.compute_cost_matrix(input, target, anchors)
        matching = self.compute_matching(cost_matrix, mask_of(target))
        refuse_not_finite(matching)
        if save:
            self._last_cost, self._last_match = cost_matrix.detach(), matching
            self._last_input, self._last_target = without_graph(input), without_graph(target)
        return matching

    @property
    def plan(self) -> str:
        """How costs are computed: "fused" and the options of `fastloss.functional.matching_cost`,
        or "generic" and why. What needs a gradient is generic in any case, and so are one-hot
        labels for other modules than SigmoidFocalCost."""
        try:
            options = self._fused_options()
        except NotFused as reason:
            return f"generic: {reason}"
        return "fused: " + ", ".join(f"{name}={value!r}" for name, value in options.items())

    def compute_cost_matrix(
        self,
        input: Batch | Sequence[Batch],
        target: Batch | Sequence[Batch],
        anchors: Tensor | None = None,
    ) -> Tensor:
        """Cost of each prediction and target, differentiable, 0 in columns of padding.

        Args: as of the call.

        Returns:
            (B, P, T + 1), the last column background_cost, or (B, P, T) without a background.
        """
        if self.matching_cls_module is None and self.matching_loc_module is None:
            raise ValueError("cls_match_module or loc_match_module must be given, both are None")
        input, target = stack_input(input), pad_target(target)
        logits, labels, mask = input["pred_logits"], target["labels"], mask_of(target)
        locs = input["pred_boxes"]
        if self.is_anchor_based:
            assert anchors is not None, "anchors must be given to an anchor-based matcher"
            locs = anchors.expand(len(logits), -1, -1)
        elif anchors is not None:
            warnings.warn("anchors are not used: the matcher is not anchor-based", stacklevel=2)
        try:
            options = self._fused_options()
        except NotFused:
            cost = None
        else:
            cost = _costs.fused(options, logits, labels, locs, target["boxes"], mask)
        if cost is None:
            loc_cost = self._compute_loc_costs(locs, target["boxes"])
            cls_cost = self._compute_cls_costs(logits, without_padding(labels, mask))
            terms = [term for term in (loc_cost, cls_cost) if term is not None]
            cost = _costs.finish(terms, mask, self.background_cost if self.background else None)
        return cost

    def _fused_options(self) -> dict[str, Any]:
        refuse_overrides(self, _Match, "_compute_cls_costs", "_compute_loc_costs")
        background = self.background_cost if self.background else None
        return _costs.fused_options(self.matching_cls_module, self.matching_loc_module, background)

    def _compute_cls_costs(self, pred_logits: Tensor, tgt_classes: Tensor) -> Tensor | None:
        """(B, P, T)"""
        module = self.matching_cls_module
        return None if module is None else of_pairs(module, pred_logits, tgt_classes)

    def _compute_loc_costs(self, pred_locs: Tensor, tgt_locs: Tensor) -> Tensor | None:
        """(B, P, T)"""
        module = self.matching_loc_module
        return None if module is None else of_pairs(module, pred_locs, tgt_locs)

    def compute_matching(self, cost_matrix: Tensor, target_mask: Tensor | None) -> Tensor:
        """The matching of costs (B, P, T + 1), or (B, P, T) without a background, of the same
        shape. target_mask: (B, T) bool, or None: all targets are real."""
        matching = torch.zeros_like(cost_matrix)
        if not self._individual:
            return self._compute_matching_together(cost_matrix, matching, target_mask)
        for i, (cost, out) in enumerate(zip(cost_matrix, matching)):
            if target_mask is None:
                matching[i] = self._compute_matching_apart(cost, out)
                continue
            real = target_mask[i]
            if self.background:
                real = torch.cat((real, real.new_ones(1)))
            matching[i, :, real] = self._compute_matching_apart(cost[:, real], out[:, real])
        return matching

    def _compute_matching_together(
        self, cost_matrix: Tensor, out_view: Tensor, target_mask: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} does not define _compute_matching_together: construct it with "
            "individual=True"
        )

    def _compute_matching_apart(self, cost_matrix: Tensor, out_view: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not define _compute_matching_apart")

    def _targets(self, x: Tensor) -> Tensor:
        """A view of the columns of x (B, P, T + 1 or T) that are of targets, (B, P, T)."""
        return x[..., :-1] if self.background else x

    def _real_columns(self, mask: Tensor) -> Tensor:
        """(B, T + 1 or T): the mask (B, T) with the background, if there is one."""
        return torch.cat((mask, mask.new_ones(len(mask), 1)), 1) if self.background else mask

    def _forget(self) -> None:
        self._last_cost = self._last_match = self._last_input = self._last_target = None

    def plot(
        self,
        idx: int = 0,
        img: Any = None,
        plot_cost: bool = True,
        plot_match: bool = True,
        max_background_match: float = 1.0,
        background: bool = True,
        erase: bool = False,
    ) -> tuple[Any, Any, Any]:
        """Draw an image of the last saved call.

        Args:
            idx: which image of the batch.
            img: the image (H, W, 3), tensor or array, or a list of them; None: no first figure.
            plot_cost, plot_match: whether to draw these matrices.
            max_background_match: predictions matched to the background by more are left out.
            background: whether to draw its column.
            erase: forget the call.

        Returns:
            Figures of matplotlib: image with boxes, cost and matching, None for each left out.

        Raises:
            AssertionError: no call was saved.
            ImportError: matplotlib is not installed.
        """
        return _figures.of_matcher(
            self, idx, img, plot_cost, plot_match, max_background_match, background, erase
        )


def mask_of(target: Batch) -> Tensor | None:
    """(B, T) bool"""
    mask = target["mask"]
    assert mask is None or mask.dtype == torch.bool, (
        f'target["mask"] must be of dtype torch.bool, got {mask.dtype}'
    )
    return mask


def without_graph(batch: Batch | None) -> Batch | None:
    """The tensors of a batch as they can be kept, copied and pickled."""
    if batch is None:
        return None
    return {name: x.detach() for name, x in batch.items() if isinstance(x, Tensor)}


def refuse_not_finite(matching: Tensor) -> None:
    """Raise RuntimeError for NaN and infinity, where values may be read."""
    # The sum is not finite if any number is not, and takes an eighth of the time of asking each.
    if not values_may_be_read(matching) or matching.sum().isfinite():
        return
    if not matching.isfinite().all():
        raise RuntimeError(
            "the matching is NaN or infinite: the costs are, or the regularization is too low"
        )
