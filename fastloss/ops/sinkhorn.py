"""Entropic optimal transport of a batch of cost matrices: Sinkhorn's algorithm."""

import torch
from torch import Tensor

from .._library import register
from ..reference import sinkhorn as reference
from . import _arguments as check

_op = register(
    "sinkhorn",
    "(Tensor cost, Tensor a, Tensor b, float reg, int num_iter, float? tau_a, float? tau_b, "
    "float? tol)",
    reference.forward,
    returns="(Tensor, Tensor, Tensor)",
)


def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    reg: float,
    num_iter: int = 20,
    tau_a: float | None = None,
    tau_b: float | None = None,
    tol: float | None = None,
    return_potentials: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    r"""The transport plan of each image by Sinkhorn's algorithm, balanced or unbalanced.

    :math:`P_{ij} = u_i e^{-cost_{ij} / reg} v_j` after `num_iter` rounds that fit v to the masses b
    and u to the masses a, from u = 1, and one more update of v. The images of a batch do not
    influence one another. Where exponentials would underflow the kernels go on in logarithms: the
    plan is finite for any regularisation as long as cost / reg, in float64, keeps digits after the
    point. Definition, edge rules, sources: `fastloss/reference/sinkhorn.py`.

    Args:
        cost: (B, N, M), floating point. +inf forbids a pair.
        a: (B, N), masses of the rows, >= 0, floating point. 0 leaves a row out (padding).
        b: (B, M), masses of the columns, likewise.
        reg: Weight of the entropy, > 0, in the unit of the cost.
        num_iter: Rounds, >= 1; with `tol` at most so many.
        tau_a: None: the masses of the rows are kept. Otherwise the weight, > 0, of the
            Kullback-Leibler divergence from them.
        tau_b: The same for the columns.
        tol: Stop an image when no log v has moved by more in a round, >= 0. In the balanced case
            that is the relative error of the columns' masses. The host is not asked.
        return_potentials: Return reg log u and reg log v too.

    Returns:
        (B, N, M) in the cost's dtype, or with potentials (plan, (B, N), (B, M)). Without a
        gradient; `transport_cost` has one. An image with a mass that is negative or not finite, or
        a cost of NaN or -inf, is NaN.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    plan, f, g = _solve(cost, a, b, reg, num_iter, tau_a, tau_b, tol)
    return (plan, f, g) if check.flag("return_potentials", return_potentials) else plan


def transport_cost(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    reg: float,
    num_iter: int = 20,
    tau_a: float | None = None,
    tau_b: float | None = None,
    tol: float | None = None,
) -> Tensor:
    r"""The entropic transport cost of each image, differentiable in the cost matrix.

    The dual objective at the potentials f = reg log u and g = reg log v of `sinkhorn`,

    .. math:: \sum_i a_i \varphi_a(f_i) + \sum_j b_j \varphi_b(g_j) - reg \sum_{ij} P_{ij},

    where :math:`\varphi(f) = f` on a balanced side and :math:`\tau (1 - e^{-f / \tau})` on another.
    A mass that reaches nothing, f = -inf, has 0 in place of it on a balanced side, tau on another.
    At convergence it is the least :math:`\sum P \, cost + reg \sum P (\log P - 1)`, plus what the
    unbalanced sides pay. Its gradient is the plan, for any number of rounds: at the optimum the
    potentials need no derivative.

    Args:
        cost: (B, N, M); this and all others as for `sinkhorn`.

    Returns:
        (B,), in the cost's dtype.

    Raises:
        TypeError, ValueError: an argument is not as described.

    Source: Cuturi, NeurIPS 2013, arXiv 1306.0895; Peyré and Cuturi, arXiv 1803.00567, section 4.
    """
    plan, f, g = _solve(cost, a, b, reg, num_iter, tau_a, tau_b, tol)
    dtype = plan.dtype if plan.dtype == torch.float64 else torch.float32
    plan = plan.to(dtype)
    moved = (plan * torch.where(plan == 0, 0, cost)).sum((1, 2))  # of NaN the gradient is NaN
    value = _dual(a, f.to(dtype), tau_a) + _dual(b, g.to(dtype), tau_b) - reg * plan.sum((1, 2))
    return (value + (moved - moved.detach())).to(cost.dtype)


def _dual(mass: Tensor, potential: Tensor, tau: float | None) -> Tensor:
    """The part of the dual objective of one side. What has no mass or reaches nothing has no part
    in it, but leaving a mass out costs an unbalanced side tau times that mass."""
    lost = potential == -torch.inf
    if tau is None:
        value = potential.masked_fill(lost, 0)
    else:
        value = (-tau * torch.expm1(-potential / tau)).masked_fill(lost, tau)
    return (mass.detach().to(potential.dtype) * value).sum(1)


def _solve(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    reg: float,
    num_iter: int,
    tau_a: float | None,
    tau_b: float | None,
    tol: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plan and potentials, once the arguments are what they should be."""
    check.floating("cost", cost)
    if cost.dim() != 3:
        raise ValueError(f"cost must have shape (B, N, M), got {tuple(cost.shape)}")
    for name, mass, shape in (("a", a, cost.shape[:2]), ("b", b, cost.shape[::2])):
        check.floating(name, mass)
        check.tensor_on(name, mass, "cost", cost)
        if mass.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(mass.shape)}")
    reg = check.at_least("reg", reg, 0, strict=True)
    if isinstance(num_iter, bool) or not isinstance(num_iter, int):
        raise TypeError(f"num_iter must be an int, got {type(num_iter).__name__}")
    check.at_least("num_iter", num_iter, 1)
    taus = [
        None if tau is None else check.at_least(name, tau, 0, strict=True)
        for name, tau in (("tau_a", tau_a), ("tau_b", tau_b))
    ]
    tol = None if tol is None else check.at_least("tol", tol, 0)
    return _op(cost.detach(), a.detach(), b.detach(), reg, num_iter, *taus, tol)
