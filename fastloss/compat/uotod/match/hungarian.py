"""Hungarian (uotod 0.3, match/Hungarian.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastloss import functional
from fastloss.compat.uotod.match import _dense
from fastloss.compat.uotod.match._Match import _Match


class Hungarian(_Match):
    """One prediction for each target, with the least total cost; all others are background.

    Where there are fewer predictions than targets, targets are left over.

    Args:
        scipy: accepted for compatibility; both values give the same matching, that of
            `fastloss.functional.linear_assignment` (upstream has no code for False).
        options: those of `_Match`.

    Call: ``matcher(input, target)`` -> (B, P, T + 1) of 0 and 1, see `_Match`. Mended: float16 and
    bfloat16 costs, which fail upstream. AssertionError: scipy is no bool. ValueError: a cost of
    NaN or -inf, on the CPU; on a GPU such an image is not matched.
    """

    def __init__(self, *, scipy: bool = True, **options: Any) -> None:
        super().__init__(**options)
        assert isinstance(scipy, bool), f"scipy must be a bool, got {scipy!r}"
        self._scipy = scipy

    @torch.no_grad()
    def compute_matching(self, cost_matrix: Tensor, target_mask: Tensor | None) -> Tensor:
        """(B, P, T + 1) or (B, P, T), as the costs; target_mask (B, T) bool or None."""
        found = functional.linear_assignment(self._targets(cost_matrix), target_mask)  # (B, T)
        row, chosen = found.clamp(min=0), found >= 0
        matching = torch.zeros_like(cost_matrix)
        _dense.mark(self._targets(matching), row, chosen)
        if self.background:
            matching[..., -1] = _dense.unmatched(row, chosen, matching.shape[1])
        return matching
