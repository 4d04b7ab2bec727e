"""Several regression losses of two tensors."""

import hypothesis.strategies as st
from checking import Case
from drawing import how_alike, layouts, normal, placed, seeds, shapes, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.reference.regression_terms import KINDS
from fastloss.testing import Sample


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(shapes())
    pred, target = normal(draw(seeds), (2, *shape))
    if is_wild:
        pred, target = draw(special(pred)), draw(special(target))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    count = len(kinds)
    options = {"kinds": kinds}
    if draw(st.booleans()):
        betas = st.sampled_from((1e-3, 0.11, 1.0, 50.0))
        options["beta"] = draw(betas | st.lists(betas, min_size=count, max_size=count))
    if draw(st.booleans()):
        how = st.sampled_from(("mean", "sum"))
        options["reduction"] = draw(how | st.lists(how, min_size=count, max_size=count))
    tensors = draw(placed({"pred": pred, "target": target}))
    sample = Sample("regression_terms", F.regression_terms, tensors, options)
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
