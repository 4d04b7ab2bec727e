"""Squared distances of pairs of embeddings, with the hardest of the negatives."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import how_alike, layouts, normal, placed, reductions, seeds, shapes, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

# Half precision has the multiples of 1/512 up to 4; a number is the margin of no other.
STEP = 1 / 512


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(shapes())
    # Multiples of a step and margins likewise: which is larger does not depend on the dtype.
    pred = (normal(draw(seeds), shape) / STEP).round() * STEP
    pred = draw(special(pred)) if is_wild else pred
    g = torch.Generator().manual_seed(draw(seeds))
    chance = torch.rand(shape, generator=g)
    target = torch.where(chance < draw(st.sampled_from((0.0, 0.1, 1.0))), 1.0, 0.0)
    target = torch.where(chance > draw(st.sampled_from((1.0, 0.9))), 0.5, target).double()
    tensors = {"pred": pred, "target": target}
    if draw(st.booleans()):
        kept = [1 if draw(st.booleans()) else size for size in shape]
        tensors["weight"] = torch.randint(-1, 4, kept, generator=g) / 2.0
    options = {
        "neg_pos_ub": draw(st.sampled_from((-1.0, 0.3, 1.0, 3.0, 1e300))),
        "pos_margin": draw(st.sampled_from((-1.0, 0.0, 0.25))),
        "neg_margin": draw(st.sampled_from((0.0, 0.25))),
        "min_positives": draw(st.sampled_from((0.0, 1.0))),
        **draw(reductions()),
    }
    constant = ("target", "avg_factor")
    sample = Sample(
        "embedding_distance", F.embedding_distance, draw(placed(tensors)), options, constant
    )
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
