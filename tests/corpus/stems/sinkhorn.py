"""Transport plans, balanced and not, of costs from tame to far beyond what exponentials hold."""

import hypothesis.strategies as st
import torch
from checking import Case
from drawing import SPECIAL, layouts, normal, placed, seeds, small_counts
from drawing import with_special_values as special

from fastloss.testing import Sample
from fastloss.testing.samples.sinkhorn import plan_and_potentials

# Of larger ones float64 does not know how they differ by a reg.
VALUES = tuple(x for x in SPECIAL if not 1e9 < abs(x) < torch.inf)
taus = st.sampled_from((None, None, 1e-3, 0.1, 1.0, 100.0))


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    shape = (draw(st.integers(0, 3)), draw(small_counts), draw(small_counts))
    cost, is_wild = normal(draw(seeds), shape), draw(st.integers(0, 3)) == 0
    reg = draw(st.sampled_from((0.05, 0.3, 2.0)))
    tame = reg > 0.1 and not is_wild
    cost = draw(special(cost, VALUES)) if is_wild else cost * draw(st.sampled_from((1.0, 0.1)))
    g = torch.Generator().manual_seed(draw(seeds))
    masses = [torch.rand(shape[0], n, generator=g, dtype=torch.float64) for n in shape[1:]]
    masses = [m.masked_fill(m < draw(st.sampled_from((0.0, 0.3, 1.0))), 0) for m in masses]
    inputs = draw(placed({"cost": cost, "a": masses[0], "b": masses[1]}))
    options = {"reg": reg, "num_iter": draw(st.integers(1, 4))}
    options |= {"tau_a": draw(taus), "tau_b": draw(taus)}
    sample = Sample(
        "sinkhorn", plan_and_potentials, inputs, options, constant=("cost", "a", "b"), scale=0.1
    )
    return Case(sample, draw(layouts), "exactly" if tame else "alike")


cases = _cases()
