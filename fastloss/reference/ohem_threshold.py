r"""Online hard example mining (OHEM): the probability t that parts hard pixels from easy ones.

p (N, P) are the probabilities of `ohem_pixels`, v the number of valid pixels, those with p <= 1,
and p_(r) the r-th smallest probability of a valid pixel. For `rank` k

    gdl      t = max(thresh, p_(k)) for 0 < k < v, thresh for k = 0, 1 for k >= v
    mmseg    t = max(thresh, p_(min(k, v - 1) + 1)), thresh for v = 0

with thresh, in [0, 1], rounded to the dtype of p. Nothing here has a gradient.

Sources: geo-deep-learning `losses/ohem_loss.py`; mmsegmentation `OHEMPixelSampler`; Shrivastava et
al. arXiv 1604.03540.
"""

import torch
from torch import Tensor

RULES = ("gdl", "mmseg")


def forward(
    pixels: Tensor,  # (2, N, P)
    rank: int,
    thresh: float,
    rule: str,
) -> Tensor:
    """t, a scalar in the dtype of the pixels."""
    p = pixels[0].flatten()
    count, least = (p <= 1).sum(), p.new_full((), thresh)
    # Ignored pixels come last. One more of 1 stands for the r-th of none.
    ordered = torch.cat((p, p.new_ones(1))).sort().values
    if rule == "mmseg":
        index = (count - 1).clamp(max=rank)
        limit = torch.maximum(ordered.gather(0, index.clamp(min=0)[None])[0], least)
        return torch.where(count == 0, least, limit)
    if rank == 0:
        return least
    limit = torch.maximum(ordered[min(rank, len(ordered)) - 1], least)
    return torch.where(count <= rank, 1, limit)
