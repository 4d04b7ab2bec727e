"""Terms from a table of sums: public calls with any terms in any mode."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from checking import Case
from drawing import layouts, normal, placed, seeds, wild
from drawing import with_special_values as special

from fastloss.ops.segmentation_loss import _MULTICLASS_ONLY, TERMS
from fastloss.testing import Sample
from fastloss.testing.samples.segmentation_loss import each

from .segmentation_table import VALUES, comparable, dense, images, labels, refused

exponents = st.sampled_from((0.0, 1.0, 1.5, 2.0))
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "weight": st.sampled_from((1.0, 0.5, -2.0, 0.0)),
    "label_smoothing": st.sampled_from((0.0, 0.1, 1.0)),
    "smoothing": st.sampled_from((0.0, 0.2)),
    "reduction": st.sampled_from(("mean", "sum")),
    "gamma": exponents,
    "reduced_threshold": st.sampled_from((None, 0.5)),
    "normalized": st.booleans(),
    "alpha": st.sampled_from((0.25, 0.7)),
    "beta": st.sampled_from((0.25, 0.7)),
    "smooth": st.sampled_from((0.0, 0.5)),
    "eps": st.sampled_from((1e-7, 1e-3)),
    "log": st.booleans(),
    "per_image": st.booleans(),
}


@st.composite
def terms(draw: st.DrawFn, names: list[str], classes: int) -> dict[str, Any]:
    """Some terms, each with some of its options."""
    chosen: dict[str, Any] = {}
    for name in sorted(draw(st.sets(st.sampled_from(names), min_size=1, max_size=4))):
        known = {o: OPTIONS[o] for o in ("weight", *TERMS[name]) if o in OPTIONS}
        chosen[name] = draw(st.fixed_dictionaries({}, optional=known))
        if name == "mcc":  # with few pixels its default multiplies rounding errors by 1e5
            chosen[name]["eps"] = 0.5
        weights = [abs(w) for w in normal(draw(seeds), (classes,)).tolist()]
        for option in ("class_weight", "pos_weight"):
            if option in TERMS[name] and draw(st.booleans()):
                chosen[name][option] = weights
        if "classes" in TERMS[name] and draw(st.booleans()):
            chosen[name]["classes"] = draw(
                st.lists(st.integers(-classes, classes - 1), min_size=1, max_size=3)
            )
    return chosen


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, (n, classes, pixels) = draw(wild), draw(images())
    mode = draw(st.sampled_from(("multiclass", "multiclass", "multilabel", "binary")))
    classes = 1 if mode == "binary" else classes
    shape = (n, classes, pixels)
    x = normal(draw(seeds), shape) * draw(st.sampled_from((1.0, 5.0)))
    x = draw(special(x, VALUES)) if is_wild else x
    index = mode == "multiclass"
    names = [name for name in TERMS if name != "lovasz" and (index or name not in _MULTICLASS_ONLY)]
    options = {
        "mode": mode,
        "terms": draw(terms(names, classes)),
        "ignore_index": draw(st.sampled_from((255, 255, None, 0))),
        "strict": draw(st.booleans()),
    }
    target = draw(labels(shape) if index else dense(shape))
    ignored = options["ignore_index"]
    ranged = index or ignored == 255 or not bool((target == 255).any())
    if draw(st.booleans()) and pixels and pixels % 2 == 0:
        x, target = x.unflatten(-1, (2, -1)), target.unflatten(-1, (2, -1))
    inputs = draw(placed({"logits": x, "target": target}))
    if index and draw(st.booleans()):
        weight = normal(draw(seeds), (classes,)).abs().to(inputs["logits"].dtype)
        inputs["class_weight"] = weight
    bad = index and options["strict"] and refused(inputs["target"], classes, ignored)
    sample = Sample("segmentation_loss", each, inputs, options, scale=1.0)
    return Case(
        sample,
        draw(layouts),
        comparable(is_wild, inputs["logits"], inputs["target"]) if ranged else "nothing",
        bad,
    )


cases = _cases()
