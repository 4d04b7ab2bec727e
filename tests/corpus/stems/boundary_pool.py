"""Sliding maxima: exact whatever the values, ties, NaN and infinities included."""

import hypothesis.strategies as st
from checking import Case
from drawing import layouts, normal, placed, seeds, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

# Around the widths of vectors and of the strips of columns.
SIDES = (0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 63, 65)
WINDOWS = (1, 3, 3, 5, 7, 9, 15, 17, 19, 33, 65, 129)

sides = st.sampled_from(SIDES) | st.integers(1, 40)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    shape = draw(st.tuples(st.integers(0, 2), st.integers(0, 3), sides, sides))
    x = normal(draw(seeds), shape)
    if draw(st.booleans()):
        x = (x * 2).round()
    x = draw(special(x)) if draw(wild) else x
    options = {"window": draw(st.sampled_from(WINDOWS))}
    return Case(
        Sample("boundary_pool", F.boundary_pool, draw(placed({"x": x})), options),
        draw(layouts),
        "exactly",
    )


cases = _cases()
