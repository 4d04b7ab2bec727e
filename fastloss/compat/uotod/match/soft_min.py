"""SoftMin (uotod 0.3, match/SoftMin.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastloss.compat.uotod.match._Match import _Match
from fastloss.compat.uotod.match.closest import chosen_by_target


class SoftMin(_Match):
    r"""Softmax of -cost / reg, over the predictions or over the targets.

    Args:
        source: "target": each column, also the background, is spread over the predictions.
            "prediction": each prediction is spread over the real targets and the background. The
            property `closest`, as in `Min`.
        background_weight: for "target", multiply the background by P less the number of real
            targets.
        reg: > 0, in the unit of the cost.
        options: those of `_Match`.

    Call: ``matcher(input, target)`` -> (B, P, T + 1), see `_Match`; columns of padding are 0.
    Mended: for "prediction" with a reg other than 1 upstream matches padding too, and it writes
    infinity into the caller's cost matrix. AssertionError: reg is not positive, source no string.
    NameError: source is another word.
    """

    def __init__(
        self,
        *,
        source: str = "target",
        individual: bool = False,
        background_weight: bool = True,
        reg: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(individual=individual, **options)
        self.closest = source
        self.background_weight = background_weight
        assert reg > 0, f"reg must be > 0, got {reg}"
        self.reg = reg

    @property
    def closest(self) -> str:
        """What is spread: "target" or "prediction"."""
        return "target" if self._by_target else "prediction"

    @closest.setter
    def closest(self, source: str) -> None:
        self._by_target = chosen_by_target(source)

    @torch.no_grad()
    def compute_matching(self, cost_matrix: Tensor, target_mask: Tensor | None) -> Tensor:
        """(B, P, T + 1) or (B, P, T), as the costs; target_mask (B, T) bool or None."""
        dim = 1 if self._by_target else 2
        if target_mask is None:
            matching = (cost_matrix * (-1 / self.reg)).softmax(dim)
        else:
            real = self._real_columns(target_mask)[:, None]
            # Finite for any reg, so that an image without a column that is real has no NaN.
            dear = 0 if self._by_target else torch.finfo(cost_matrix.dtype).max * min(1, self.reg)
            logits = torch.where(real, cost_matrix, dear).mul_(-1 / self.reg)
            matching = logits.softmax(dim).mul_(real)
        if self._by_target and self.background and self.background_weight:
            rows, targets = matching.shape[1], matching.shape[2] - 1
            if target_mask is not None:
                targets = target_mask.sum(1, keepdim=True)  # (B, 1)
            matching[..., -1] *= rows - targets
        return matching
