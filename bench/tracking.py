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


def cosines(source: Source, shape: Shape) -> Inputs:
    """Cosines of regions (N) with regions of another frame (M), in float32 as their targets."""
    target = _same_object(source, shape).float()
    return Inputs((source.normal(*shape, mean=0.2, std=0.25) + 0.5 * target, target))


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
    Workload(
        name="qd_embed_dist",
        stem="embedding_distance",
        call="embedding_distance",
        options={"neg_pos_ub": 3.0, "pos_margin": 0.0, "neg_margin": 0.3},
        make_inputs=cosines,
        # 2.1M and 33.6M pairs, of which 1 in 50 is positive.
        sizes={"small": (1024, 2048), "large": (4096, 8192)},
        reason="QDTrack's auxiliary loss, with the hardest three negatives for each positive",
        upstream=(Upstream("vis4d", "embedding_distance"),),
        suite="tracking",
        # Negatives that are equal in float32 alone: others of them may be chosen, whose gradients
        # are as large.
        own_tolerance=1e-2,
        reads=2,
    ),
)
