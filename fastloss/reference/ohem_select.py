r"""Online hard example mining (OHEM): the loss of the pixels whose true class is improbable.

p and -ln p (N, P) are those of `ohem_pixels`, w (C) class weights (1 if not given), v the number of
valid pixels and p_(r) the r-th smallest probability of a valid pixel. The pixels kept are

    gdl      p <= t,  t = max(thresh, p_(k)) for 0 < k < v, thresh for k = 0; every one for k >= v
    mmseg    p < t,   t = max(thresh, p_(min(k, v - 1) + 1))

for `rank` k, so that of equal probabilities all or none are kept, and the result is the sum of
-w ln p over the kept pixels, over

    gdl      the sum of w over the kept pixels, 1 where that is 0
    mmseg    the number of all pixels, ignored ones included

A pixel marked -1 is always kept and counts as the smallest. thresh is rounded to the dtype of p.
Sums are taken in float64. The choice of pixels has no gradient.

Sources: geo-deep-learning `losses/ohem_loss.py`; mmsegmentation `OHEMPixelSampler` with the plain
mean of its `CrossEntropyLoss`; Shrivastava et al. arXiv 1604.03540.
"""

import torch
from torch import Tensor

RULES = ("gdl", "mmseg")


def _threshold(p: Tensor, rank: int, thresh: float, rule: str) -> Tensor:
    """t, a scalar."""
    p, count = p.flatten(), (p <= 1).sum()
    # Ignored pixels come last; one more stands for the r-th of none.
    ordered = torch.cat((p, p.new_ones(1))).sort().values
    least = torch.full_like(ordered[0], thresh)
    if rule == "mmseg":
        index = (count - 1).clamp(min=0, max=rank)
        return torch.maximum(ordered.gather(0, index[None])[0], least)
    if rank == 0:
        return least
    limit = torch.maximum(ordered[min(rank, len(ordered)) - 1], least)
    return torch.where(count <= rank, 1, limit)


def _kept(
    pixels: Tensor, target: Tensor, class_weight: Tensor | None, rank: int, thresh: float, rule: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels are kept, and their w or 0 in float64, both (N, P); the divisor, a scalar."""
    p = pixels[0].detach()
    t = _threshold(p, rank, thresh, rule)
    kept = p < t if rule == "mmseg" else p <= t
    w = kept.double()
    if class_weight is not None:
        label = target.long().clamp(0, len(class_weight) - 1)
        w = torch.where(kept, class_weight.double()[label], 0)
    if rule == "mmseg":
        return kept, w, w.new_full((), max(p.numel(), 1))
    total = w.sum()
    return kept, w, torch.where(total == 0, 1, total)


def forward(
    pixels: Tensor,  # (2, N, P)
    target: Tensor,  # (N, P)
    class_weight: Tensor | None,  # (C,)
    rank: int,
    thresh: float,
    rule: str,
    dtype: torch.dtype,
) -> Tensor:
    """A scalar of `dtype`."""
    kept, w, divisor = _kept(pixels, target, class_weight, rank, thresh, rule)
    return (torch.where(kept, w * pixels[1], 0).sum() / divisor).to(dtype)


def backward(
    grad: Tensor,  # ()
    pixels: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    rank: int,
    thresh: float,
    rule: str,
    dtype: torch.dtype,
    needs: int,
) -> list[Tensor]:
    """Gradient to the pixels' two values, which is 0 for the first."""
    if not needs & 1:
        return [pixels.new_empty(0)]
    _, w, divisor = _kept(pixels, target, class_weight, rank, thresh, rule)
    g = (grad.double() * w / divisor).to(pixels.dtype)
    return [torch.stack((torch.zeros_like(g), g))]
