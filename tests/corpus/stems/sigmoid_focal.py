"""Binary losses with a modulating factor: every public function of the stem."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import (
    MODERATE,
    SPECIAL,
    how_alike,
    layouts,
    normal,
    placed,
    reductions,
    seeds,
    shapes,
    weights,
    wild,
)  # fmt: skip
from drawing import with_special_values as special
from torch import Tensor

import fastloss.functional as F
from fastloss.testing import Sample

exponents = st.sampled_from((2.0, 0.0, 1.0, 1.5, 4.0))
factors = st.sampled_from((0.25, 0.0, 1.0, 0.75))
# Beyond 1e30 the kernels' smallest sigmoid, 2^-126, is no longer 0 beside the logit.
VALUES = tuple(x for x in SPECIAL if not 1e30 < abs(x) < torch.inf)
OPTIONS = {
    F.sigmoid_focal_loss: {
        "alpha": factors | st.just(-1.0), "gamma": exponents, "activated": st.booleans(),
    },
    F.quality_focal_loss: {"beta": exponents, "activated": st.booleans()},
    F.varifocal_loss: {"alpha": factors, "gamma": exponents, "iou_weighted": st.booleans()},
    F.gaussian_focal_loss: {
        "alpha": exponents, "gamma": exponents, "pos_weight": factors, "neg_weight": factors,
    },
    F.binary_cross_entropy: {
        "ignore_index": st.sampled_from((-100, 255, None, 1)), "avg_non_ignore": st.booleans(),
    },
}  # fmt: skip


@st.composite
def _index(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Class indices of rows, background among them; sometimes one out of range or ignored."""
    g = torch.Generator().manual_seed(draw(seeds))
    index = torch.randint(0, shape[-1] + 1, shape[:-1], generator=g)
    if index.numel() and draw(st.integers(0, 3)) == 0:
        bad = draw(st.sampled_from((-1, shape[-1] + 1, -100, 255, 2**40, -(2**62))))
        index.view(-1)[draw(st.integers(0, index.numel() - 1))] = bad
    fits = [t for t in (torch.int32, torch.int16) if torch.equal(index.to(t).long(), index)]
    return index.to(draw(st.sampled_from([torch.int64, *fits])))


@st.composite
def _dense(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Values in [0, 1], many of them 0 or 1; sometimes integers."""
    target = (normal(draw(seeds), shape) + 0.5).clamp(0, 1)
    return target.round().long() if draw(st.integers(0, 4)) == 0 else target


def _refused(index: Tensor, classes: int, ignored: int | None) -> bool:
    """Whether a class index is out of range."""
    bad = (index < 0) | (index > classes)
    return bool((bad if ignored is None else bad & (index != ignored)).any())


def _defined(x: Tensor) -> bool:
    """Whether probabilities or dense targets are in [0, 1]; for others nothing is promised."""
    return bool(((x >= 0) & (x <= 1) | x.isnan()).all())


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(shapes())
    function = draw(st.sampled_from(list(OPTIONS)))
    options = draw(st.fixed_dictionaries({}, optional=OPTIONS[function]))
    options |= draw(reductions())
    per_row = function is F.quality_focal_loss
    probabilities = function is F.gaussian_focal_loss or options.get("activated", False)
    form = draw(st.sampled_from(("dense", "index", *(("pair",) if per_row else ()))))
    x = normal(draw(seeds), shape) * draw(st.sampled_from((2.0, 20.0)))
    tensors = {
        "x": x.sigmoid() if probabilities else x,
        "target": draw(_dense(shape) if form == "dense" else _index(shape)),
        "weight": draw(weights(shape[:-1] if per_row else shape, is_wild)),
        "score": normal(draw(seeds), shape[:-1]).sigmoid() if form == "pair" else None,
        "class_weight": normal(draw(seeds), shape[-1:]).abs()
        if function is F.binary_cross_entropy and draw(st.booleans())
        else None,
    }
    for name in ("x", "target") if is_wild else ():
        if tensors[name].is_floating_point():
            # The one-hot product of the reference lets a row's NaN reach the gradient of its score.
            tensors[name] = draw(special(tensors[name], MODERATE if form == "pair" else VALUES))
    inputs = draw(placed(tensors))
    ranged = [inputs["target"]] if inputs["target"].is_floating_point() else []
    ranged += [inputs["x"]] if probabilities else []
    ignored = None
    if function is F.binary_cross_entropy:
        ignored = options.get("ignore_index", -100)
    bad = form != "dense" and _refused(inputs["target"], shape[-1], ignored)
    if form == "pair":
        inputs["target"] = (inputs["target"], inputs.pop("score"))
    first = "probs" if function is F.gaussian_focal_loss else "logits"
    inputs = {first if name == "x" else name: value for name, value in inputs.items()}
    # ln(1 - p + e) of the Gaussian loss is as exact as 1 - p.
    scale = 0.1 if function is F.gaussian_focal_loss else 0.0
    sample = Sample(function.__name__, function, inputs, options, scale=scale)
    compare = how_alike(is_wild) if all(map(_defined, ranged)) else "nothing"
    return Case(sample, draw(layouts), compare, bad)


cases = _cases()
