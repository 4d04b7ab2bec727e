r"""Online hard example mining (OHEM): the cross entropy of the hard pixels.

p and -ln p (N, P) are those of `ohem_pixels`, t the threshold of `ohem_threshold`, w (C) class
weights (1 if not given, or y is out of range). The result is the sum of -w ln p over the pixels
kept, those with

    gdl      p <= t, over the sum of w of the pixels kept, or over 1 where that is 0
    mmseg    p < t, over the number of all pixels, ignored ones included

so that of equal probabilities all or none are kept, and a pixel marked -1 always is. Sums are taken
in float64.

Sources: as `ohem_threshold`; the mean of mmsegmentation is the plain one of its `CrossEntropyLoss`.
"""

import torch
from torch import Tensor

from ._reduce import gradients


def _kept(
    pixels: Tensor, target: Tensor, class_weight: Tensor | None, threshold: Tensor, rule: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels are kept, and their w or 0 in float64, both (N, P); the divisor, a scalar."""
    p = pixels[0]
    kept = p < threshold if rule == "mmseg" else p <= threshold
    w = kept.double()
    if class_weight is not None:
        label = target.long()
        inside = (label >= 0) & (label < len(class_weight))
        of_label = class_weight.double()[torch.where(inside, label, 0)]
        w = torch.where(kept, torch.where(inside, of_label, 1), 0)
    if rule == "mmseg":
        return kept, w, w.new_full((), max(p.numel(), 1))
    total = w.sum()
    return kept, w, torch.where(total == 0, 1, total)


def forward(
    pixels: Tensor,  # (2, N, P)
    target: Tensor,  # (N, P)
    class_weight: Tensor | None,  # (C,)
    threshold: Tensor,  # ()
    rule: str,
    dtype: torch.dtype,
) -> Tensor:
    """A scalar of `dtype`."""
    kept, w, divisor = _kept(pixels, target, class_weight, threshold, rule)
    return (torch.where(kept, w * pixels[1], 0).sum() / divisor).to(dtype)


def backward(
    grad: Tensor,  # ()
    pixels: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    threshold: Tensor,
    rule: str,
    dtype: torch.dtype,
    needs: int,
) -> list[Tensor]:
    """Gradient to the pixels' two values, which is 0 for the first."""
    kept, w, divisor = _kept(pixels, target, class_weight, threshold, rule)
    g = torch.where(kept, grad.double() * w / divisor, 0)
    return gradients(needs, pixels, (torch.stack((torch.zeros_like(g), g)), pixels.dtype))
