"""Losses of predictions for any matching: dense, with holes, one-hot or without a mass."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import MODERATE, SPECIAL, layouts, normal, placed, seeds, small_counts, wild
from drawing import with_special_values as special
from torch import Tensor

import fastloss.functional as F
from fastloss.reference.matched_detection import CLASS_LOSSES, DISTANCES, IOU_KINDS
from fastloss.testing import Sample

from .box_loss import how_alike_boxes, pairs

# A square of a larger coordinate overflows in float before its mass makes it small, or after.
COORDINATES = tuple(x for x in SPECIAL if not 2.0**60 < abs(x) < torch.inf)
MASSES = tuple(x for x in MODERATE if x >= 0)
numbers = {
    "cls_weight": (0.0, 1.5),
    "alpha": (-1.0, 0.0, 0.6, 1.0),
    "gamma": (0.0, 1.0, 1.5),
    "beta": (0.1, 3.0),
    "distance_weight": (0.0, 1.0, -0.5),
    "iou_weight": (0.0, 1.0, -0.5),
    "eps": (0.0, 1e-3, 1e-20),
}


@st.composite
def _targets(draw: st.DrawFn, shape: tuple[int, int], last: int) -> dict[str, Tensor | None]:
    """Labels and mask; anything in padding, sometimes the bad label of a target."""
    g = torch.Generator().manual_seed(draw(seeds))
    labels, mask = torch.randint(0, last + 1, shape, generator=g), None
    if draw(st.booleans()):
        mask = torch.rand(shape, generator=g) < draw(st.sampled_from((0.0, 0.5, 0.9)))
        labels = torch.where(mask, labels, draw(st.sampled_from((-1, 100, 2**31 - 1))))
    if draw(st.integers(0, 9)) == 0 and labels.numel():
        at = draw(st.integers(0, labels.numel() - 1))
        labels.view(-1)[at] = draw(st.sampled_from((-1, last + 1, 100)))
    return {"labels": labels.to(draw(st.sampled_from((torch.int32, torch.int64)))), "mask": mask}


@st.composite
def _matching(draw: st.DrawFn, shape: tuple[int, int, int]) -> Tensor:
    """Masses that add up to 1 in each row, before some are taken away."""
    g = torch.Generator().manual_seed(draw(seeds))
    masses = torch.rand(shape, generator=g, dtype=torch.float64)
    if draw(st.booleans()):  # one-hot
        masses = (masses == masses.amax(-1, keepdim=True)).double()
    masses = masses / masses.sum(-1, keepdim=True)
    kept = torch.rand(shape, generator=g) >= draw(st.sampled_from((0.0, 0.0, 0.5, 0.95)))
    rows = torch.rand(shape[:2], generator=g) >= draw(st.sampled_from((0.0, 0.5)))
    return masses * kept * rows[..., None]


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, batch = draw(wild), draw(st.integers(0, 3))
    n, m = draw(st.permutations((draw(small_counts), draw(small_counts | st.integers(60, 70)))))
    classes = draw(st.sampled_from((1, 2, 15, 16, 17, 40)))
    cls_loss = draw(st.sampled_from(CLASS_LOSSES))
    focal = cls_loss == "sigmoid_focal"
    boxes, target_boxes = draw(pairs((batch, n)))[0], draw(pairs((batch, m)))[1]
    logits = normal(draw(seeds), (batch, n, classes)) * draw(st.sampled_from((1.0, 8.0)))
    matching, weight = draw(_matching((batch, n, m + 1))), None
    if not focal and draw(st.booleans()):
        weight = normal(draw(seeds), (classes,)).abs()
    if is_wild:
        boxes = draw(special(boxes, COORDINATES))
        target_boxes = draw(special(target_boxes, COORDINATES))
        logits, matching = draw(special(logits)), draw(special(matching, MASSES))
        weight = None if weight is None else draw(special(weight, MASSES))
    floating = {
        "logits": logits,
        "boxes": boxes,
        "target_boxes": target_boxes,
        "matching": matching,
        "class_weight": weight,
    }
    last = classes if focal else classes - 1
    targets = draw(_targets((batch, m), last))
    inputs = {"mask": None, "class_weight": None} | draw(placed(floating | targets))
    options = {
        "cls_loss": cls_loss,
        "background": draw(st.integers(-classes, classes - 1)),
        "distance": draw(st.sampled_from(DISTANCES)),
        "iou_kind": draw(st.sampled_from(IOU_KINDS)),
        "reduction": draw(st.sampled_from(("none", "mean", "sum"))),
    }
    for name, values in numbers.items():
        if draw(st.booleans()):
            options[name] = draw(st.sampled_from(values))
    labels, mask = inputs["labels"], inputs["mask"]  # a layout may repeat those of one image
    bad = (labels < 0) | (labels > last)
    bad = bad if mask is None else bad & mask
    constant = ("target_boxes", "matching", "class_weight")
    sample = Sample(
        "matched_detection", F.matched_detection, inputs, options, constant=constant, scale=2.0
    )
    compare = how_alike_boxes(is_wild, inputs["boxes"], inputs["target_boxes"])
    return Case(sample, draw(layouts), compare, bad_index=bool(bad.any()))


cases = _cases()
