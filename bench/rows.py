"""The workloads of losses of rows of logits, as dense detectors have them."""

from __future__ import annotations

from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload

INTEGERS, CLASSES = 17, 81


def distances(source: Source, shape: Shape) -> Inputs:
    """Logits of the integers 0 ... 16, distances between them, and a weight of each row."""
    (rows,) = shape
    weight = source.uniform(rows, low=0.1)
    target = source.uniform(rows, high=INTEGERS - 1.1)
    return Inputs.of_loss(source.normal(rows, INTEGERS), target, weight, float(weight.sum()))


def two_models(source: Source, shape: Shape) -> Inputs:
    """Logits of a student and of a teacher whose classes are mostly the same."""
    (rows,) = shape
    weight = source.uniform(rows, low=0.1)
    teacher = source.normal(rows, CLASSES, std=3.0)
    student = teacher + source.normal(rows, CLASSES)
    return Inputs.of_loss(student, teacher, weight, float(weight.sum()))


# Four sides of each of the 8400 points of a 640 x 640 image are 33600 rows.
WORKLOADS = (
    Workload(
        name="distribution_focal",
        stem="distribution_focal",
        call="distribution_focal_loss",
        options={},
        make_inputs=distances,
        sizes={"small": (67_200,), "large": (1_075_200,)},
        reason="GFL's loss of the sides of all boxes in 2 and 32 images",
        upstream=(Upstream("mmdet", "DistributionFocalLoss"),),
    ),
    Workload(
        name="distillation",
        stem="distillation",
        call="distillation_loss",
        options={"temperature": 10.0},
        make_inputs=two_models,
        sizes={"small": (32_768,), "large": (524_288,)},
        reason="the classes of a teacher at all points of 4 and 64 images",
        upstream=(Upstream("mmdet", "KnowledgeDistillationKLDivLoss", {"T": 10}),),
    ),
)
