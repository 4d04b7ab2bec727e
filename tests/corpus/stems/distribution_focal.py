"""Distribution focal loss, with targets that are mostly, but not always, inside."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import how_alike, layouts, normal, placed, reductions, seeds, weights, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

from .segmentation_table import VALUES

ROWS = (0, 1, 2, 3, 31, 63, 64, 65, 127, 128, 129, 511, 512, 513, 577)
OUTSIDE = (-0.5, -1e30, 1e30, torch.inf, -torch.inf, torch.nan)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, count = draw(wild), draw(st.sampled_from(ROWS))
    n = draw(st.sampled_from((1, 2, 3, 7, 16, 32, 300)))
    logits = normal(draw(seeds), (min(count, 3_000 // n), n + 1))
    logits *= draw(st.sampled_from((1.0, 5.0)))
    logits = draw(special(logits, VALUES)) if is_wild else logits
    g = torch.Generator().manual_seed(draw(seeds))
    # Eighths are the same in every dtype, integers among them.
    target = torch.randint(0, 8 * n, logits.shape[:1], generator=g).double() / 8
    if len(target) and draw(st.integers(0, 7)) == 0:
        position = draw(st.integers(0, len(target) - 1))
        target[position] = draw(st.sampled_from((*OUTSIDE, float(n), n + 0.5)))
    weight = draw(weights(logits.shape[:1], is_wild))
    inputs = draw(placed({"logits": logits, "target": target, "weight": weight}))
    outside = ~((inputs["target"] >= 0) & (inputs["target"] < n))
    sample = Sample(
        "distribution_focal", F.distribution_focal_loss, inputs, draw(reductions()), ("avg_factor",)
    )
    return Case(sample, draw(layouts), how_alike(is_wild), bool(outside.any()))


cases = _cases()
