"""Straightforward autograd versions of what is measured, one module per stem.

They are written from the papers and the libraries' documented behaviour, in the plain style of
those libraries: one PyTorch operation after the other, gradients by autograd. They share nothing
with `fastloss.reference`, so they serve three purposes: the eager baseline where the upstream class
is not installed, the function given to `torch.compile`, and (in float64) the truth that every
contender is checked against.

Each function has the name, the positional arguments and the options of its counterpart in
`fastloss.functional`; a loss reduces to sum(weight * loss) / avg_factor.
"""

from __future__ import annotations

from torch import Tensor


def reduce_weighted(loss: Tensor, weight: Tensor | None, avg_factor: float) -> Tensor:
    """The mean that detection heads use: weighted sum over a given count."""
    if weight is not None:
        loss = loss * weight
    return loss.sum() / avg_factor
