"""Assignment as detectors have it: SciPy on the host, one image after another."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@torch.compiler.disable
def linear_assignment(cost: Tensor, mask: Tensor) -> Tensor:
    """cost: (B, N, M); mask: (B, M), the real targets. The prediction of each target, (B, M); -1
    for padding."""
    costs, real = cost.cpu().numpy(), mask.cpu().numpy()
    result = np.full(real.shape, -1)
    for b in range(len(costs)):
        targets = np.flatnonzero(real[b])
        rows, columns = linear_sum_assignment(costs[b][:, targets])
        result[b, targets[columns]] = rows
    return torch.from_numpy(result).to(cost.device)
