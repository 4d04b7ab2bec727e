"""The workloads of losses for tracking: similarities of two sets of embeddings."""

from __future__ import annotations

from torch import Tensor

from bench.baselines import contrastive
from bench.inputs import Inputs, Shape, Source
from bench.workload import Peer, Upstream, Workload


def _same_object(source: Source, shape: Shape) -> Tensor:
    """Which pairs show the same object, int64: 1 in 50, as regions of some 30 objects in two frames
    give them."""
    return (source.uniform(*shape) < 0.02).long()


def dot_products(source: Source, shape: Shape) -> Inputs:
    """Dot products of regions (N) with regions of another frame (M), and a weight of each row."""
    weight = source.uniform(shape[0], low=0.1)
    named = {"weight": weight, "avg_factor": float(weight.sum())}
    target = _same_object(source, shape)
    return Inputs((source.normal(*shape, std=3.0) + 4.0 * target, target), named)


WORKLOADS = (
    Workload(
        name="qd_multi_pos",
        stem="contrastive",
        call="multi_positive_cross_entropy",
        options={},
        make_inputs=dot_products,
        # The temporaries of all pairs of positives and negatives: 134 MB and 2.1 GB each.
        sizes={"small": (256, 512), "large": (512, 1024)},
        reason="QDTrack's loss of the regions of two frames",
        upstream=(Upstream("vis4d", "MultiPosCrossEntropyLoss"),),
        peers=(Peer("two sums a row", contrastive.of_rows),),
        suite="tracking",
    ),
)
