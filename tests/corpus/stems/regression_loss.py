"""Element-wise regression losses."""

import hypothesis.strategies as st
from checking import Case
from drawing import how_alike, layouts, normal, placed, reductions, seeds, shapes, weights, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.reference.regression_loss import KINDS
from fastloss.testing import Sample


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(shapes())
    pred, target = normal(draw(seeds), (2, *shape))
    if is_wild:
        pred, target = draw(special(pred)), draw(special(target))
    tensors = {"pred": pred, "target": target, "weight": draw(weights(shape, is_wild))}
    options = {"kind": draw(st.sampled_from(KINDS)), **draw(reductions())}
    if options["kind"] == "balanced_l1":
        options["alpha"] = draw(st.sampled_from((0.5, 0.2)))
    if draw(st.booleans()):
        options["beta"] = draw(st.sampled_from((1e-3, 0.11, 1.0, 50.0)))
    sample = Sample("regression_loss", F.regression_loss, draw(placed(tensors)), options)
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
