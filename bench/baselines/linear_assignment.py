"""Assignment as detectors have it: SciPy on the host, one image after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bench.baselines.matching_cost import matching_cost


@torch.compiler.disable
def linear_assignment(cost: Tensor, mask: Tensor) -> Tensor:
    """cost: (B, N, M); mask: (B, M), the real targets. The prediction of each target, (B, M); -1
    for padding."""
    costs, real = cost.cpu().numpy(), mask.cpu().numpy()
    result = torch.full(mask.shape, -1)
    assigned = result.numpy()
    for b in range(len(costs)):
        targets = np.flatnonzero(real[b])
        rows, columns = linear_sum_assignment(costs[b][:, targets])
        assigned[b, targets[columns]] = rows
    return result.to(cost.device)


def hungarian_match(
    logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, mask: Tensor, **cost: Any
) -> Tensor:
    """The prediction of each target, (B, M), of least cost."""
    return linear_assignment(matching_cost(logits, boxes, labels, target_boxes, mask, **cost), mask)
