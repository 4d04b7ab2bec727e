r"""Segmentation losses from the table of sums of `segmentation_table`.

A call has T terms; term i has a kind, eight parameters and two rows u, v of class weights (1 if not
given). With the columns of the table written as X_c (summed over the groups but for region terms):

    cross_entropy  sum_c u_c ((1 - s) nll_c + s / C neg_log_prob_c) / d
    softmax_focal  sum_c u_c softmax_focal_c / k / d,  k = max(sum_c softmax_focal_term_c, 1e-6) if
                   normalized, else 1
    sigmoid_focal  sum_c u_c sigmoid_focal_c / k_c / d_c / sum_c u_c,  k_c likewise for each class
    soft_bce       sum_c (v_c bce_positive_c + u_c bce_negative_c) / d
    region         mean over groups of (sum_c u_c l_c / sum_c u_c)^g, with the score
                   r_c = (overlap + smooth) / max(overlap + a (probability - overlap)
                                                  + b (target - overlap) + smooth, eps)
                   l_c = 1 - r_c, or -ln max(r_c, eps) if log; 0 without target
    mcc            1 - (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)),  each of the
                   four counts with eps added, tp = sum product, fp = sum probability - tp

d is the parameter `divisor`; if that is negative: sum_c u_c target_c (cross_entropy and
softmax_focal), valid_c (sigmoid_focal), sum_c valid_c (soft_bce), raised to `floor` so that a mean
over nothing is 0 (floor = 1e-300) or NaN (floor = 0).

Dice is a region term with a = b = 1/2, Jaccard with a = b = 1. Sources: as `segmentation_table`;
Abhishek & Hamarneh arXiv 2010.13454 (Matthews correlation).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .segmentation_table import columns

# kind -> its parameters after the weight, in order
PARAMETERS = {
    "cross_entropy": ("divisor", "floor", "smoothing"),
    "softmax_focal": ("divisor", "floor", "normalized"),
    "sigmoid_focal": ("divisor", "floor", "normalized"),
    "soft_bce": ("divisor", "floor"),
    "region": ("alpha", "beta", "smooth", "eps", "log", "gamma", "per_image"),
    "mcc": ("eps",),
}
KINDS = tuple(PARAMETERS)
WIDTH = 8  # numbers a term has in `parameters`: its weight, then those of its kind, then zeros
NORMALIZER = 1e-6


class _Term(NamedTuple):
    kind: str
    weight: float
    options: dict[str, float]
    u: Tensor  # (C,)
    v: Tensor  # (C,)


def _terms(
    table: Tensor, class_weights: Tensor | None, kinds: Sequence[int], parameters: Sequence[float]
) -> list[_Term]:
    """The terms of a call; class_weights is (T, 2, C)."""
    if class_weights is None:
        class_weights = table.new_ones(()).expand(len(kinds), 2, table.shape[-1])
    class_weights = class_weights.to(table.dtype)
    terms = []
    for i, kind in enumerate(kinds):
        weight, *numbers = parameters[i * WIDTH : (i + 1) * WIDTH]
        names = PARAMETERS[KINDS[kind]]
        terms.append(_Term(KINDS[kind], weight, dict(zip(names, numbers)), *class_weights[i]))
    return terms


def _divisor(term: _Term, total: dict[str, Tensor]) -> Tensor | float:
    """d of the definitions, (C,) for sigmoid_focal."""
    if term.options["divisor"] >= 0:
        return total["nothing"] + term.options["divisor"]
    if term.kind == "sigmoid_focal":
        d = total["valid"]
    elif term.kind == "soft_bce":
        d = total["valid"].sum()
    else:
        d = (term.u * total["target"]).sum()
    return d.clamp(min=term.options["floor"])


def _region(term: _Term, x: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For every group the class-weighted mean of l, (G,); r; the unclamped denominator, and the
    clamped one, (G, C)."""
    o = term.options
    false_positive, false_negative = x["probability"] - x["overlap"], x["target"] - x["overlap"]
    below = x["overlap"] + o["alpha"] * false_positive + o["beta"] * false_negative + o["smooth"]
    clamped = below.clamp(min=o["eps"])
    score = (x["overlap"] + o["smooth"]) / clamped
    loss = -score.clamp(min=o["eps"]).log() if o["log"] else 1 - score
    loss = loss * (x["target"] > 0)
    return (term.u * loss).sum(-1) / term.u.sum(), score, below, clamped


def _power(mean: Tensor, gamma: float) -> Tensor:
    """mean^gamma; for gamma < 1 its derivative at 0, where the mean is least, counts as 0."""
    if gamma >= 1:
        return mean**gamma
    return torch.where(mean == 0, 0.0**gamma, torch.where(mean == 0, 1, mean) ** gamma)


