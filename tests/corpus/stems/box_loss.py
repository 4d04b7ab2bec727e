"""Losses of aligned boxes, all kinds but bounded IoU."""

from collections.abc import Sequence

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import how_alike, layouts, normal, placed, reductions, seeds, shapes, weights, wild
from drawing import with_special_values as special
from torch import Tensor

import fastloss.functional as F
from fastloss.reference.box_loss import KINDS, MODES
from fastloss.testing import Sample


@st.composite
def pairs(draw: st.DrawFn, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Proper boxes of unit size or of thirty pixels; most pairs overlap, some coincide."""
    corner, size, moved, grown = normal(draw(seeds), (4, *shape, 2))
    change, size = draw(st.sampled_from((0.2, 1.0))), size.abs() + 0.3
    target = torch.cat((corner, corner + size), -1)
    corner, size = corner + change * moved * size, size * (change * grown.clamp(-1.5, 1.5)).exp()
    pred = torch.where(moved[..., :1] > 1.5, target, torch.cat((corner, corner + size), -1))
    unit = draw(st.sampled_from((1.0, 30.0)))
    return pred * unit, target * unit


def how_alike_boxes(special: bool, *boxes: Tensor) -> str:
    """`Case.compare`; nothing of huge inverted boxes: squares of their size cancel, or overflow."""
    huge = [x[..., :2] - x[..., 2:] > 1e7 for x in boxes]
    return "nothing" if any(bool(x.any()) for x in huge) else how_alike(special)


@st.composite
def cases_of(draw: st.DrawFn, kinds: Sequence[str]) -> Case:
    """Calls of `box_loss` with one of these kinds."""
    is_wild, shape, kind = draw(wild), draw(shapes()), draw(st.sampled_from(kinds))
    pred, target = draw(pairs(shape))
    if is_wild:
        pred, target = draw(special(pred)), draw(special(target))
    options = {"kind": kind, **draw(reductions())}
    if kind == "iou":
        options["mode"] = draw(st.sampled_from(MODES))
    if draw(st.booleans()):
        options["eps"] = draw(st.sampled_from((1e-3, 1e-6, *((0.0, 1e-16) if is_wild else ()))))
    for name, values in PARAMETERS.get(kind, {}).items():
        options[name] = draw(st.sampled_from(values))
    unreduced = (*shape, 4) if kind == "bounded_iou" else shape
    tensors = {"pred": pred, "target": target, "weight": draw(weights(unreduced, is_wild))}
    constant = ("target", "avg_factor") if kind == "bounded_iou" else ("avg_factor",)
    inputs = draw(placed(tensors))
    sample = Sample("box_loss", F.box_loss, inputs, options, constant=constant, scale=1.0)
    compare = how_alike_boxes(is_wild, inputs["pred"], inputs["target"])
    if options.get("mode") == "log" and options.get("eps") == 0 and compare == "alike":
        compare = "value"
    return Case(sample, draw(layouts), compare)


PARAMETERS = {
    "eiou": {"smooth_point": (0.1, 0.7)},
    "siou": {"neg_gamma": (False, True)},
    "bounded_iou": {"beta": (0.2, 1.0)},
}
cases = cases_of(KINDS)
