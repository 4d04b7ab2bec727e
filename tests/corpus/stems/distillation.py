"""Distillation of a teacher's classes, some of them excluded."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import how_alike, layouts, normal, placed, reductions, seeds, weights, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

from .distribution_focal import ROWS
from .segmentation_table import VALUES


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, count = draw(wild), draw(st.sampled_from(ROWS))
    columns = draw(st.sampled_from((1, 2, 5, 17, 81, 255, 256, 257, 600)))
    shape = (min(count, 3_000 // columns), columns)
    logits, teacher = normal(draw(seeds), shape), normal(draw(seeds), shape)
    logits *= draw(st.sampled_from((1.0, 5.0)))
    excluded = torch.rand(columns, generator=torch.Generator().manual_seed(draw(seeds))) < 0.2
    if columns > 1 and draw(st.booleans()):
        teacher[:, excluded.logical_and(torch.arange(columns) > 0)] = -torch.inf
    if is_wild:
        logits, teacher = draw(special(logits, VALUES)), draw(special(teacher, VALUES))
    weight = draw(weights(shape[:1], is_wild))
    inputs = draw(placed({"logits": logits, "teacher_logits": teacher, "weight": weight}))
    options = {"temperature": draw(st.sampled_from((10.0, 4.0, 1.0, 0.5)))}
    constant = ("teacher_logits", "avg_factor")
    options |= draw(reductions())
    # p - q, each up to 1, of which T / C is the gradient.
    scale = max(options["temperature"] / columns, 0.1)
    sample = Sample("distillation", F.distillation_loss, inputs, options, constant, scale=scale)
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
