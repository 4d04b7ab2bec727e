"""Lovász losses: softmax of logits or of probabilities, and hinge."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import counts, layouts, normal, placed, seeds, small_counts, wild
from drawing import with_special_values as special
from torch import Tensor

import fastloss.functional as F
from fastloss.testing import Sample
from fastloss.testing.samples.lovasz import softmax_input

# Gradients are compared where the errors are sorted alike in every precision, see the samples.


@st.composite
def _reduction(draw: st.DrawFn) -> dict[str, object]:
    options = {"per_image": st.booleans(), "reduction": st.sampled_from(("none", "mean", "sum"))}
    options["ignore_index"] = st.sampled_from((255, 0, 1, -100, None))
    return draw(st.fixed_dictionaries({}, optional=options))


@st.composite
def _labels(draw: st.DrawFn, labels: Tensor, values: tuple[int, ...]) -> Tensor:
    """A copy with up to three others among them, in some integer type."""
    labels = labels.clone()
    for value in draw(st.lists(st.sampled_from(values), max_size=3)) if labels.numel() else ():
        labels.view(-1)[draw(st.integers(0, labels.numel() - 1))] = value
    fits = [t for t in (torch.int32, torch.uint8) if torch.equal(labels.to(t).long(), labels)]
    return labels.to(draw(st.sampled_from([torch.int64, *fits])))


@st.composite
def _softmax(draw: st.DrawFn) -> Case:
    is_wild, options = draw(wild), draw(_reduction())
    options |= draw(st.fixed_dictionaries({}, optional={"strict": st.booleans()}))
    options["classes"] = draw(st.sampled_from(("present", "all", [0], [1, 1, 0])))
    n, classes = draw(st.integers(0, 3)), draw(st.integers(2, 5))
    g = torch.Generator().manual_seed(draw(seeds))
    compare = draw(st.sampled_from(("exactly", "value")))
    if compare == "exactly" and n and not is_wild:
        x, labels = softmax_input((n, draw(st.integers(1, 20))), classes, g)
    else:
        shape = (n, draw(counts))
        x, compare = normal(draw(seeds), (n, classes, shape[1])) * 3, "value"
        labels = torch.randint(0, classes, shape, generator=g)
    if draw(st.booleans()):
        options["from_logits"] = False
        x = (x.softmax(1) * 128).round() / 128
    if is_wild:
        x = draw(special(x))
    drawn = draw(_labels(labels, (255, -100, -1, classes, 2**40, 0, 1)))
    inputs = draw(placed({"logits": x, "target": drawn}))
    if not torch.equal(labels, drawn.long()):
        compare = "value"
    labels, ignored = inputs["target"].long(), options.get("ignore_index")
    bad = ((labels < 0) | (labels >= classes)) & (labels != ignored)
    if inputs["logits"].stride(0) == 0 and n > 1:  # ties
        compare = "value"
    if is_wild and not inputs["logits"].double().abs().le(1e15).all():
        compare = "nothing"  # inf * 0 and inf - inf as the order of the sum has them
    sample = Sample("lovasz_softmax", F.lovasz_softmax, inputs, options, scale=0.1)
    return Case(sample, draw(layouts), compare, options.get("strict", True) and bool(bad.any()))


@st.composite
def _hinge(draw: st.DrawFn) -> Case:
    is_wild, options, form = draw(wild), draw(_reduction()), draw(st.integers(0, 3))
    n, count = draw(st.integers(0, 3)), draw(small_counts if form == 1 else counts)
    x = (normal(draw(seeds), (n, count)) * 16).round().clamp(-100, 100) / 16
    g = torch.Generator().manual_seed(draw(seeds))
    if draw(st.booleans()):
        target = torch.randint(0, 17, (n, count), generator=g) / 16.0
    else:
        target = draw(_labels(torch.randint(0, 2, (n, count), generator=g), (255, 0, 1)))
    if is_wild:
        x = draw(special(x))
    inputs = draw(placed({"logits": x, "target": target}))
    if form == 0:
        inputs["target"] = inputs["target"][:, None]
    elif form == 1:
        inputs["logits"] = inputs["logits"][:, None]
    # A NaN error is the largest one; with others at hand the sum is NaN in any order.
    finite = inputs["logits"].double().abs().le(1e15).all()
    compare = "exactly" if not is_wild else "value" if finite else "nothing"
    sample = Sample("lovasz_hinge", F.lovasz_hinge, inputs, options, scale=0.1)
    return Case(sample, draw(layouts), compare)


cases = _softmax() | _hinge()
