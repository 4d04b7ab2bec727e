"""ClosestTarget, ClosestPrediction and Min (uotod 0.3, match/{ClosestTarget,ClosestPrediction,
Min}.py)."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import Tensor

from fastloss.compat.uotod.match import _dense
from fastloss.compat.uotod.match._Match import _Match


class ClosestTarget(_Match):
    """For each prediction the cheapest column, of the real targets and the background.

    Args:
        options: those of `_Match`.

    Call: ``matcher(input, target)`` -> (B, P, T + 1) of 0 and 1, see `_Match`. Mended: upstream
    writes infinity into the padding of the caller's cost matrix.
    """

    def __init__(self, *, individual: bool = False, **options: Any) -> None:
        super().__init__(individual=individual, **options)

    @torch.no_grad()
    def compute_matching(self, cost_matrix: Tensor, target_mask: Tensor | None) -> Tensor:
        """(B, P, T + 1) or (B, P, T), as the costs; target_mask (B, T) bool or None."""
        matching = torch.zeros_like(cost_matrix)
        if cost_matrix.shape[2] == 0:
            return matching
        if target_mask is None:
            return matching.scatter_(2, cost_matrix.min(2, keepdim=True).indices, 1)
        real = self._real_columns(target_mask)[:, None]  # (B, 1, T + 1)
        column = torch.where(real, cost_matrix, torch.inf).min(2, keepdim=True).indices
        # An image with no column that is real has one chosen nevertheless.
        chosen = real.expand_as(matching).gather(2, column)
        return matching.scatter_(2, column, chosen.to(matching.dtype))


class ClosestPrediction(_Match):
    """For each real target its cheapest prediction, if that costs more than the threshold.

    Several targets may share a prediction. Predictions without a target are background.

    Args:
        threshold: matches that cost this or less are left out (upstream's direction). A property.
        uniform_background: give every prediction the same share of the background,
            (P - number of matches) / P, the limit of unbalanced transport. A property.
        options: those of `_Match`.

    Call: ``matcher(input, target)`` -> (B, P, T + 1), see `_Match`. Mended: upstream fails for
    several images with one prediction each.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.0,
        individual: bool = False,
        uniform_background: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(individual=individual, **options)
        self.threshold = threshold
        self._uniform_background = uniform_background

    @property
    def threshold(self) -> float:
        """Matches that cost this or less are left out."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = float(value)

    @property
    def uniform_background(self) -> bool:
        """Whether all predictions share the background equally; warns if there is none."""
        self._warn_without_background()
        return self._uniform_background

    @uniform_background.setter
    def uniform_background(self, value: bool) -> None:
        self._warn_without_background()
        self._uniform_background = value

    def _warn_without_background(self) -> None:
        if not self.background:
            warnings.warn("uniform_background has no effect without a background", stacklevel=3)

    @torch.no_grad()
    def compute_matching(self, cost_matrix: Tensor, target_mask: Tensor | None) -> Tensor:
        """(B, P, T + 1) or (B, P, T), as the costs; target_mask (B, T) bool or None."""
        matching = torch.zeros_like(cost_matrix)
        rows = matching.shape[1]
        if rows == 0:
            return matching
        cost, row = self._targets(cost_matrix).min(1)  # (B, T)
        chosen = cost > self._threshold
        if target_mask is not None:
            chosen = chosen & target_mask
        _dense.mark(self._targets(matching), row, chosen)
        if self.background and self._uniform_background:
            unmatched = rows - chosen.sum(1, keepdim=True)  # (B, 1)
            matching[..., -1] = unmatched.to(matching.dtype) / rows
        elif self.background:
            matching[..., -1] = _dense.unmatched(row, chosen, rows)
        return matching


class Min:
    """``Min(source="target", **options)`` is a `ClosestPrediction` of these options, and
    ``Min(source="prediction", **options)`` a `ClosestTarget`.

    Args:
        source: what chooses, "target" or "prediction", also in the plural; case and all but letters
            do not count.

    AssertionError: source is no string. NameError: another word.
    """

    def __new__(cls, *, source: str = "target", **options: Any) -> _Match:
        if chosen_by_target(source):
            return ClosestPrediction(**options)
        return ClosestTarget(**options)


def chosen_by_target(source: str) -> bool:
    """Whether the word says "target" and not "prediction"."""
    assert isinstance(source, str), f"source must be a string, got {source!r}"
    word = re.sub("[^a-zA-Z]", "", source).lower().removesuffix("s")
    if word not in ("target", "prediction"):
        raise NameError(f'source must be "target" or "prediction", got {source!r}')
    return word == "target"
