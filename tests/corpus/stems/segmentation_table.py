"""Tables of sums over pixels: the op with any statistics, which no public call combines."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import how_alike, layouts, normal, placed, seeds, wild
from drawing import with_special_values as special
from torch import Tensor

from fastloss.ops import _segmentation
from fastloss.reference.segmentation_table import STATISTICS
from fastloss.testing import Sample

# Pixels around the widths of vectors and of blocks; classes few, and more than registers hold.
PIXELS = (0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 255, 256, 257, 300, 511, 513, 1025)
CLASSES = (1, 2, 3, 4, 5, 8, 19, 33)
VALUES = (0.0, -0.0, 1.0, 0.5, -1e-3, 1e-30, 20.0, 88.0, -104.0, 1e3, -1e4, 6e4, -torch.inf)
VALUES += (torch.inf, torch.nan)
OF_SOFTMAX = ("nll", "neg_log_prob", "softmax_focal", "softmax_focal_term")
OF_LOGITS = ("sigmoid_focal", "sigmoid_focal_term", "bce_positive", "bce_negative")


def table(logits: Tensor, target: Tensor, *, names: list[str], **options: Any) -> Tensor:
    """The means, in the dtype of the logits."""
    statistics = _segmentation.table_reference.bits(names)
    sums = _segmentation.table(logits, target, statistics, *options.values())
    return (sums / max(logits.shape[2], 1)).to(_segmentation.result_dtype(logits))


@st.composite
def images(draw: st.DrawFn) -> tuple[int, int, int]:
    """(N, C, P), not all of them large."""
    pixels, classes = draw(st.sampled_from(PIXELS)), draw(st.sampled_from(CLASSES))
    return draw(st.integers(0, 3)), classes, min(pixels, 6000 // classes)


@st.composite
def labels(draw: st.DrawFn, shape: tuple[int, int, int]) -> Tensor:
    """Class indices, in stretches or one by one, some ignored (255), sometimes one out of range."""
    n, classes, pixels = shape
    g = torch.Generator().manual_seed(draw(seeds))
    index = torch.randint(0, classes, (n, pixels), generator=g)
    if draw(st.booleans()):
        index = index.sort(1).values
    share = draw(st.sampled_from((0.0, 0.1, 1.0)))
    index[torch.rand(index.shape, generator=g) < share] = 255
    if index.numel() and draw(st.integers(0, 7)) == 0:
        bad = draw(st.sampled_from((-1, classes, -100, 200, 2**31, 2**32, 2**40, -(2**62))))
        index.view(-1)[draw(st.integers(0, index.numel() - 1))] = bad
    fits = [torch.uint8, torch.int8, torch.int16, torch.int32]
    fits = [t for t in fits if torch.equal(index.to(t).long(), index)]
    return index.to(draw(st.sampled_from([torch.int64, *fits])))


@st.composite
def dense(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Values in [0, 1], or integers; some ignored (255)."""
    target = (normal(draw(seeds), shape) + 0.5).clamp(0.01, 0.99)
    if draw(st.booleans()):
        target = target.round()
    if draw(st.booleans()):
        target = torch.where(target < 0.2, 255, target)
    hard = bool((target == target.round()).all())
    forms = (torch.float64, *((torch.int64, torch.uint8) if hard else ()))
    return target.to(draw(st.sampled_from(forms)))


def refused(target: Tensor, classes: int, ignored: int | None) -> bool:
    """Whether a class index is out of range."""
    target = target.long()  # the ignored one may not fit the dtype
    bad = (target < 0) | (target >= classes)
    return bool((bad if ignored is None else bad & (target != ignored)).any())


def comparable(special: bool, logits: Tensor, target: Tensor) -> str:
    """`Case.compare`; a sigmoid that rounds to 1 is a tie with a target of 1 in some precisions and
    below it in others, and the gradient of the target differs (likewise at 0)."""
    hard = target.is_floating_point() and bool(((target == 0) | (target == 1)).any())
    saturated = special or bool((logits.abs() > 15).any())
    return "value" if saturated and hard else how_alike(special)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(images())
    activation = draw(st.sampled_from(("softmax", "softmax", "sigmoid", "none")))
    index = activation == "softmax" or draw(st.integers(0, 2)) == 0
    x = normal(draw(seeds), shape) * draw(st.sampled_from((1.0, 5.0)))
    x = x.sigmoid() if activation == "none" else x
    if is_wild and activation != "none":
        x = draw(special(x, VALUES))
    allowed = set(STATISTICS) - set(OF_SOFTMAX if activation != "softmax" else ())
    allowed -= set(OF_LOGITS if activation == "none" else ())
    if is_wild and activation == "softmax":
        # At a NaN the kernels poison these for the label's class alone. The probability, which
        # every public call reads beside them, is NaN for all classes.
        allowed -= {"overlap", "product"}
    # A NaN to the power of 0 is 1 in one implementation and NaN in another.
    exponents = st.sampled_from((1.0, 1.5, 2.0, 3.0, *(() if is_wild else (0.0,))))
    thresholds = st.sampled_from((None, None, 0.5))
    options = {
        "activation": activation,
        "ignore_index": draw(st.sampled_from((255, 255, None, 0, -100))),
        "per_image": draw(st.booleans()),
        "strict": draw(st.booleans()),
        "softmax_gamma": draw(exponents),
        "softmax_threshold": draw(thresholds),
        "alpha": draw(st.sampled_from((None, 0.25))),
        "gamma": draw(exponents),
        "threshold": draw(thresholds),
        "bce_smoothing": draw(st.sampled_from((0.0, 0.1))),
    }
    names = draw(st.sets(st.sampled_from(sorted(allowed)), min_size=1))
    target = draw(labels(shape) if index else dense(shape))
    ranged = index or bool(((target >= 0) & (target <= 1) | (target == 255)).all())
    if not index and options["ignore_index"] != 255:
        ranged = bool(((target >= 0) & (target <= 1)).all())
    inputs = draw(placed({"logits": x, "target": target}))
    bad = index and options["strict"]
    bad = bad and refused(inputs["target"], shape[1], options["ignore_index"])
    sample = Sample("table", table, inputs, {"names": sorted(names), **options}, scale=0.1)
    return Case(
        sample,
        draw(layouts),
        comparable(is_wild, inputs["logits"], inputs["target"]) if ranged else "nothing",
        bad,
    )


cases = _cases()
