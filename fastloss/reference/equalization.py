r"""Sums over rows of binary cross entropies and of their gradients, for every class (EQL v2).

x (N, C) are logits, p = sigmoid(x), and y (N) class indices in [0, C): entry (i, c) is positive
where c = y_i and negative elsewhere. The table (4, C) has in column c

    0   the sum of -ln p over positives        2   that of 1 - p over positives
    1   the sum of -ln(1 - p) over negatives   3   that of p over negatives

Rows 0 and 1 have gradients, which rows 2 and 3 are the sizes of; these have none. A class index out
of range makes its row NaN. The loss is the sum over c of w_c table_0c + v_c table_1c, over N.

Sources: Tan et al. arXiv 2012.08548; mmdet 3.3.0 `models/losses/eqlv2_loss.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import compute_dtype, gradients


def check(logits: Tensor, labels: Tensor) -> None:
    """IndexError for a class index out of range."""
    bad = (labels < 0) | (labels >= logits.shape[1])
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise IndexError(
            f"labels must hold class indices in [0, {logits.shape[1] - 1}]; "
            f"got {int(labels[i])} at index {i}"
        )


def _prepare(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """x, NaN in rows whose class index is out of range; which entries are positive."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    inside = (labels >= 0) & (labels < logits.shape[1])
    x = torch.where(inside[:, None], logits.to(compute_dtype(logits)), torch.nan)
    return x, labels[:, None] == classes


def forward(
    logits: Tensor,  # (N, C)
    labels: Tensor,  # (N) int64
) -> Tensor:
    """The table (4, C), float64."""
    x, hot = _prepare(logits, labels)
    rows = (
        torch.where(hot, -F.logsigmoid(x), 0),
        torch.where(hot, 0, -F.logsigmoid(-x)),
        torch.where(hot, (-x.detach()).sigmoid(), 0),
        torch.where(hot, 0, x.detach().sigmoid()),
    )
    return torch.stack([row.sum(0, dtype=torch.float64) for row in rows])


def backward(grad: Tensor, logits: Tensor, labels: Tensor, needs: int) -> list[Tensor]:
    """Gradient to the logits."""
    x, hot = _prepare(logits, labels)
    positive, negative = grad[:2].to(x.dtype)
    g = torch.where(hot, -positive * (-x).sigmoid(), negative * x.sigmoid())
    return gradients(needs, logits, (g, logits.dtype))
