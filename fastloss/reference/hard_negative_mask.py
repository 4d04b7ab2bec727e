r"""Hard negative mining: of every row the negatives with the largest losses, up to a count or mass.

Negatives, each of mass 1 or of its own, are chosen in the order of their losses as long as the sum
of their masses is at most `count`. Of equal losses the first in the row comes first; -0 and 0 are
equal, and NaN is larger than any number. A mass that is not above 0 is no negative. Nothing here
has a gradient.

Source: Liu et al. arXiv 1512.02325 (SSD).
"""

import torch
from torch import Tensor


def forward(
    loss: Tensor,  # (B, N)
    negative: Tensor,  # (B, N) bool, or floating: masses
    count: Tensor,  # (B,) integer, or float64 with masses
) -> Tensor:
    """(B, N) bool."""
    exact = torch.int64 if negative.dtype == torch.bool else torch.float64
    mass = torch.where(negative > 0, negative, 0).to(exact)
    # A stable sort brings NaN first; one more, of the negatives, keeps its order among them.
    order = loss.argsort(dim=1, descending=True, stable=True)
    sorted_mass = mass.gather(1, order)
    chosen = (sorted_mass > 0) & (sorted_mass.cumsum(1) <= count.to(exact)[:, None])
    return torch.zeros_like(chosen).scatter(1, order, chosen)
