"""Samples of the stem `pairwise_iou`; boxes are xyxy."""

from collections.abc import Iterator

import torch

from ... import functional as F
from ...reference.pairwise_iou import KINDS
from .box_loss import edge_pairs, pairs
from .sample import Sample, generator

# Few and many columns, on both sides of every tile, chunk and vector width; a side of one box.
SMALL = ((3, 5), (1, 4), (9, 1), (17, 33))
# With the above, every number of columns that a tile of a Triton kernel can have.
TILES = ((4, 12), (2, 20))
LARGE = ((601, 3), (5, 517), (130, 67))


def samples() -> Iterator[Sample]:
    for kind in KINDS:
        g = generator(5)
        options = {"kind": kind, "eps": 1e-6}
        # alpha of CIoU is held constant, so finite differences do not give its gradient
        small = {"small"} if kind == "ciou" else {"small", "smooth"}
        for n, m in (*SMALL, *LARGE, *(TILES if kind == "giou" else ())):
            boxes, _ = pairs(n + m, g)
            tags = {"large"} if n * m > 1000 else (small if n * m < 50 else {"small"})
            yield Sample(
                f"{kind}-{n}x{m}",
                F.pairwise_iou,
                {"boxes1": boxes[:n], "boxes2": boxes[n:]},
                options,
                tags=frozenset(tags),
            )
        boxes, _ = pairs(2 * 3 * 40, g)
        batch = boxes.reshape(2, 3, 40, 4)
        inputs = {"boxes1": batch[:, :, :33], "boxes2": batch[:, :, 33:]}
        yield Sample(f"{kind}-batch", F.pairwise_iou, inputs, options, tags=frozenset({"small"}))
        inputs = {"boxes1": boxes[:6], "boxes2": boxes[6:21].reshape(3, 5, 4)}
        yield Sample(f"{kind}-broadcast", F.pairwise_iou, inputs, options, tags=frozenset(small))
        yield from _edges(kind)


def _edges(kind: str) -> Iterator[Sample]:
    """Each edge case by itself, and every finite one against every other."""
    cases = edge_pairs()
    for name, (first, second) in cases.items():
        boxes = torch.tensor([first, second], dtype=torch.float64)
        yield Sample(
            f"{kind}-{name}",
            F.pairwise_iou,
            {"boxes1": boxes[:1], "boxes2": boxes[1:]},
            {"kind": kind},
            tags=frozenset({"edge"}),
            scale=1.0,
        )
    # Without eps the tiny boxes have areas that are 0 in some dtypes and not in others.
    for eps, left_out in ((1e-7, ("nan", "infinite")), (0.0, ("nan", "infinite", "tiny"))):
        finite = [box for name, pair in cases.items() if name not in left_out for box in pair]
        boxes = torch.tensor(finite, dtype=torch.float64)
        yield Sample(
            f"{kind}-edges-eps{eps:g}",
            F.pairwise_iou,
            {"boxes1": boxes, "boxes2": boxes.flip(0)},
            {"kind": kind, "eps": eps},
            tags=frozenset({"edge"}),
        )
    for name in ("nan", "infinite"):
        boxes = torch.tensor([*cases[name], *cases["disjoint"]], dtype=torch.float64)
        yield Sample(
            f"{kind}-{name}-among-others",
            F.pairwise_iou,
            {"boxes1": boxes, "boxes2": boxes[1:]},
            {"kind": kind},
            tags=frozenset({"edge"}),
        )
