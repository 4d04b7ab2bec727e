"""Seesaw loss of rows, with background, classes out of range and counts of any size."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import counts, how_alike, layouts, normal, placed, reductions, seeds, weights, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, rows, classes = draw(wild), draw(st.integers(0, 5)), max(draw(counts), 1)
    logits = normal(draw(seeds), (rows, classes)) * draw(st.sampled_from((0.1, 1.0, 30.0)))
    logits = draw(special(logits)) if is_wild else logits
    g = torch.Generator().manual_seed(draw(seeds))
    target = torch.randint(0, classes + 1, (rows,), generator=g)
    if rows and draw(st.integers(0, 7)) == 0:
        bad = draw(st.sampled_from((-1, classes + 1, -100, 2**31, 2**32, 2**40, -(2**62))))
        target[draw(st.integers(0, rows - 1))] = bad
    count = normal(draw(seeds), (classes,)).abs() * draw(st.sampled_from((0.0, 2.0, 1e4)))
    count = draw(special(count, (0.0, 1.0, 1e-40, torch.inf))) if is_wild else count
    fits = [t for t in DTYPES if torch.equal(target.to(t).long(), target)]
    tensors = {"logits": logits, "target": target.to(draw(st.sampled_from(fits)))}
    weight = draw(weights((rows,), is_wild))
    inputs = draw(placed({**tensors, "class_count": count, "weight": weight}))
    options = {
        "p": draw(st.sampled_from((0.8, 0.0, 2.0, -1.0))),
        "q": draw(st.sampled_from((2.0, 0.0, 0.5, -1.0))),
        "eps": draw(st.sampled_from((1e-2, 1e-30, 1.0))),
        **draw(reductions()),
    }
    constant = ("target", "class_count", "avg_factor")
    target = inputs["target"].long()
    bad = bool(((target < 0) | (target > classes)).any())
    sample = Sample("seesaw", F.seesaw_loss, inputs, options, constant)
    return Case(sample, draw(layouts), how_alike(is_wild), bad)


cases = _cases()
