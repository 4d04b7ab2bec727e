"""Softmax cross entropy of pixels and of rows, unreduced and reduced."""

from __future__ import annotations

import hypothesis.strategies as st
from checking import Case
from drawing import how_alike, layouts, normal, placed, reductions, seeds, weights, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

from .segmentation_table import VALUES, images, labels, refused


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(images())
    x, target = normal(draw(seeds), shape) * draw(st.sampled_from((1.0, 5.0))), draw(labels(shape))
    if draw(st.integers(0, 3)) == 0:  # rows
        x, target = x.movedim(1, 2).flatten(0, 1).contiguous(), target.flatten()
    x = draw(special(x, VALUES)) if is_wild else x
    class_weight = normal(draw(seeds), shape[1:2]).abs() if draw(st.booleans()) else None
    weight = draw(weights(target.shape, is_wild))
    tensors = {"logits": x, "target": target, "class_weight": class_weight, "weight": weight}
    inputs, ignored = draw(placed(tensors)), draw(st.sampled_from((255, 255, None, 0)))
    options = {
        "ignore_index": ignored,
        "label_smoothing": draw(st.sampled_from((0.0, 0.0, 0.1, 1.0))),
        **draw(reductions()),
    }
    bad = refused(inputs["target"], shape[1], ignored)
    constant = ("class_weight", "avg_factor")
    sample = Sample("cross_entropy", F.cross_entropy, inputs, options, constant, scale=0.1)
    return Case(sample, draw(layouts), how_alike(is_wild), bad)


cases = _cases()
