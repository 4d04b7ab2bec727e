"""WeightedSum (uotod 0.3, match/WeightedSum.py)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastloss.compat.uotod.match import _figures
from fastloss.compat.uotod.match._Match import _Match, mask_of, refuse_not_finite, without_graph
from fastloss.compat.uotod.utils import Batch, pad_target, stack_input


class WeightedSum(_Match):
    """Sum of the matchings of several matchers, each times its weight.

    Args:
        matching_modules: the matchers. If the sum has a background, all of them do; if not, that
            of theirs is left out. A property, as are all that follow.
        weights: one number each; None: 1.
        normalize: divide by the sum of the weights.
        same_cost: match all with the cost of the sum's own modules, and not each with the cost of
            its own.
        options: those of `_Match`.

    Call: ``matcher(input, target, anchors=None, cost_matrix=None, save=True)`` -> (B, P, T + 1), or
    (B, P, T) without a background, see `_Match`; cost_matrix is for same_cost. Mended: upstream
    fails if weights are given, matches without any cost for same_cost=False, and after a
    ClosestTarget goes on with a cost matrix that this one wrote infinity into. AssertionError:
    no matchers, something else among them, one without a background, another number of weights, or
    a flag that is no bool.
    """

    def __init__(
        self,
        *,
        matching_modules: Iterable[_Match] | None = None,
        weights: Iterable[float] | None = None,
        normalize: bool = True,
        same_cost: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.matching_modules = matching_modules
        self.weights = weights
        self.normalize = normalize
        self.same_cost = same_cost

    @property
    def matching_modules(self) -> list[_Match]:
        """The matchers of the sum."""
        return self._matching_modules

    @matching_modules.setter
    def matching_modules(self, value: Iterable[_Match]) -> None:
        assert isinstance(value, Iterable), f"matching_modules must be a list, got {value!r}"
        modules = list(value)
        assert modules, "matching_modules must not be empty"
        for module in modules:
            assert isinstance(module, _Match), f"matching_modules must be matchers, got {module!r}"
            assert module.background or not self.background, (
                f"a sum with a background needs matchers with one, got {module!r}"
            )
        self._matching_modules = modules

    @property
    def weights(self) -> list[float]:
        """A number for each matcher; set to None: 1."""
        return self._weights

    @weights.setter
    def weights(self, value: Iterable[float] | None) -> None:
        count = len(self._matching_modules)
        assert value is None or isinstance(value, Iterable), (
            f"weights must be a list, got {value!r}"
        )
        weights = [1] * count if value is None else list(value)
        assert len(weights) == count, f"weights must be {count} numbers, got {weights}"
        self._weights = weights

    @property
    def normalize(self) -> bool:
        """Whether the sum is divided by that of the weights."""
        return self._normalize

    @normalize.setter
    def normalize(self, value: bool) -> None:
        assert isinstance(value, bool), f"normalize must be a bool, got {value!r}"
        self._normalize = value

    @property
    def same_cost(self) -> bool:
        """Whether all matchers have the cost of the sum."""
        return self._same_cost

    @same_cost.setter
    def same_cost(self, value: bool) -> None:
        assert isinstance(value, bool), f"same_cost must be a bool, got {value!r}"
        self._same_cost = value

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
        mask = mask_of(target)
        if self.same_cost and cost_matrix is None:
            cost_matrix = self.compute_cost_matrix(input, target, anchors)
        total, costs, matchings = None, [], []
        for module, weight in zip(self.matching_modules, self.weights):
            if self.same_cost:
                cost = self._cost_for(module, cost_matrix)
            else:
                cost = module.compute_cost_matrix(input, target, anchors)
            matching = module.compute_matching(cost, mask)
            if module.background and not self.background:
                matching = matching[..., :-1]
            total = weight * matching if total is None else total.add_(matching, alpha=weight)
            if save:
                costs.append(cost)
                matchings.append(weight * matching)
        if self.normalize:
            total /= sum(self.weights)
        refuse_not_finite(total)
        if save:
            self._last_cost = cost_matrix.detach() if self.same_cost else costs
            self._last_match, self._last_matchings = total, matchings
            self._last_input, self._last_target = without_graph(input), without_graph(target)
        return total

    def _cost_for(self, module: _Match, cost: Tensor) -> Tensor:
        """The cost of the sum, with the background that a matcher may have besides."""
        if self.background or not module.background:
            return cost
        background = cost.new_full((*cost.shape[:2], 1), module.background_cost)
        return torch.cat((cost, background), -1)

    def compute_matching(self, cost_matrix: Tensor, target_mask: Tensor | None) -> Tensor:
        """Raises: matchings are those of the sum's matchers, whose costs may differ."""
        raise NotImplementedError("call a WeightedSum instead: it has no matching of its own")

    def _forget(self) -> None:
        super()._forget()
        self._last_matchings = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WeightedSum:
        # The matchers are a list, as upstream, so that checkpoints keep their keys.
        for module in self._matching_modules:
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)

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
        """As of `_Match`; there is no cost to draw unless all matchers have the same."""
        if plot_cost and not self.same_cost:
            warnings.warn("each matcher has a cost of its own: plots_individual", stacklevel=2)
            plot_cost = False
        return super().plot(
            idx, img, plot_cost, plot_match, max_background_match, background, erase
        )

    def plots_individual(
        self,
        idx: int = 0,
        plot_costs: bool = True,
        plot_matches: bool = True,
        background: bool = True,
        erase: bool = True,
    ) -> tuple[Any, Any]:
        """Draw costs and matchings of an image of the last saved call, matcher by matcher.

        Args:
            idx: which image of the batch.
            plot_costs: whether to draw the costs, if they are not the same.
            plot_matches: whether to draw the matchings, times their weights.
            background: whether to draw its column.
            erase: forget the call.

        Returns:
            Figures of matplotlib: costs and matchings, None for each left out.

        Raises:
            AssertionError: no call was saved.
            ImportError: matplotlib is not installed.
        """
        if plot_costs and self.same_cost:
            warnings.warn("the matchers have the same cost: plot", stacklevel=2)
            plot_costs = False
        return _figures.of_sum(self, idx, plot_costs, plot_matches, background, erase)
