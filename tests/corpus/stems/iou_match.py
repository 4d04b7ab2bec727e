"""Max-IoU assignment. Numbers of targets are compared, so always with the precision of the kernel:
in another one other IoUs are equal."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import counts, layouts, placed, seeds, small_counts, wild
from drawing import with_special_values as special

from fastloss.testing import Sample
from fastloss.testing.samples.iou_match import integer_boxes, matched

from .box_loss import pairs

THRESHOLDS = (0.0, 0.25, 1 / 3, 0.4, 0.5, 0.7, 1.0, 2.0)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    images = draw(st.integers(0, 3))
    n, m = draw(counts), draw(small_counts)
    if draw(st.booleans()):  # many ties
        g = torch.Generator().manual_seed(draw(seeds))
        boxes = integer_boxes(images, n, g=g, image=24)
        targets = integer_boxes(images, m, g=g, image=24)
    else:
        boxes, targets = draw(pairs((images, n)))[0], draw(pairs((images, m)))[1]
    if images and draw(st.booleans()):
        boxes = boxes[0]
    if draw(wild):
        boxes, targets = draw(special(boxes)), draw(special(targets))
    inputs = {"boxes": boxes, "target_boxes": targets}
    if draw(st.booleans()):
        g = torch.Generator().manual_seed(draw(seeds))
        inputs["mask"] = torch.rand(images, m, generator=g) < draw(st.sampled_from((0.0, 0.7)))
    negative, positive = sorted(draw(st.sampled_from(THRESHOLDS)) for _ in range(2))
    options = {"positive": positive, "negative": negative}
    options["min_positive"] = draw(st.sampled_from((-1.0, *THRESHOLDS)))
    options["low_quality"] = draw(st.booleans())
    options["low_quality_index"] = draw(st.sampled_from(("target", "box")))
    options["eps"] = draw(st.sampled_from((1e-7, 1e-3, 0.0)))
    constant = ("boxes", "target_boxes")
    sample = Sample("iou_match", matched, draw(placed(inputs)), options, constant)
    return Case(sample, draw(layouts), "alike")


cases = _cases()
