"""Assignments of rectangular problems, of random numbers, of integers with ties, and forbidden
pairs; what padded columns hold does not matter."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import layouts, normal, placed, seeds, small_counts

from fastloss.testing import Sample
from fastloss.testing.samples.linear_assignment import chosen_costs


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    shape = (draw(st.integers(0, 4)), draw(small_counts), draw(small_counts))
    cost = normal(draw(seeds), shape)
    kind = draw(st.sampled_from(("random", "ties", "constant", "ranges", "forbidden")))
    if kind == "ties":
        cost = (cost * 2).round()
    elif kind == "constant":
        cost = torch.ones_like(cost)
    elif kind == "ranges":  # float16 holds them
        cost = cost.sign() * torch.exp2((cost * 4).clamp(-14, 14))
    g = torch.Generator().manual_seed(draw(seeds))
    share = draw(st.sampled_from((0.0, 0.5, 0.9, 1.0)))
    mask = torch.rand(shape[0], shape[2], generator=g) < share
    if kind == "forbidden":  # never those of equal number, so that an assignment is left
        some = torch.rand(shape, generator=g) < 0.5
        cost = cost.masked_fill(some & ~torch.eye(*shape[1:], dtype=torch.bool), torch.inf)
        mask = mask & (torch.arange(shape[2]) < shape[1])
    fill = draw(st.sampled_from((0.0, torch.nan, torch.inf, -torch.inf)))
    # Padding of all problems, as a layout may repeat the first one.
    cost = cost.masked_fill(~mask.any(0), fill)
    inputs = draw(placed({"cost": cost, "mask": mask}))
    if share == 1.0 and kind != "forbidden":
        inputs["mask"] = None
    sample = Sample("linear_assignment", chosen_costs, inputs)
    return Case(sample, draw(layouts), "exactly")


cases = _cases()