def _counts(x: dict[str, Tensor], eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tp = x["product"].sum()
    fp, fn = x["probability"].sum() - tp, x["target"].sum() - tp
    return tp + eps, x["valid"].sum() - tp - fp - fn + eps, fp + eps, fn + eps


def _value(term: _Term, table: dict[str, Tensor], total: dict[str, Tensor]) -> Tensor:
    """The unweighted term."""
    o, u, v = term.options, term.u, term.v
    if term.kind == "region":
        mean = _region(term, table if o["per_image"] else total)[0]
        return _power(mean, o["gamma"]).sum() / max(len(mean), 1)
    if term.kind == "mcc":
        tp, tn, fp, fn = _counts(total, o["eps"])
        return 1 - (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt()
    d = _divisor(term, total)
    if term.kind == "cross_entropy":
        sums = (1 - o["smoothing"]) * total["nll"]
        if o["smoothing"]:
            sums = sums + o["smoothing"] / len(u) * total["neg_log_prob"]
        return (u * sums).sum() / d
    if term.kind == "soft_bce":
        return (v * total["bce_positive"] + u * total["bce_negative"]).sum() / d
    sums = total[term.kind]
    if term.kind == "softmax_focal":
        if o["normalized"]:
            sums = sums / total["softmax_focal_term"].sum().clamp(min=NORMALIZER)
        return (u * sums).sum() / d
    if o["normalized"]:
        sums = sums / total["sigmoid_focal_term"].clamp(min=NORMALIZER)
    return (u * sums / d).sum() / u.sum()


def _slopes(
    term: _Term, table: dict[str, Tensor], total: dict[str, Tensor]
) -> dict[str, Tensor | float]:
    """Derivatives of `_value` with respect to the columns that it reads, each broadcast to (G, C).

    The divisors depend on the target's counts alone, through which no gradient flows, but for
    region and mcc terms.
    """
    o, u, v = term.options, term.u, term.v
    if term.kind == "region":
        x = table if o["per_image"] else total
        mean, score, below, clamped = _region(term, x)
        power = o["gamma"] * mean ** (o["gamma"] - 1)
        if o["gamma"] < 1:
            power = power.masked_fill(mean == 0, 0)
        g = (power / max(len(mean), 1))[:, None] * u / u.sum() * (x["target"] > 0)  # of l, (G, C)
        g = -g * ((score >= o["eps"]) / score.clamp(min=o["eps"]) if o["log"] else 1)  # of r
        g_below = -g * score / clamped * (below >= o["eps"])
        return {
            "overlap": g / clamped + g_below * (1 - o["alpha"] - o["beta"]),
            "probability": g_below * o["alpha"],
            "target": g_below * o["beta"],
        }
    if term.kind == "mcc":
        tp, tn, fp, fn = _counts(total, o["eps"])
        factors = (tp + fp, tp + fn, tn + fp, tn + fn)
        root = (factors[0] * factors[1] * factors[2] * factors[3]).sqrt()
        half = (tp * tn - fp * fn) / root / 2
        a, b, c, d = (half / factor for factor in factors)
        g_tp, g_tn = a + b - tn / root, c + d - tp / root
        g_fp, g_fn = a + c + fn / root, b + d + fp / root
        return {
            "product": g_tp + g_tn - g_fp - g_fn,
            "probability": g_fp - g_tn,
            "target": g_fn - g_tn,
        }
    d = _divisor(term, total)
    if term.kind == "cross_entropy":
        slopes = {"nll": (1 - o["smoothing"]) * u / d}
        if o["smoothing"]:
            slopes["neg_log_prob"] = o["smoothing"] / len(u) * u / d
        return slopes
    if term.kind == "soft_bce":
        return {"bce_positive": v / d, "bce_negative": u / d}
    g = u / d if term.kind == "softmax_focal" else u / d / u.sum()
    if not o["normalized"]:
        return {term.kind: g}
    sums, terms = total[term.kind], total[f"{term.kind}_term"]
    if term.kind == "softmax_focal":
        sums, terms, g_sums = (g * sums).sum(), terms.sum(), g
    else:
        g_sums, sums = g, g * sums
    k = terms.clamp(min=NORMALIZER)
    return {term.kind: g_sums / k, f"{term.kind}_term": -sums / (k * k) * (terms >= NORMALIZER)}


def _columns(table: Tensor, statistics: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Columns by name, (G, C), and their sums over the groups, (1, C)."""
    by_name = dict(zip(columns(statistics), table.unbind(1)))
    total = {name: column.sum(0, keepdim=True) for name, column in by_name.items()}
    total["nothing"] = table.new_zeros(())
    return by_name, total


def forward(
    table: Tensor,  # (G, S, C) float64
    class_weights: Tensor | None,  # (T, 2, C)
    statistics: int,
    kinds: Sequence[int],
    parameters: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """(1 + T,) in `dtype`: the sum of the weighted terms, then each of them."""
    by_name, total = _columns(table, statistics)
    terms = _terms(table, class_weights, kinds, parameters)
    values = torch.stack([term.weight * _value(term, by_name, total) for term in terms])
    return torch.cat((values.sum(0, keepdim=True), values)).to(dtype)


def backward(
    grad: Tensor,
    table: Tensor,
    class_weights: Tensor | None,
    statistics: int,
    kinds: Sequence[int],
    parameters: Sequence[float],
    dtype: torch.dtype,
    needs: int,
) -> list[Tensor]:
    """Gradient to the table."""
    by_name, total = _columns(table, statistics)
    names, grad = columns(statistics), grad.to(table.dtype)
    result = torch.zeros_like(table)
    for i, term in enumerate(_terms(table, class_weights, kinds, parameters)):
        g = term.weight * (grad[0] + grad[1 + i])
        for name, slope in _slopes(term, by_name, total).items():
            result[:, names.index(name)] += g * slope
    return [result]
