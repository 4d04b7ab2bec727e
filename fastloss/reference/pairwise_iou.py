r"""Similarity of all pairs of boxes of two sets, (*, N, 4) and (*, M, 4) in xyxy -> (*, N, M).

Formulas, edge rules and sources: `box_similarity`, with eps for both its eps and its union_eps. A
pair with a coordinate that is not finite has value and gradients NaN; the gradient of a box is the
sum over its pairs.
"""

from torch import Tensor

from . import box_similarity
from ._boxes import scaled
from ._reduce import compute_dtype, gradients, result_dtype

KINDS = box_similarity.KINDS


def _pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both boxes of every pair (*, N, M, 4), their scale (*, N, M, 1) and poison (*, N, M)."""
    dtype = compute_dtype(boxes1)
    return scaled(boxes1.to(dtype)[..., :, None, :], boxes2.to(dtype)[..., None, :, :])


def forward(
    boxes1: Tensor,  # (*, N, 4) xyxy
    boxes2: Tensor,  # (*, M, 4) xyxy; batch dimensions broadcast
    kind: str,
    eps: float,
    widen: bool,
) -> Tensor:
    """Similarity, (*, N, M)."""
    p, t, s, poison = _pairs(boxes1, boxes2)
    value = box_similarity.similarity(p, t, s.squeeze(-1), kind, eps, eps) + poison
    return value.to(result_dtype(boxes1, widen))


def backward(
    grad: Tensor,  # (*, N, M)
    boxes1: Tensor,
    boxes2: Tensor,
    kind: str,
    eps: float,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to boxes1 and boxes2."""
    p, t, s, poison = _pairs(boxes1, boxes2)
    g = grad.to(s.dtype)[..., None] * s + poison[..., None]
    g1, g2 = (g * part for part in box_similarity.gradient(p, t, s.squeeze(-1), kind, eps, eps))
    g1, g2 = g1.sum(-2).sum_to_size(boxes1.shape), g2.sum(-3).sum_to_size(boxes2.shape)
    return gradients(needs, boxes1, (g1, boxes1.dtype), (g2, boxes2.dtype))
