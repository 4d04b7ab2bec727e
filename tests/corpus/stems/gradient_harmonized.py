"""Losses with harmonized gradients, of both kinds."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import how_alike, layouts, normal, placed, seeds, shapes, wild
from drawing import with_special_values as special

import fastloss.functional as F
from fastloss.testing import Sample
from fastloss.testing.samples.gradient_harmonized import inside_bins

# A prediction at which d^2 is beyond float32 has another length there than in float64.
VALUES = (0.0, -0.0, 1e-310, 1e-40, 6e-8, 1.0, -1e-3, 88.0, -104.0, 65504.0, -7e4, 1e9)
VALUES += (torch.inf, -torch.inf, torch.nan)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    is_wild, shape = draw(wild), draw(shapes())
    kind = draw(st.sampled_from(("classification", "regression")))
    bins, mu = draw(st.sampled_from((1, 2, 7, 30))), draw(st.sampled_from((0.02, 0.5, 3.0)))
    pred = normal(draw(seeds), shape) * draw(st.sampled_from((0.1, 2.0, 10.0)))
    pred = draw(special(pred, VALUES)) if is_wild else pred
    g = torch.Generator().manual_seed(draw(seeds))
    if kind == "classification" and draw(st.booleans()):
        target = torch.randint(-2, shape[-1] + 2, shape[:-1], generator=g)
    else:
        target = torch.rand(shape, generator=g, dtype=torch.float64)
    chosen = torch.randint(-1, 4, shape, generator=g).double()
    inputs = draw(placed({"pred": pred, "target": target, "weight": chosen}))
    options = {"bins": bins, "reduction": draw(st.sampled_from(("none", "mean", "sum")))}
    if kind == "regression":
        options["mu"] = mu
    # A length near the edge of a bin may be in the next one in another precision.
    x, t, w = inputs["pred"].double(), inputs["target"], inputs["weight"]
    t = t.double() if t.is_floating_point() else t
    inputs["weight"] = torch.where(inside_bins(x, t, kind, mu, bins), w, 0)
    function = F.ghm_regression_loss
    if kind == "classification":
        function, inputs["logits"] = F.ghm_classification_loss, inputs.pop("pred")
        inputs = {name: inputs[name] for name in ("logits", "target", "weight")}
    sample = Sample(kind, function, inputs, options, ("weight",), scale=1.0)
    return Case(sample, draw(layouts), how_alike(is_wild))


cases = _cases()
