"""Softmax cross entropy of pixels, unreduced and reduced, and the softmax focal loss."""

from __future__ import annotations

import hypothesis.strategies as st
from checking import Case
from drawing import how_alike, layouts, normal, placed, seeds, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample
from fastloss.testing.samples.cross_entropy import focal

from .segmentation_table import VALUES, images, labels, refused


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(images())
    x = normal(draw(seeds), shape) * draw(st.sampled_from((1.0, 5.0)))
    x = draw(special(x, VALUES)) if is_wild else x
    inputs = draw(placed({"logits": x, "target": draw(labels(shape))}))
    if draw(st.integers(0, 3)) == 0:
        options = {
            "gamma": draw(st.sampled_from((0.0, 1.0, 1.5, 2.0))),
            "threshold": draw(st.sampled_from((None, 0.5))),
        }
        function, ignored = focal, None
    else:
        ignored = draw(st.sampled_from((255, 255, None, 0)))
        options = {
            "ignore_index": ignored,
            "label_smoothing": draw(st.sampled_from((0.0, 0.0, 0.1, 1.0))),
            "reduction": draw(st.sampled_from(("none", "none", "mean", "sum"))),
        }
        function = F.cross_entropy
        if draw(st.booleans()):
            weight = normal(draw(seeds), shape[1:2]).abs()
            inputs["class_weight"] = draw(layouts)(weight.to(inputs["logits"].dtype))
    bad = refused(inputs["target"], shape[1], ignored)
    sample = Sample(function.__name__, function, inputs, options, scale=0.1)
    return Case(sample, draw(layouts), how_alike(is_wild), bad)


cases = _cases()
