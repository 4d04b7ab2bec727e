"""Sums of binary cross entropies and of their gradients for every class."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import how_alike, layouts, normal, placed, seeds, small_counts, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample

# Beyond 1e30 the kernels' smallest sigmoid, 2^-126, is no longer 0 beside the logit.
VALUES = (0.0, -0.0, 1e-310, 1e-40, -1e-3, 88.0, -104.0, 65504.0, -7e4, 1e9)
VALUES += (torch.inf, -torch.inf, torch.nan)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, rows = draw(wild), draw(st.integers(0, 5) | st.just(200))
    classes = draw(st.integers(1, 9) if rows > 5 else small_counts.filter(bool))
    logits = normal(draw(seeds), (rows, classes)) * draw(st.sampled_from((0.1, 3.0, 30.0)))
    logits = draw(special(logits, VALUES)) if is_wild else logits
    g = torch.Generator().manual_seed(draw(seeds))
    labels = torch.randint(0, classes, (rows,), generator=g)
    bad = rows > 0 and draw(st.integers(0, 5)) == 0
    if bad:
        labels[draw(st.integers(0, rows - 1))] = draw(st.sampled_from((-1, classes, 2**40)))
    labels = labels if bad else labels.to(draw(st.sampled_from((torch.int64, torch.int32))))
    tensors = {"logits": logits, "labels": labels}
    for name in ("pos_weight", "neg_weight"):
        tensors[name] = normal(draw(seeds), (classes,)).abs() + 0.1
    inputs = draw(placed(tensors))
    bad = bool(((inputs["labels"] < 0) | (inputs["labels"] >= classes)).any())
    options = {"reduction": draw(st.sampled_from(("mean", "sum")))}
    sample = Sample("equalization", F.equalization_loss, inputs, options, ())
    return Case(sample, draw(layouts), how_alike(is_wild), bad)


cases = _cases()
