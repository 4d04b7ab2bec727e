"""BalancedSinkhorn and UnbalancedSinkhorn (uotod 0.3, match/{_Sinkhorn,_Compiled,BalancedSinkhorn,
UnbalancedSinkhorn}.py)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastloss import functional
from fastloss.compat.uotod.match._Match import _Match


class _Transport(_Match):
    """Entropic optimal transport between predictions and targets; the plan times P.

    A prediction has mass 1 / P, as have a real target and, in all, 1 - n / P the background, with
    n the number of real targets (none if that is negative). Without a background each real target
    has mass 1 / n. Images share the largest cost that costs are divided by.
    """

    def __init__(
        self,
        *,
        normalize_cost_matrix: bool = True,
        individual: bool = False,
        reg_dimless: float = 0.12,
        reg: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(individual=individual, **options)
        assert isinstance(normalize_cost_matrix, bool), (
            f"normalize_cost_matrix must be a bool, got {normalize_cost_matrix!r}"
        )
        self.normalize_cost_matrix = normalize_cost_matrix
        self.reg = reg
        self.reg_dimless = float(reg_dimless) if reg is None else None
        name = "reg_dimless" if reg is None else "reg"
        assert getattr(self, name) > 0, f"{name} must be > 0, got {getattr(self, name)}"

    @torch.no_grad()
    def compute_matching(self, cost_matrix: Tensor, target_mask: Tensor | None) -> Tensor:
        """(B, P, T + 1) or (B, P, T), as the costs; target_mask (B, T) bool or None."""
        if cost_matrix.numel() == 0:
            return torch.zeros_like(cost_matrix)
        rows = cost_matrix.shape[1]
        masses = self._masses(cost_matrix, target_mask)
        if self.normalize_cost_matrix:
            cost_matrix = cost_matrix / cost_matrix.max().clamp(min=1e-8)
        if self.reg_dimless is not None:
            reg = self.reg_dimless / (math.log(2 * rows) + 1)
        else:
            reg = float(self.reg)  # upstream takes a tensor too
        return self._transport(cost_matrix, *masses, reg)

    def _masses(self, cost: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """P times the masses of predictions (B, P) and of columns (B, T + 1 or T)."""
        batch, rows, columns = cost.shape
        if mask is None:
            mask = cost.new_ones((batch, columns - self.background), dtype=torch.bool)
        dtype = torch.promote_types(cost.dtype, torch.float32)
        real, counts = mask.to(dtype), mask.sum(1, keepdim=True).to(dtype)  # (B, T), (B, 1)
        if self.background:
            b = torch.cat((real, (rows - counts).clamp(min=0)), 1)
        else:
            b = real * (rows / counts.clamp(min=1))
        return b.new_ones(batch, rows), b

    def _transport(self, cost: Tensor, a: Tensor, b: Tensor, reg: float) -> Tensor:
        """P times the plan, from P times the masses."""
        raise NotImplementedError


class _Sinkhorn(_Transport):
    """A fixed number of Sinkhorn's iterations by `fastloss.functional.sinkhorn`."""

    def __init__(self, *, compiled: bool = False, num_iter: int = 20, **options: Any) -> None:
        super().__init__(**options)
        self.compiled = compiled
        self.num_iter = num_iter

    @property
    def compiled(self) -> bool:
        """Accepted for compatibility: both values give the same numbers."""
        return self._compiled

    @compiled.setter
    def compiled(self, value: bool) -> None:
        assert isinstance(value, bool), f"compiled must be a bool, got {value!r}"
        self._compiled = value

    @property
    def num_iter(self) -> int:
        """Number of iterations, > 0."""
        return self._num_iter

    @num_iter.setter
    def num_iter(self, value: int) -> None:
        assert int(value) > 0, f"num_iter must be > 0, got {value}"
        self._num_iter = int(value)


class BalancedSinkhorn(_Sinkhorn):
    r"""Optimal transport with an entropy, which keeps the masses of both sides (Cuturi 2013).

    .. math:: \min_P \sum P \, cost + reg \sum P (\ln P - 1)

    A prediction has mass 1 / P, as has each real target; the background has the rest. Without a
    background each of n targets has 1 / n. The matching is the plan times P.

    Args:
        normalize_cost_matrix: divide the costs by the largest of the batch (at least 1e-8).
        reg_dimless: > 0; reg = reg_dimless / (ln(2 P) + 1) unless that is given. De Plaen et al.,
            CVPR 2023.
        reg: weight of the entropy, > 0; then the attribute reg_dimless is None.
        compiled: without effect (upstream's extension is not in its wheel). A property.
        num_iter: number of iterations, > 0. A property.
        individual: without effect.
        options: those of `_Match`.

    Call: ``matcher(input, target)`` -> (B, P, T + 1), see `_Match`. Mended: upstream gives the
    masses to the first n columns, wherever the mask is True, and in float32. Where its exponentials
    underflow to NaN and it raises, the plan is that of exact arithmetic. With more targets than
    predictions the background has no mass (upstream: a negative one). AssertionError: a number that
    is not > 0, or a flag that is no bool.
    """

    def _transport(self, cost: Tensor, a: Tensor, b: Tensor, reg: float) -> Tensor:
        # The balanced plan is proportional to the masses.
        return functional.sinkhorn(cost, a, b, reg=reg, num_iter=self.num_iter)


class UnbalancedSinkhorn(_Sinkhorn):
    r"""Optimal transport with an entropy, which may depart from the masses of either side (Chizat
    et al. 2018), by KL divergences of weights reg_pred and reg_target.

    Masses, cost and call are those of `BalancedSinkhorn`.

    Args:
        reg_pred: weight of the divergence from the masses of the predictions, >= 0; the attribute
            may be set to None: they are kept.
        reg_target: likewise of the targets and the background.
        num_iter: number of iterations, > 0. A property.
        options: those of `BalancedSinkhorn`.
    """

    def __init__(
        self,
        *,
        reg_pred: float = 1.0,
        reg_target: float = 1.0,
        num_iter: int = 70,
        **options: Any,
    ) -> None:
        super().__init__(num_iter=num_iter, **options)
        self.reg_pred = float(reg_pred)
        self.reg_target = float(reg_target)

    def _transport(self, cost: Tensor, a: Tensor, b: Tensor, reg: float) -> Tensor:
        rows = cost.shape[1]
        taus = {"tau_a": _weight(self.reg_pred), "tau_b": _weight(self.reg_target)}
        options = {"reg": reg, "num_iter": self.num_iter}
        return functional.sinkhorn(cost, a / rows, b / rows, **options, **taus).mul_(rows)


def _weight(reg: float | None) -> float | None:
    # Of 0, which leaves the masses out, something that is nothing beside any reg.
    return reg if reg is None or reg != 0 else 1e-30
