"""Cross entropy of hard pixels."""

from __future__ import annotations

import hypothesis.strategies as st
from checking import Case
from drawing import how_alike, layouts, normal, placed, seeds, wild
from drawing import with_special_values as special
from torch import Tensor

import fastloss.functional as F
from fastloss.reference import ohem_pixels, ohem_threshold
from fastloss.testing import Sample

from .segmentation_table import VALUES, images, labels, refused


def _is_clear(x: Tensor, target: Tensor, options: dict[str, object]) -> bool:
    """Whether the same pixels are kept in every precision and order of a sum: none is nearly at the
    threshold, and those that are at it have the same logits."""
    p = ohem_pixels.forward(x.double(), target, options["ignore_index"])
    rank = min(options["min_kept"], 2**40) * (len(x) if options["rule"] == "mmseg" else 1)
    t = ohem_threshold.forward(p, rank, options["thresh"], options["rule"])
    near = (p[0] - t).abs() < 1e-5  # (N, *)
    logits = x.movedim(1, -1)[near]
    return not bool((near & (p[0] != t)).any()) and bool((logits == logits[:1]).all())


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(images())
    x = normal(draw(seeds), shape) * draw(st.sampled_from((0.0, 1.0, 1.0, 5.0)))
    x = draw(special(x, VALUES)) if is_wild else x
    inputs = draw(placed({"logits": x, "target": draw(labels(shape))}))
    count = shape[0] * shape[2]
    kept = st.sampled_from((0, 1, 2, count // 2, max(count - 1, 0), count, count + 1, 2**62))
    options = {
        "thresh": draw(st.sampled_from((0.0, 0.1, 1 / shape[1], 0.5, 0.7, 1.0))),
        "min_kept": draw(kept | st.integers(0, count)),
        "rule": draw(st.sampled_from(("gdl", "mmseg"))),
        "ignore_index": draw(st.sampled_from((255, 255, None, 0))),
    }
    if draw(st.booleans()):
        weight = normal(draw(seeds), shape[1:2]).abs()
        weight[draw(st.integers(0, shape[1] - 1))] = draw(st.sampled_from((0.0, 1.0)))
        inputs["class_weight"] = draw(layouts)(weight.to(inputs["logits"].dtype))
    bad = refused(inputs["target"], shape[1], options["ignore_index"])
    clear = bad or _is_clear(inputs["logits"], inputs["target"], options)
    sample = Sample("ohem_cross_entropy", F.ohem_cross_entropy, inputs, options, scale=1.0)
    return Case(sample, draw(layouts), how_alike(is_wild) if clear else "nothing", bad)


cases = _cases()
