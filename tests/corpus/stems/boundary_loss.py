"""Boundary loss: of logits for which every precision finds the same maxima, and of any others."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import layouts, normal, placed, seeds, wild
from drawing import with_special_values as special
from torch import Tensor

import fastloss.functional as F
from fastloss.testing import Sample
from fastloss.testing.samples.boundary import loss_input

from .boundary_pool import WINDOWS, sides
from .segmentation_table import CLASSES, VALUES, refused

small_sides = st.integers(1, 7)


@st.composite
def _labels(draw: st.DrawFn, labels: Tensor, classes: int) -> Tensor:
    """In some integer type, sometimes with one out of range."""
    labels = labels.clone()
    if labels.numel() and draw(st.integers(0, 7)) == 0:
        bad = draw(st.sampled_from((-1, classes, 200, 2**31, 2**40, -(2**62))))
        labels.view(-1)[draw(st.integers(0, labels.numel() - 1))] = bad
    fits = [torch.uint8, torch.int8, torch.int16, torch.int32]
    fits = [t for t in fits if torch.equal(labels.to(t).long(), labels)]
    return labels.to(draw(st.sampled_from([torch.int64, *fits])))


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    theta0, theta = draw(st.sampled_from(WINDOWS[:-2])), draw(st.sampled_from(WINDOWS[:-2]))
    n, is_wild, g = draw(st.integers(0, 3)), draw(wild), torch.Generator()
    g.manual_seed(draw(seeds))
    if n and not is_wild and max(theta0, theta) < 10:
        compare = "exactly"
        shape = (n, draw(st.integers(1, 4)), draw(small_sides), draw(small_sides))
        x, labels = loss_input(shape, theta0, theta, g)
    else:
        compare = "value"
        classes, height = draw(st.sampled_from((*CLASSES, 65))), draw(sides)
        width = min(draw(sides), 3000 // (classes * max(height, 1)))
        shape = (n, classes, height, width)
        x = normal(draw(seeds), shape) * 2
        x = draw(special(x, VALUES)) if is_wild else x
        block = draw(st.integers(1, 9))
        small = (n, shape[2] // block + 1, shape[3] // block + 1)
        labels = torch.randint(0, shape[1], small, generator=g)
        labels = labels.repeat_interleave(block, 1).repeat_interleave(block, 2)
        labels = labels[:, : shape[2], : shape[3]].contiguous()
    inputs = draw(placed({"logits": x, "target": draw(_labels(labels, shape[1]))}))
    reduction = draw(st.sampled_from(("none", "mean", "sum")))
    options = {"theta0": theta0, "theta": theta, "reduction": reduction}
    sample = Sample("boundary_loss", F.boundary_loss, inputs, options, scale=0.1)
    return Case(sample, draw(layouts), compare, refused(inputs["target"], shape[1], None))


cases = _cases()
