"""Similarity of all pairs of boxes."""

import hypothesis.strategies as st
from checking import Case
from drawing import counts, layouts, placed, small_counts, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.reference.pairwise_iou import KINDS
from fastloss.testing import Sample

from .box_loss import how_alike_boxes, pairs

BATCHES = (((), ()), ((), (2,)), ((3,), ()), ((2,), (2,)), ((1,), (3,)), ((2, 1), (3,)))


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, kind = draw(wild), draw(st.sampled_from(KINDS))
    batch1, batch2 = draw(st.sampled_from(BATCHES)) if draw(st.booleans()) else ((), ())
    few, many = draw(small_counts), draw(small_counts if batch1 or batch2 else counts)
    n, m = draw(st.permutations((few, many)))
    boxes1, boxes2 = draw(pairs((*batch1, n)))[0], draw(pairs((*batch2, m)))[1]
    if is_wild:
        boxes1, boxes2 = draw(special(boxes1)), draw(special(boxes2))
    options = {"kind": kind}
    if draw(st.booleans()):
        options["eps"] = draw(st.sampled_from((1e-3, 1e-6, *((0.0, 1e-16) if is_wild else ()))))
    inputs = draw(placed({"boxes1": boxes1, "boxes2": boxes2}))
    # Gradients of a box are sums over its pairs, whose terms cancel.
    scale = 1.0 + 0.1 * max(n, m)
    sample = Sample("pairwise_iou", F.pairwise_iou, inputs, options, scale=scale)
    compare = how_alike_boxes(is_wild, *inputs.values())
    if any(bool((x.double().abs() > 1e150).any()) for x in inputs.values()):
        compare = "nothing"
    return Case(sample, draw(layouts), compare)


cases = _cases()
