"""Multi-positive cross entropy of rows of similarities."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import counts, how_alike, layouts, normal, placed, reductions, seeds, weights, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), (draw(st.integers(0, 5)), draw(counts))
    logits = normal(draw(seeds), shape) * draw(st.sampled_from((0.1, 1.0, 30.0)))
    logits = draw(special(logits)) if is_wild else logits
    g = torch.Generator().manual_seed(draw(seeds))
    positive = torch.rand(shape, generator=g) < draw(st.sampled_from((0.0, 0.05, 0.5, 1.0)))
    other = torch.rand(shape, generator=g) < draw(st.sampled_from((0.0, 0.3)))
    target = torch.where(other, 2, positive.long())
    target = target.to(draw(st.sampled_from((*DTYPES, torch.float64))))
    weight = draw(weights(shape[:1], is_wild))
    inputs = draw(placed({"logits": logits, "target": target, "weight": weight}))
    options = {"others_in_both": draw(st.booleans()), **draw(reductions())}
    sample = Sample(
        "contrastive", F.multi_positive_cross_entropy, inputs, options, ("target", "avg_factor")
    )
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
