"""Hard negatives of rows; their losses, which are compared, are copied and not computed."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import counts, how_alike, layouts, normal, placed, seeds, wild
from drawing import with_special_values as special

from fastloss.testing import Sample
from fastloss.testing.samples.hard_negative_mask import hard_losses


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), (draw(st.integers(0, 4)), draw(counts))
    loss = normal(draw(seeds), shape)
    if draw(st.booleans()):
        loss = (loss * 2).round()  # ties
    loss = draw(special(loss)) if is_wild else loss
    share = draw(st.sampled_from((0.0, 0.5, 0.9, 1.0)))
    g = torch.Generator().manual_seed(draw(seeds))
    some = st.sampled_from((-1, 0, 1, 2, shape[1], 2**31 - 1)) | st.integers(0, shape[1])
    count = torch.tensor(draw(st.lists(some, min_size=shape[0], max_size=shape[0])))
    count = count.to(draw(st.sampled_from((torch.int32, torch.int64))))
    negative = torch.rand(shape, generator=g) < share
    if draw(st.booleans()):  # masses, whose sums are exact in any order
        negative = negative * torch.randint(-1, 5, shape, generator=g) / 4.0
        count = count.double() if draw(st.booleans()) else count
    inputs = draw(placed({"loss": loss, "negative": negative, "count": count}))
    sample = Sample("hard_negative_mask", hard_losses, inputs, constant=("negative", "count"))
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
