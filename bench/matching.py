"""The workloads of matching predictions with targets: costs, assignments, anchors."""

from __future__ import annotations

from bench import box_sets
from bench.workload import Workload

COSTS: tuple[Workload, ...] = ()

ASSIGNMENTS: tuple[Workload, ...] = ()

ANCHORS: tuple[Workload, ...] = (
    Workload(
        name="max_iou.fpn",
        stem="iou_match",
        call="iou_match",
        options={"positive": 0.5, "negative": 0.4, "eps": 1e-6},
        make_inputs=box_sets.shared_anchors,
        # Images, anchors and targets: 80M pairs with a part of the anchors of an 800 x 1344 image,
        # and 430M with all of them.
        sizes={"small": (16, 100_000, 50), "large": (16, 268_506, 100)},
        reason="anchors of a feature pyramid, as RetinaNet and RPN assign them in every step",
        suite="matching",
        reduces=False,
    ),
)

WORKLOADS = (*COSTS, *ASSIGNMENTS, *ANCHORS)
