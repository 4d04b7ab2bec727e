"""Dice loss of masks, of logits and of probabilities, soft and hard."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import counts, how_alike, layouts, normal, placed, reductions, seeds, weights, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int64)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), (draw(st.integers(0, 5)), draw(counts))
    activated = draw(st.booleans())
    logits = normal(draw(seeds), shape) * draw(st.sampled_from((0.1, 1.0, 30.0)))
    logits = logits.sigmoid() if activated else logits
    logits = (
        draw(special(logits, (0.0, 1.0, torch.inf, -torch.inf, torch.nan))) if is_wild else logits
    )
    g = torch.Generator().manual_seed(draw(seeds))
    target = torch.rand(shape, generator=g, dtype=torch.float64)
    if draw(st.booleans()):
        target = (target < draw(st.sampled_from((0.0, 0.1, 1.0)))).to(draw(st.sampled_from(DTYPES)))
    weight = draw(weights(shape[:1], is_wild))
    inputs = draw(placed({"logits": logits, "target": target, "weight": weight}))
    options = {
        "squared": draw(st.booleans()),
        "eps": draw(st.sampled_from((1e-3, 1.0, 0.0))),
        "activated": activated,
        **draw(reductions()),
    }
    sample = Sample("mask_dice", F.mask_dice_loss, inputs, options, ("avg_factor",), scale=1.0)
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
