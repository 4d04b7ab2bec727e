"""The workloads of softmax classifiers: rows of scores, as the heads of detectors have them."""

from __future__ import annotations

from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload

_OBJECTS = 0.25  # share of sampled regions that show an object


def class_scores(source: Source, shape: Shape) -> Inputs:
    """Logits (N, C) of a head that is right on most rows, class ids with background = C - 1, and a
    weight of each row."""
    rows, classes = shape
    labels = source.labels(rows, classes - 1, _OBJECTS)
    logits = source.normal(*shape, std=1.5)
    logits.scatter_add_(1, labels[:, None], source.normal(rows, 1, mean=4.0))
    weight = source.uniform(rows, low=0.1)
    return Inputs.of_loss(logits, labels, weight, float(weight.sum()))


WORKLOADS = (
    Workload(
        name="cross_entropy.rows",
        stem="cross_entropy",
        call="cross_entropy",
        options={},
        make_inputs=class_scores,
        # The 512 regions of 64 images with COCO's classes, and 85M logits.
        sizes={"small": (32_768, 81), "large": (1_048_576, 81)},
        reason="the classes of two-stage detectors, and background",
        upstream=(Upstream("mmdet", "cross_entropy"),),
    ),
)
