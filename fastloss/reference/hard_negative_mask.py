r"""Hard negative mining: of every row the `count` negatives with the largest losses.

Of equal losses the first in the row comes first; -0 and 0 are equal, and NaN is larger than any
number. A count beyond the number of negatives chooses all of them, one of 0 or less none. Nothing
here has a gradient.

Source: Liu et al. arXiv 1512.02325 (SSD).
"""

import torch
from torch import Tensor


def forward(
    loss: Tensor,  # (B, N)
    negative: Tensor,  # (B, N) bool
    count: Tensor,  # (B,) integer
) -> Tensor:
    """(B, N) bool."""
    # A stable sort brings NaN first; one more, of the negatives, keeps its order among them.
    order = loss.argsort(dim=1, descending=True, stable=True)
    chosen = negative.gather(1, order)
    chosen &= chosen.cumsum(1) <= count.long()[:, None]
    return torch.zeros_like(negative, memory_format=torch.contiguous_format).scatter(
        1, order, chosen
    )
