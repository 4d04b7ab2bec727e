"""Lovász losses from histograms: softmax of logits or of probabilities, and hinge."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
from checking import Case

from . import lovasz


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    """The calls of `lovasz`. An error at the edge of a bin may count to the next one in another
    precision: with many bins that changes the value little. Those of hinge are exact."""
    case, bins = draw(lovasz.cases), draw(st.sampled_from((1, 7, 64, 4096, 65536)))
    compare = case.compare
    if case.sample.name == "lovasz_softmax" and compare != "nothing":
        compare = "value" if bins >= 4096 else "nothing"
    sample = dataclasses.replace(
        case.sample.with_options(method="histogram", bins=bins), constant=("target",)
    )
    return dataclasses.replace(case, sample=sample, compare=compare)


cases = _cases()
