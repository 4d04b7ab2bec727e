"""AssociativeEmbeddingLoss and ae_loss_per_image (mmdet 3.3.0, losses/ae_loss.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastloss.compat.mmdet.registry import LOSSES
from fastloss.reference._reduce import compute_dtype

# ((y, x) of the top-left corner, (y, x) of the bottom-right one), integers
Corners = Sequence[Sequence[int]]


def ae_loss_per_image(
    tl_preds: Tensor, br_preds: Tensor, match: Sequence[Corners]
) -> tuple[Tensor, Tensor]:
    """The pull and the push loss of `AssociativeEmbeddingLoss` for one image, without weights.

    (C, H, W), (C, H, W), a list of objects ((ty, tx), (by, bx)) -> two scalars.
    """
    return _pull_and_push(tl_preds[None], br_preds[None], [match])


@LOSSES.register_module()
class AssociativeEmbeddingLoss(nn.Module):
    """Pull the embeddings of the two corners of an object together, push objects apart.

    With e_n, f_n the embeddings at the corners of object n of an image and m_n their mean, the
    image has the losses

        pull = 1 / N sum_n (e_n - m_n)^2 + (f_n - m_n)^2
        push = 1 / (N (N - 1)) sum_{n != k} max(0, 1 - |m_n - m_k|)

    of which the images are summed. As in mmdet every channel counts as an object of its own: N is
    the number of objects times C. An image without objects has the losses 0, also where its maps
    are not finite; with N = 1 its push loss is 0.

    Source: https://arxiv.org/abs/1611.05424, https://arxiv.org/abs/1808.01244 (CornerNet).

    Args:
        pull_weight, push_weight: factors of the results.

    Call: ``loss(pred, target, match)`` -> (pull, push), scalars. Maps of the top-left and of the
    bottom-right corners, (B, C, H, W); ``match[i]`` lists the objects of image i as
    ((ty, tx), (by, bx)), integers on the host. All images are computed at once.
    IndexError: a corner outside of the maps, or fewer lists than images.
    """

    def __init__(self, pull_weight: float = 0.25, push_weight: float = 0.25) -> None:
        super().__init__()
        self.pull_weight = pull_weight
        self.push_weight = push_weight

    def forward(
        self, pred: Tensor, target: Tensor, match: Sequence[Sequence[Corners]]
    ) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), (B, C, H, W), B lists of objects -> two scalars."""
        images = [match[i] for i in range(len(pred))]
        pull, push = _pull_and_push(pred, target, images)
        return self.pull_weight * pull, self.push_weight * push


def _pull_and_push(
    tl: Tensor, br: Tensor, match: Sequence[Sequence[Corners]]
) -> tuple[Tensor, Tensor]:
    """Sums over the images: (B, C, H, W), (B, C, H, W), B lists of objects -> two scalars."""
    corners, table, counts = _indices(match, tl)  # (5, K), (B, M), (B,)
    image, tl_y, tl_x, br_y, br_x = corners
    e, f = tl[image, :, tl_y, tl_x], br[image, :, br_y, br_x]  # (K, C) each
    e, f = (x.to(compute_dtype(x)) for x in (e, f))
    mean = (e + f) / 2
    rows = counts * tl.shape[1]  # (B,)
    pull = ((e - mean).square() + (f - mean).square()) / rows[image, None]

    if len(mean) == 0:
        push = mean
    else:
        m = mean[table.clamp(min=0)].flatten(1)  # (B, M C); padding repeats the first object
        real = (table >= 0).repeat_interleave(tl.shape[1], 1)
        pairs = (real[:, None] & real[:, :, None]).triu(1)  # each twice, see 2 below
        distance = (m[:, None] - m[:, :, None]).abs()  # (B, M C, M C)
        close = torch.where(pairs, (1 - distance).relu(), 0).sum((1, 2))
        push = 2 * close / (rows * (rows - 1)).clamp(min=1)
    return pull.sum().to(tl.dtype), push.sum().to(tl.dtype)


def _indices(match: Sequence[Sequence[Corners]], maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In one transfer: image, ty, tx, by, bx of each of the K objects, (5, K); the objects of each
    image, -1 for padding, (B, M); how many it has, (B,)."""
    height, width = maps.shape[-2:]
    corners = [(i, *tl, *br) for i, objects in enumerate(match) for tl, br in objects]
    for _, *point in corners:
        for value, size in zip(point, (height, width, height, width), strict=True):
            if not -size <= value < size:
                raise IndexError(f"match has {point}, outside of maps of {height} x {width}")
    counts = [len(objects) for objects in match]
    most, first, table = max(counts, default=0), 0, []
    for count in counts:
        table += [*range(first, first + count), *[-1] * (most - count)]
        first += count
    columns = [value for column in zip(*corners) for value in column]
    host = torch.tensor(columns + table + counts, dtype=torch.int64)
    parts = host.to(maps.device, non_blocking=True).split([len(columns), len(table), len(counts)])
    return parts[0].view(5, -1), parts[1].view(len(counts), most), parts[2]
