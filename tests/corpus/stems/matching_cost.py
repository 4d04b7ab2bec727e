"""Costs of predictions and targets."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import SPECIAL, layouts, normal, placed, seeds, small_counts, wild
from drawing import with_special_values as special
from torch import Tensor

import fastloss.functional as F
from fastloss.reference.matching_cost import BOX_FORMATS, CLASS_COSTS, KINDS
from fastloss.testing import Sample

from .box_loss import how_alike_boxes, pairs

# A size beside a centre that is far larger is lost in float32.
CENTRED = tuple(x for x in SPECIAL if not 100 < abs(x) < torch.inf)


@st.composite
def _numbers(draw: st.DrawFn, is_wild: bool) -> dict[str, float]:
    """Weights and parameters, some of them left out."""
    weight = st.sampled_from((0.0, 1.0, -0.5, 5.0))
    choices = {name: weight for name in ("cls_weight", "l1_weight", "iou_weight")}
    choices["alpha"] = st.sampled_from((-1.0, 0.0, 0.6, 1.0))
    choices["gamma"] = st.sampled_from((0.0, 1.0, 1.5))
    choices["eps"] = st.sampled_from((1e-3, 1e-6, *((0.0, 1e-16) if is_wild else ())))
    choices["constant"] = st.sampled_from((2.0, -1.5))
    choices["background_cost"] = st.sampled_from((0.0, -3.0, 1e4))
    return {name: draw(values) for name, values in choices.items() if draw(st.booleans())}


@st.composite
def _labels(draw: st.DrawFn, mask: Tensor | None, shape: tuple[int, int], classes: int) -> Tensor:
    """Classes, and anything in padding; sometimes the bad label of a target."""
    g = torch.Generator().manual_seed(draw(seeds))
    labels = torch.randint(0, classes, shape, generator=g)
    if mask is not None:
        anything = draw(st.sampled_from((-1, 100, 2**31 - 1)))
        labels = torch.where(mask, labels, anything)
    if draw(st.integers(0, 9)) == 0 and labels.numel():
        at = draw(st.integers(0, labels.numel() - 1))
        labels.view(-1)[at] = draw(st.sampled_from((-1, classes, 100)))
    return labels.to(draw(st.sampled_from((torch.int32, torch.int64))))


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, batch = draw(wild), draw(st.integers(0, 3))
    n, m = draw(st.permutations((draw(small_counts), draw(small_counts | st.integers(60, 70)))))
    classes = draw(st.sampled_from((1, 2, 15, 16, 17, 40)))
    boxes, target_boxes = draw(pairs((batch, n)))[0], draw(pairs((batch, m)))[1]
    logits = normal(draw(seeds), (batch, n, classes)) * draw(st.sampled_from((1.0, 8.0)))
    box_format = draw(st.sampled_from(BOX_FORMATS))
    if box_format == "cxcywh":
        boxes, target_boxes = _cxcywh(boxes), _cxcywh(target_boxes)
    if is_wild:
        values = CENTRED if box_format == "cxcywh" else SPECIAL
        boxes, target_boxes = draw(special(boxes, values)), draw(special(target_boxes, values))
        logits = draw(special(logits))
    mask = None
    if draw(st.booleans()):
        g = torch.Generator().manual_seed(draw(seeds))
        mask = torch.rand(batch, m, generator=g) < draw(st.sampled_from((0.0, 0.5, 0.9)))
        if draw(st.booleans()):
            mask = mask.sort(1, descending=True).values
    options = {
        "cls_cost": draw(st.sampled_from((*CLASS_COSTS, None))),
        "iou_kind": draw(st.sampled_from(KINDS)),
        "box_format": box_format,
        **draw(_numbers(is_wild)),
    }
    floating = {"logits": logits, "boxes": boxes, "target_boxes": target_boxes}
    labels = draw(_labels(mask, (batch, m), classes))
    inputs = {"mask": None} | draw(placed({**floating, "labels": labels, "mask": mask}))
    labels, mask = inputs["labels"], inputs["mask"]  # a layout may repeat those of one image
    bad = (labels < 0) | (labels >= classes)
    bad = bad if mask is None else bad & mask
    reads_labels = options["cls_cost"] is not None and options.get("cls_weight") != 0
    sample = Sample(
        "matching_cost", F.matching_cost, inputs, options, constant=tuple(floating), scale=2.0
    )
    return Case(
        sample,
        draw(layouts),
        _how_alike(is_wild, inputs),
        bad_index=reads_labels and bool(bad.any()),
    )


def _how_alike(is_wild: bool, inputs: dict[str, Tensor | None]) -> str:
    """`Case.compare`. A half result saturates elsewhere than one of float32 that is rounded to it,
    and of doubles beyond 1e150 nothing but a finite cost is promised."""
    floating = [x for x in inputs.values() if x is not None and x.is_floating_point()]
    half = all(x.dtype in (torch.float16, torch.bfloat16) for x in floating)
    boxes = inputs["boxes"], inputs["target_boxes"]
    beyond = any(bool(((x.double().abs() > 1e150) & x.isfinite()).any()) for x in boxes)
    return "nothing" if is_wild and (half or beyond) else how_alike_boxes(is_wild, *boxes)


def _cxcywh(boxes: Tensor) -> Tensor:
    return torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), -1)


cases = _cases()
