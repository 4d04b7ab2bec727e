"""Samples of the stem `matched_detection`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from ...reference.matched_detection import CLASS_LOSSES, DISTANCES, IOU_KINDS
from .box_loss import edge_pairs
from .matching_cost import problem as matching_problem
from .sample import Sample, generator

CONSTANT = ("target_boxes", "matching", "class_weight")


def matched(g: torch.Generator, inputs: dict[str, Any], *, dense: bool) -> Tensor:
    """A matching (B, N, M + 1): dense with masses that add up to 1, or one-hot (the first
    predictions with the targets, some of them twice)."""
    batch, n, m = *inputs["boxes"].shape[:2], inputs["labels"].shape[1]
    if dense:
        scores = torch.rand(batch, n, m + 1, generator=g, dtype=torch.float64) ** 4
        if inputs["mask"] is not None:
            scores[..., :-1] *= inputs["mask"][:, None, :]
        return scores / scores.sum(-1, keepdim=True)
    one_hot = torch.zeros(batch, n, m + 1, dtype=torch.float64)
    rows, columns = range(min(n, 2 * m)), [j % max(m, 1) for j in range(min(n, 2 * m))]
    one_hot[:, list(rows), columns] = 1
    if inputs["mask"] is not None:
        one_hot[..., :-1] *= inputs["mask"][:, None, :]
    one_hot[..., -1] = 1 - one_hot[..., :-1].sum(-1)
    return one_hot


def problem(
    g: torch.Generator, batch: int, n: int, m: int, classes: int, *, dense: bool = True
) -> dict[str, Any]:
    """Inputs with about a third of padding, anywhere."""
    inputs = matching_problem(g, batch, n, m, classes)
    return {**inputs, "matching": matched(g, inputs, dense=dense)}


def _sample(name: str, inputs: dict[str, Any], tags: str, **options: Any) -> Sample:
    return Sample(
        f"detection-{name}", F.matched_detection, inputs, options, constant=CONSTANT,
        tags=frozenset(tags.split()), scale=1.0,
    )  # fmt: skip


def samples() -> Iterator[Sample]:
    g = generator(31)
    focal = {"cls_loss": "sigmoid_focal"}
    for cls_loss, shape in zip(CLASS_LOSSES, ((2, 5, 4, 6), (1, 3, 9, 1), (3, 4, 17, 5))):
        for dense in (True, False):
            inputs = problem(g, *shape, dense=dense)
            name = f"{cls_loss}-{'dense' if dense else 'one-hot'}"
            for reduction in ("none", "mean", "sum"):
                options = {"cls_loss": cls_loss, "reduction": reduction}
                yield _sample(f"{name}-{reduction}", inputs, "small smooth", **options)
        wide = problem(g, 1, 3, 33, 130)  # more than the vectors and tiles of the widest kind
        yield _sample(f"{cls_loss}-wide", wide, "", cls_loss=cls_loss)
    inputs = problem(g, 2, 6, 5, 4)
    no_class = {**inputs, "labels": torch.tensor([[4, 4, 3, 4, 4], [4, 4, 4, 2, 4]])}
    yield _sample("no-class", no_class, "small", alpha=0.25, gamma=1.5, **focal)
    odd = problem(g, 1, 3, 4, 5)  # in a tile that has room for the label 5
    odd["labels"] = torch.tensor([[5, 1, 5, 3]])
    yield _sample("no-class-odd", {**odd, "mask": None}, "small", gamma=0.5, **focal)
    yield _sample("focal-plain", inputs, "small", alpha=0.6, gamma=0.0, **focal)
    weight = torch.rand(4, generator=g, dtype=torch.float64) + 0.5
    weight[1] = 0
    weighted = {**inputs, "class_weight": weight, "labels": inputs["labels"].int()}
    for reduction in ("none", "mean"):
        options = {"background": -1, "cls_weight": 1.5, "reduction": reduction}
        yield _sample(f"weighted-{reduction}", weighted, "small", **options)
    for kind in IOU_KINDS:
        options = {"iou_kind": kind, "distance_weight": 0.0}
        yield _sample(kind, {**inputs, "mask": None}, "small", **options)
        # Whether boxes have an area at all must not depend on the precision.
        yield _sample(f"{kind}-eps0", inputs, "small", eps=0.0, **options)
    for distance in DISTANCES:
        options = {"distance": distance, "beta": 0.3, "iou_weight": 0}
        yield _sample(distance, inputs, "small", **options)
    yield _sample("classes-alone", inputs, "small", distance_weight=0.0, iou_weight=0.0)
    yield _sample("mining", inputs, "small", neg_to_pos_ratio=1.0)
    one_hot = {**inputs, "matching": matched(g, inputs, dense=False)}
    yield _sample("mining-one-hot", one_hot, "small", neg_to_pos_ratio=1.0, background=2)
    mined = {"neg_to_pos_ratio": 0.75, "background": 2}  # of masses that are not weighted
    yield _sample("mining-weighted", weighted, "small", **mined)
    yield from _large(g)
    yield from _edges(g)


def _large(g: torch.Generator) -> Iterator[Sample]:
    """Beyond the rows of a task and the tile of a program, and the classes that one holds."""
    for dense in (True, False):
        large = problem(g, 1, 67, 37, 131, dense=dense)
        name = "dense" if dense else "one-hot"
        yield _sample(f"large-{name}", large, "large", background=7)
        yield _sample(f"large-focal-{name}", large, "large", cls_loss="sigmoid_focal")
    alone = {**large, "mask": None, "matching": torch.zeros_like(large["matching"])}
    alone["matching"][:, 40, 36] = 1  # the last target, and nothing else in its tile
    yield _sample("large-last-target", alone, "large")
    few = problem(g, 2, 133, 3, 21)
    yield _sample("large-rows", few, "large", iou_kind="iou", neg_to_pos_ratio=3.0)


def _edges(g: torch.Generator) -> Iterator[Sample]:
    inputs = problem(g, 2, 4, 3, 5)
    for shape in ((2, 3, 0, 4), (2, 0, 3, 4), (0, 3, 2, 4)):
        yield _sample(f"empty-{'x'.join(map(str, shape))}", problem(g, *shape), "edge")
    yield _sample("no-mass", {**inputs, "matching": inputs["matching"] * 0}, "edge")
    yield _sample("all-padding", {**inputs, "mask": inputs["mask"] & False}, "edge")
    # What has no mass counts nothing: NaN and labels that are no class at padding, and logits and
    # boxes of predictions that are not matched.
    hidden = {name: x.clone() for name, x in inputs.items()}
    hidden["mask"] = torch.tensor([[True, True, False]] * 2)
    hidden["matching"][..., 2] = 0
    hidden["matching"][:, 1] = 0
    hidden["target_boxes"][:, 2] = torch.nan
    hidden["labels"][:, 2] = -100
    hidden["logits"][:, 1] = torch.nan
    hidden["boxes"][:, 1] = torch.inf
    for cls_loss in CLASS_LOSSES:
        yield _sample(f"hidden-{cls_loss}", hidden, "edge", cls_loss=cls_loss, reduction="none")
    seen = {**hidden, "boxes": inputs["boxes"].clone(), "logits": inputs["logits"].clone()}
    seen["boxes"][:, 2, 1], seen["logits"][:, 3, 2] = torch.nan, torch.nan
    yield _sample("nan", seen, "edge", reduction="none")
    far = {**inputs, "logits": inputs["logits"] * 40}
    for cls_loss in CLASS_LOSSES:
        yield _sample(f"far-{cls_loss}", far, "edge", cls_loss=cls_loss, reduction="none")
    one_class = {**inputs, "logits": inputs["logits"].clone()}
    one_class["logits"][:, 0, 1:] = -torch.inf
    one_class["labels"], one_class["matching"] = inputs["labels"] * 0, inputs["matching"].clone()
    yield _sample("minus-infinity", one_class, "edge", cls_loss="negative_prob")
    for kind in IOU_KINDS:  # the product of two areas is no float
        huge = {name: x * 2.0**40 if "boxes" in name else x for name, x in inputs.items()}
        yield _sample(f"huge-{kind}", huge, "edge", iou_kind=kind, distance_weight=0.0)
    beyond = ("huge", "huge-alike", "largest", "tiny", "nan", "infinite")
    chosen = [pair for name, pair in edge_pairs().items() if not name.startswith(beyond)]
    first, second = torch.tensor(chosen, dtype=torch.float64).transpose(0, 1)[:, None]
    count = first.shape[1]
    masses = torch.eye(count, count + 1, dtype=torch.float64)[None]
    masses[..., -1] = 0.5
    edges = {
        "logits": torch.zeros(1, count, 2, dtype=torch.float64), "boxes": first,
        "labels": torch.ones(1, count, dtype=torch.int64), "target_boxes": second,
        "matching": masses, "mask": None,
    }  # fmt: skip
    for kind in IOU_KINDS:
        for eps in (1e-7, 0.0):
            options = {"iou_kind": kind, "eps": eps, "reduction": "none"}
            yield _sample(f"edges-{kind}-eps{eps:g}", edges, "edge", **options)
