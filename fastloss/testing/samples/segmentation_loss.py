"""Samples of the stems `segmentation_table` and `segmentation_loss`, which work together."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator

# name -> terms that need class indices
OF_INDICES: dict[str, dict[str, Any]] = {
    "ce": {"cross_entropy": 1.0},
    "ce-smoothed": {"cross_entropy": {"label_smoothing": 0.1, "weight": 2.0}},
    "ce-sum": {"cross_entropy": {"reduction": "sum"}},
    "softmax_focal": {"softmax_focal": 1.0},
    "softmax_focal-0": {"softmax_focal": {"gamma": 0, "avg_factor": 2.5}},
    "softmax_focal-1": {"softmax_focal": {"gamma": 1, "normalized": True}},
    "softmax_focal-1.5": {"softmax_focal": {"gamma": 1.5, "reduced_threshold": 0.5}},
}
# name -> terms for any target
OF_ANY: dict[str, dict[str, Any]] = {
    "focal": {"sigmoid_focal": 1.0},
    "focal-0": {"sigmoid_focal": {"gamma": 0, "alpha": 0.3, "avg_factor": 2.5}},
    "focal-1": {"sigmoid_focal": {"gamma": 1, "normalized": True}},
    "focal-1.5": {"sigmoid_focal": {"gamma": 1.5, "alpha": 0.25, "reduced_threshold": 0.5}},
    "dice": {"dice": 1.0},
    "dice-log": {"dice": {"log": True, "smooth": 0.5, "per_image": True}},
    "jaccard": {"jaccard": {"classes": [0, -1], "weight": 0.5}},
    "jaccard-log": {"jaccard": {"log": True, "eps": 1e-3}},
    "tversky": {"tversky": {"alpha": 0.3, "beta": 0.8, "gamma": 1.3, "smooth": 0.1}},
    "tversky-image": {"tversky": {"alpha": 0.7, "beta": 0.3, "per_image": True}},
    "soft_bce": {"soft_bce": {"smoothing": 0.1, "pos_weight": [2.0, 0.5, 1.5]}},
    "soft_bce-sum": {"soft_bce": {"reduction": "sum"}},
    "mcc": {"mcc": 1.0},
}
PROBABILITIES = ("dice", "dice-log", "jaccard", "tversky", "mcc")
REGIONS = {"dice": {"per_image": True}, "jaccard": 0.5, "tversky": {"alpha": 0.3, "gamma": 0.75}}
AVERAGED = {"sigmoid_focal": {"weight": 2.0, "normalized": True}, "soft_bce": 0.3}
ANY = {**REGIONS, **AVERAGED, "mcc": 0.7}
MANY = {"cross_entropy": {"label_smoothing": 0.1}, "softmax_focal": 0.5, **ANY}
NAMED = {
    "a": {"kind": "dice", "classes": [1, 2]},
    "b": {"kind": "dice", "log": True, "weight": 0.3},
    "cross_entropy": 1.0,
    "c": {"kind": "cross_entropy", "reduction": "sum", "label_smoothing": 0.2},
    "d": {"kind": "sigmoid_focal", "gamma": 1.5},
    "e": {"kind": "sigmoid_focal", "gamma": 1.5, "class_weight": [1.0, 0.5, 2.0]},
}
COMMON = {"cross_entropy": 0.5, "dice": 0.7, "sigmoid_focal": 2.0, "jaccard": {"log": True}}


@functools.wraps(F.segmentation_loss)
def total(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """The sum of the terms."""
    return F.segmentation_loss(logits, target, **options)[0]


@functools.wraps(F.segmentation_loss)
def each(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """The sum, then every term."""
    value, values = F.segmentation_loss(logits, target, **options)
    return torch.stack((value, *values.values()))


def _logits(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64) * 2


def _labels(g: torch.Generator, x: Tensor) -> Tensor:
    return torch.randint(0, x.shape[1], (x.shape[0], *x.shape[2:]), generator=g)


def _dense(g: torch.Generator, x: Tensor) -> Tensor:
    """Values in [0, 1], a third of them 0 and a third 1."""
    t = torch.rand(x.shape, generator=g, dtype=torch.float64)
    return torch.where(t < 1 / 3, 0, torch.where(t > 2 / 3, 1, 3 * t - 1))


def _sample(
    name: str, x: Tensor, t: Tensor, tags: str, terms: Any, class_weight: Any = None, **options: Any
) -> Sample:
    inputs = {"logits": x, "target": t, "class_weight": class_weight}
    # One term equals the total, several are looked at one by one.
    function = each if len(terms) > 1 else total
    return Sample(name, function, inputs, {"terms": terms, **options}, tags=frozenset(tags.split()))


def samples() -> Iterator[Sample]:
    yield from _terms()
    yield from _forms()
    yield from _large()
    yield from _edges()


def _terms() -> Iterator[Sample]:
    """Every term alone."""
    g = generator(11)
    x = _logits(g, 2, 3, 5)
    hard, soft = _labels(g, x), _dense(g, x).clamp(0.05, 0.95)
    weight = torch.rand(3, generator=g, dtype=torch.float64) + 0.5
    for name, terms in OF_INDICES.items():
        yield _sample(f"{name}-index", x, hard, "small smooth", terms)
        label = torch.where(hard == 2, 255, hard)
        yield _sample(f"{name}-weighted", x, label, "", terms, weight, ignore_index=255)
    for name, terms in OF_ANY.items():
        yield _sample(f"{name}-index", x, hard, "", terms)
        yield _sample(f"{name}-dense", x, soft, "small smooth", terms, mode="multilabel")
        if name != "mcc":
            t = torch.where(soft > 0.8, -1.0, soft)
            options = {"mode": "multilabel", "ignore_index": -1}
            yield _sample(f"{name}-weighted", x, t, "", terms, weight, **options)
    yield _sample("named", x, hard, "small smooth", NAMED)
    for name in PROBABILITIES:
        options = {"terms": OF_ANY[name], "from_logits": False}
        yield _sample(f"{name}-probabilities", x.softmax(1), hard, "small smooth", **options)
        options["mode"] = "multilabel"
        yield _sample(f"{name}-probabilities-dense", x.sigmoid(), soft, "", **options)


def _forms() -> Iterator[Sample]:
    """Several terms at once; modes, shapes, numbers of classes, dtypes of labels."""
    g = generator(12)
    for shape in ((1, 1, 1), (7, 4), (2, 3, 2, 2, 2), (1, 5, 3, 4), (3, 2, 17), (2, 40, 9)):
        x = _logits(g, *shape)
        size = "x".join(map(str, shape))
        tags = "small smooth" if x.numel() < 60 else ""
        yield _sample(f"many-{size}", x, _labels(g, x), tags, MANY)
        t = _dense(g, x).clamp(0.05, 0.95)
        yield _sample(f"many-dense-{size}", x, t, tags, ANY, mode="multilabel")
    for shape, target in (((3, 1, 4), (3, 4)), ((3, 4), (3, 1, 4)), ((3,), (3,)), ((3, 1), (3,))):
        x = _logits(g, *shape)
        t = torch.rand(target, generator=g, dtype=torch.float64)
        name = f"binary-{'x'.join(map(str, shape))}"
        yield _sample(name, x, t, "small smooth", ANY, mode="binary")
        hard = (t > 0.5).long()
        yield _sample(f"{name}-hard", x, hard, "", COMMON_BINARY, mode="binary")
    x = _logits(g, 2, 5, 3, 3)
    hard = _labels(g, x)
    hard[0, 1] = 127
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        options = {"ignore_index": 127, "terms": COMMON}
        yield _sample(f"labels-{str(dtype)[6:]}", x, hard.to(dtype), "", **options)
    yield _sample("lenient", x, hard - 1, "", {"sigmoid_focal": 1.0, "dice": 1.0}, strict=False)
    bits = (_dense(g, x) > 0.5).to(torch.uint8)
    bits[1, 2] = 255
    options = {"mode": "multilabel", "ignore_index": 255}
    yield _sample("dense-uint8", x, bits, "", COMMON_BINARY, **options)
    yield _sample("dense-bool", x, bits == 1, "", COMMON_BINARY, mode="multilabel")


COMMON_BINARY = {"soft_bce": 0.5, "dice": 0.7, "sigmoid_focal": {"alpha": 0.25}}


def _large() -> Iterator[Sample]:
    """More pixels than a chunk of the CPU kernels or a Triton program takes."""
    g = generator(13)
    for shape, image in (((1, 2, 8201), False), ((2, 2, 3, 1367), True), ((1, 19, 1031), False)):
        x = _logits(g, *shape)
        name, terms = "x".join(map(str, shape)), {**COMMON, "dice": {"per_image": image}}
        label = _labels(g, x)
        label[..., :7] = 255
        yield _sample(f"large-{name}", x, label, "large", terms, ignore_index=255)
        terms = {**COMMON_BINARY, "dice": {"per_image": image}}
        yield _sample(f"large-dense-{name}", x, _dense(g, x), "large", terms, mode="multilabel")


def _edges() -> Iterator[Sample]:
    """Each unusual value by itself, at a pixel that counts and at one that does not."""
    g = generator(14)
    x = _logits(g, 2, 3, 4)
    hard, dense = _labels(g, x), _dense(g, x)
    hard[0, :3] = torch.tensor([0, 1, 2])
    values = (100.0, -100.0, 1e4, -1e4, -torch.inf, torch.nan)
    for value in values:
        wild = x.clone()
        wild[0, 1] = value
        name = f"edges{value:g}"
        ignored = hard.clone()
        ignored[0] = 255
        terms = MANY if abs(value) < 1e5 else COMMON
        yield _sample(f"index-{name}", wild, hard, "edge", terms)
        yield _sample(f"ignored-{name}", wild, ignored, "edge", terms, ignore_index=255)
        if value != -torch.inf:
            # A sigmoid of almost 0 is a tie with t = 0 in some precisions and not in others.
            t = dense.clamp(min=0.05) if value < 0 else dense
            yield _sample(f"dense-{name}", wild, t, "edge", ANY, mode="multilabel")
    for name, label in (("absent", torch.ones_like(hard)), ("ignored", torch.full_like(hard, 9))):
        yield _sample(f"all-{name}", x, label, "edge", MANY, ignore_index=9)
    ones = torch.ones_like(dense)
    for name, t in (("absent", ones * 0), ("present", ones), ("ignored", ones * -1)):
        yield _sample(f"all-{name}-dense", x, t, "edge", ANY, mode="multilabel", ignore_index=-1)
    for shape in ((0, 3, 4), (2, 3, 0), (0, 3)):
        x = torch.zeros(shape, dtype=torch.float64)
        yield _sample(f"empty-{'x'.join(map(str, shape))}", x, _labels(g, x), "edge", MANY)
