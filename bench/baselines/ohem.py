"""Cross entropy of hard pixels as the libraries have it: Shrivastava et al. 2016."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def ohem_cross_entropy(
    logits: Tensor, target: Tensor, *, thresh: float, min_kept: int, rule: str, ignore_index: int
) -> Tensor:
    """logits: (N, C, *); target: class ids (N, *)."""
    choose = _choose_on_the_host if rule == "gdl" else _choose_by_sorting
    kept = choose(logits.detach(), target, thresh, min_kept, ignore_index)
    if rule == "gdl":
        return F.cross_entropy(
            logits, target.masked_fill(~kept, ignore_index), ignore_index=ignore_index
        )
    loss = F.cross_entropy(logits, target, reduction="none", ignore_index=ignore_index)
    return (loss * kept).mean()


@torch.compiler.disable
def _choose_on_the_host(
    logits: Tensor, target: Tensor, thresh: float, min_kept: int, ignore_index: int
) -> Tensor:
    """NumPy, as geo-deep-learning does it; which pixels are kept, (N, *)."""
    classes = logits.shape[1]
    scores = np.moveaxis(logits.cpu().numpy(), 1, 0).reshape(classes, -1)  # (C, pixels)
    labels = target.cpu().numpy().ravel()
    prob = np.exp(scores - scores.max(axis=0))
    prob /= prob.sum(axis=0)
    kept = labels != ignore_index
    if kept.sum() > min_kept:
        own = prob[:, kept][labels[kept], np.arange(kept.sum())]
        if min_kept > 0:
            thresh = max(thresh, own[own.argsort()[min_kept - 1]])
        kept[kept] = own <= thresh
    return torch.from_numpy(kept.reshape(target.shape)).to(target.device)


def _choose_by_sorting(
    logits: Tensor, target: Tensor, thresh: float, min_kept: int, ignore_index: int
) -> Tensor:
    """torch.sort, as mmsegmentation does it; which pixels are kept, (N, *)."""
    valid = target != ignore_index
    labels = target.masked_fill(~valid, 0)
    own = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    ordered = own[valid].sort().values
    if len(ordered):
        thresh = torch.clamp(ordered[min(min_kept * len(target), len(ordered) - 1)], min=thresh)
    return valid & (own < thresh)
