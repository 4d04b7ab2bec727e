"""Any weighted sum of segmentation losses from one read of the logits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _arguments as check
from . import _segmentation as segmentation
from ._segmentation import Reading, Term
from .lovasz import lovasz_hinge, lovasz_softmax

MODES = ("binary", "multiclass", "multilabel")
_COMMON = {"weight": 1.0}
_AVERAGED = {"class_weight": None, "reduction": "mean", "avg_factor": None, "empty": 0.0}
_FOCAL = {"gamma": 2.0, "reduced_threshold": None, "normalized": False, **_AVERAGED}
_REGION = {
    "smooth": 0.0, "eps": 1e-7, "log": False, "classes": None, "class_weight": None,
    "per_image": False,
}  # fmt: skip
# name -> its options with their defaults
TERMS: dict[str, dict[str, Any]] = {
    "cross_entropy": {"label_smoothing": 0.0, **_AVERAGED},
    "softmax_focal": _FOCAL,
    "sigmoid_focal": {"alpha": None, **_FOCAL},
    "dice": _REGION,
    "jaccard": _REGION,
    "tversky": {"alpha": 0.5, "beta": 0.5, "gamma": 1.0, **_REGION},
    "soft_bce": {"smoothing": 0.0, "pos_weight": None, **_AVERAGED},
    "mcc": {"eps": 1e-5},
    "lovasz": {"per_image": False, "classes": "present", "method": "exact", "bins": 4096},
}
# kind -> its options of which a call has one value, and their names as arguments of the table
SHARED = {
    "softmax_focal": {"gamma": "softmax_gamma", "reduced_threshold": "softmax_threshold"},
    "sigmoid_focal": {"alpha": "alpha", "gamma": "gamma", "reduced_threshold": "threshold"},
    "soft_bce": {"smoothing": "bce_smoothing"},
}
_MULTICLASS_ONLY = ("cross_entropy", "softmax_focal")
_METRICS = ("valid", "target", "predicted", "correct")


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    terms: Mapping[str, float | Mapping[str, Any]],
    mode: str = "multiclass",
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int | None = None,
    group: Any = None,
    metrics: bool = False,
    from_logits: bool = True,
    strict: bool = True,
) -> tuple[Tensor, ...]:
    r"""A weighted sum of segmentation losses: one read of the logits forward, one backward.

    The logits are reduced to sums per class, from which every term follows, and the gradient is
    written once: one tensor of the size of the logits, for any number of terms.

    Args:
        logits: (N, C, *), any number of further dimensions, floating point; for mode "binary"
            (N, 1, *) or (N, *). Channels-last logits are read in place.
        target: "multiclass": class indices (N, *), any integer dtype; "multilabel": (N, C, *) in
            [0, 1], floating point or integer; "binary": likewise, in either shape of the logits.
        terms: name -> weight, or name -> {"weight": 1.0, option: value, ...}. Options with their
            defaults, where p is the probability, t the (one-hot) target, sums are over pixels:

            - "cross_entropy" ("multiclass"): as `cross_entropy`; label_smoothing=0.0.
            - "softmax_focal" ("multiclass"): :math:`(1-p_y)^\gamma (-\ln p_y)`, averaged as
              cross_entropy; gamma=2.0, reduced_threshold=None, normalized=False.
            - "sigmoid_focal": binary focal loss of every class on sigmoid(logit), mean over pixels,
              then mean over classes; alpha=None (no balancing) and as softmax_focal.
              reduced_threshold h: the factor is ((1-p)/h)^gamma, and 1 where p < h. normalized:
              divided by the sum of factors, and differentiated through it.
            - "dice", "jaccard": mean over classes of 1 - r, or -ln r if log, with
              :math:`r = (I+s)/\max(I + a(P-I) + b(T-I) + s, eps)`, I = sum min(p, t), P = sum p,
              T = sum t, a = b = 1/2 or 1; classes without target count 0. smooth=0.0, eps=1e-7,
              log=False, classes=None (indices, all), per_image=False (mean of images).
            - "tversky": likewise with alpha=0.5, beta=0.5, and the mean raised to gamma=1.0.
            - "soft_bce": binary cross entropy with logits, mean over pixels and classes;
              smoothing=0.0 (t becomes t + smoothing (1 - 2 t)), pos_weight=None (C,).
            - "mcc": 1 - Matthews correlation of p and t over all pixels and classes; eps=1e-5.
            - "lovasz": `lovasz_softmax` ("multiclass") or `lovasz_hinge`, with reads of its own;
              per_image=False, classes="present", method="exact", bins=4096.

            A term under another name says which it is, {"rare": {"kind": "dice", ...}}; terms of
            one kind share gamma, reduced_threshold, sigmoid_focal's alpha and smoothing.
            All but mcc and lovasz take class_weight (None: that of the call). Averaged terms also
            take reduction="mean" | "sum", avg_factor=None (a number that replaces the divisor of
            the mean), empty=0.0 (0 or nan: the mean over nothing).
        mode: "multiclass" (softmax), "multilabel" or "binary" (sigmoid).
        class_weight: (C,), tensor or numbers; None for ones.
        ignore_index: Target value that counts nothing, whatever the logits; None: no such value.
        group: A torch.distributed process group over whose batches the sums are taken (all terms
            but lovasz). Every process then has the loss of the whole batch, and a gradient that is
            right after DistributedDataParallel has averaged gradients.
        metrics: Also return metrics of the same pixels.
        from_logits: False: `logits` are probabilities (region terms and mcc only).
        strict: False: class indices out of range count as background of every class.

    Returns:
        (total, {name: value of the weighted term}), scalars in the input's dtype (float32 for half
        inputs under autocast); with metrics also a dict of float64 device tensors: true_positive,
        false_positive, false_negative, iou, dice (C,) and accuracy (), from the class of the
        largest logit (p > 1/2 in other modes, of classes and pixels alike; targets count as
        their sum); iou and dice of a class neither there nor predicted are NaN.
        Without valid pixels every term is 0 (`empty`; mcc 1). Differentiable in logits and in a
        floating-point target; no host reads.

    Raises:
        IndexError: a class index out of range, on the CPU; on CUDA the loss is NaN.
        TypeError, ValueError: an argument is not as described, or a term or option is unknown.
    """
    check.choice("mode", mode, MODES)
    for name, flag in (("metrics", metrics), ("from_logits", from_logits), ("strict", strict)):
        check.flag(name, flag)
    ignore_index = segmentation.ignored_index(ignore_index)
    logits, target = _inputs(logits, target, mode)
    chosen = _options(terms, mode, from_logits)
    parsed = {
        name: _term(name, o, logits, class_weight)
        for name, o in chosen.items()
        if o["kind"] != "lovasz"
    }
    values: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    total = None
    if parsed or metrics:
        per_image = any(o.get("per_image", False) for n, o in chosen.items() if n in parsed)
        reading = Reading(
            _activation(mode, from_logits), ignore_index, per_image, strict, **_shared(chosen)
        )
        x, t = segmentation.pixels(logits, target, per_image)
        results, columns = segmentation.fused(
            x, t, list(parsed.values()), reading, _METRICS if metrics else (), _across(group)
        )
        total, values = results[0], dict(zip(parsed, results[1:]))
    for name in (name for name in chosen if name not in parsed):
        values[name] = _lovasz(logits, target, mode, ignore_index, strict, name, **chosen[name])
        total = values[name] if total is None else total + values[name]
    values = {name: values[name] for name in chosen}
    return (total, values, _metrics(columns, mode)) if metrics else (total, values)


def _inputs(logits: Tensor, target: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Logits (N, C, *) and the target in the form that mode asks for."""
    if mode == "multiclass":
        segmentation.has_classes(logits)
        return logits, segmentation.class_indices(logits, target)
    check.floating("logits", logits)
    check.tensor_on("target", target, "logits", logits)
    if target.dtype not in (*check.FLOATING, *segmentation.INDEX_DTYPES, torch.bool):
        raise TypeError(f"target must be a float, int or bool tensor, got {target.dtype}")
    if mode == "multilabel":
        segmentation.has_classes(logits)
        check.same_shape("target", target, "logits", logits)
        return logits, target
    if logits.dim() == 0 or not _same_but_channel(target, logits):
        raise ValueError(
            'mode "binary" needs logits and target of shape (N, *) or (N, 1, *), '
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    return _one_channel(logits), _one_channel(target)


def _same_but_channel(a: Tensor, b: Tensor) -> bool:
    """Whether the shapes are equal, or are but for one channel of one of them."""
    return a.shape == b.shape or a.shape == _without_channel(b) or b.shape == _without_channel(a)


def _without_channel(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[:1] + x.shape[2:]) if x.dim() > 1 and x.shape[1] == 1 else tuple(x.shape)


def _one_channel(x: Tensor) -> Tensor:
    """(N, 1, P)."""
    return x[:, None, None] if x.dim() == 1 else x.flatten(1)[:, None]


def _activation(mode: str, from_logits: bool) -> str:
    if not from_logits:
        return "none"
    return "softmax" if mode == "multiclass" else "sigmoid"


def _options(
    terms: Mapping[str, float | Mapping[str, Any]], mode: str, from_logits: bool
) -> dict[str, dict[str, Any]]:
    """Every term's options with the defaults filled in."""
    if not isinstance(terms, Mapping) or not terms:
        raise ValueError(f"terms must be a mapping with at least one term, got {terms!r}")
    chosen = {}
    for name, given in terms.items():
        given = given if isinstance(given, Mapping) else {"weight": given}
        kind = given.get("kind", name)
        label = f'terms["{name}"]["kind"]' if "kind" in given else "a name in terms"
        check.choice(label, kind, tuple(TERMS))
        if mode != "multiclass" and kind in _MULTICLASS_ONLY:
            raise ValueError(f'terms["{name}"] needs mode "multiclass", got "{mode}"')
        if not from_logits and TERMS[kind] not in (_REGION, TERMS["tversky"], TERMS["mcc"]):
            raise ValueError(f'terms["{name}"] needs logits: from_logits must be True')
        known = {"kind": kind, **_COMMON, **TERMS[kind]}
        for option in given:
            check.choice(f'an option of terms["{name}"]', option, tuple(known))
        chosen[name] = {**known, **given}
    return chosen


def _number(term: str, options: Mapping[str, Any], name: str, bound: float | None = None) -> float:
    label = f'terms["{term}"]["{name}"]'
    if bound is None:
        return check.number(label, options[name])
    return check.at_least(label, options[name], bound)


def _shared(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the focal and soft_bce terms ask of the table, which has one of each."""
    found: dict[str, Any] = {}
    for name, o in chosen.items():
        for option, argument in SHARED.get(o["kind"], {}).items():
            bound = 0 if option in ("gamma", "reduced_threshold") else None
            absent = o[option] is None and TERMS[o["kind"]][option] is None
            value = None if absent else _number(name, o, option, bound)
            if found.setdefault(argument, value) != value:
                raise ValueError(
                    f'terms["{name}"]["{option}"] must be that of the other terms of its kind, '
                    f"{found[argument]}, got {value}"
                )
    return found


def _term(name: str, o: dict[str, Any], logits: Tensor, class_weight: Any) -> Term:
    """A term as the op takes it."""
    kind, weight = o["kind"], _number(name, o, "weight")
    if kind == "mcc":
        columns = ("valid", "target", "probability", "product")
        return Term("mcc", columns, weight, {"eps": _number(name, o, "eps", 0)})
    own = o["class_weight"]
    label = "class_weight" if own is None else f'terms["{name}"]["class_weight"]'
    weights = segmentation.class_weight_of(logits, class_weight if own is None else own, label)
    if "smooth" in o:
        return _region(name, weight, o, weights, logits)
    check.choice(f'terms["{name}"]["reduction"]', o["reduction"], ("mean", "sum"))
    divisor = 1.0 if o["reduction"] == "sum" else -1.0
    if o["avg_factor"] is not None:
        if o["reduction"] == "sum":
            raise ValueError(f'terms["{name}"]["avg_factor"] needs reduction "mean", got "sum"')
        divisor = _number(name, o, "avg_factor", 0)
    options = {"divisor": divisor, "floor": _floor(name, o["empty"])}
    if kind == "soft_bce":
        label = f'terms["{name}"]["pos_weight"]'
        positive = segmentation.class_weight_of(logits, o["pos_weight"], label)
        if positive is None or weights is None:
            positive = weights if positive is None else positive
        else:
            positive = positive.double() * weights.double()
        columns = ("valid", "bce_positive", "bce_negative")
        return Term(kind, columns, weight, options, weights, positive)
    if kind == "cross_entropy":
        smoothing = _number(name, o, "label_smoothing", 0)
        if smoothing > 1:
            raise ValueError(f'terms["{name}"]["label_smoothing"] must be <= 1, got {smoothing}')
        columns = ("target", "nll", *(("neg_log_prob",) if smoothing else ()))
        return Term(kind, columns, weight, {**options, "smoothing": smoothing}, weights)
    normalized = check.flag(f'terms["{name}"]["normalized"]', o["normalized"])
    columns = (kind, "valid" if kind == "sigmoid_focal" else "target")
    columns += (f"{kind}_term",) if normalized else ()
    return Term(kind, columns, weight, {**options, "normalized": normalized}, weights)


def _floor(term: str, empty: float) -> float:
    """The least divisor, which makes a mean over nothing 0 or NaN."""
    if not isinstance(empty, (int, float)) or empty == empty and empty != 0:
        raise ValueError(f'terms["{term}"]["empty"] must be 0 or nan, got {empty!r}')
    return 1e-300 if empty == empty else 0.0


def _region(
    name: str, weight: float, o: dict[str, Any], weights: Tensor | None, logits: Tensor
) -> Term:
    """Dice, Jaccard and Tversky, which differ in the weights of false positives and negatives."""
    both = {"dice": 0.5, "jaccard": 1.0}.get(o["kind"])
    options = {
        "alpha": _number(name, o, "alpha") if both is None else both,
        "beta": _number(name, o, "beta") if both is None else both,
        "smooth": _number(name, o, "smooth", 0),
        "eps": _number(name, o, "eps", 0),
        "log": check.flag(f'terms["{name}"]["log"]', o["log"]),
        "gamma": _number(name, o, "gamma", 0) if both is None else 1.0,
        "per_image": check.flag(f'terms["{name}"]["per_image"]', o["per_image"]),
    }
    if o["classes"] is not None:
        chosen = check.constant(_class_counts(name, o["classes"], logits.shape[1]), logits)
        weights = chosen if weights is None else chosen * weights
    return Term("region", ("target", "probability", "overlap"), weight, options, weights)


def _class_counts(name: str, classes: Any, count: int) -> list[int]:
    """How often each class is listed."""
    counts = [0] * count
    for c in classes:
        if isinstance(c, bool) or not isinstance(c, int) or not -count <= c < count:
            raise ValueError(
                f'terms["{name}"]["classes"] must hold class indices below {count}, got {c!r}'
            )
        counts[c] += 1
    return counts


class _Across(torch.autograd.Function):
    """The sum of the tables of all processes. The gradient of the whole batch's loss times their
    number: DistributedDataParallel divides by it."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, group: Any) -> Tensor:
        ctx.processes = torch.distributed.get_world_size(group)
        sums = sums.clone()
        torch.distributed.all_reduce(sums, group=group)
        return sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * ctx.processes, None


def _across(group: Any) -> Callable[[Tensor], Tensor] | None:
    return None if group is None else lambda sums: _Across.apply(sums, group)


def _lovasz(
    logits: Tensor,
    target: Tensor,
    mode: str,
    ignore_index: int | None,
    strict: bool,
    name: str,
    kind: str,
    weight: float,
    classes: Any,
    **options: Any,
) -> Tensor:
    options["ignore_index"] = ignore_index
    if mode == "multiclass":
        loss = lovasz_softmax(logits, target, classes=classes, strict=strict, **options)
    else:
        loss = lovasz_hinge(logits.flatten(1), target.flatten(1), **options)
    return check.number(f'terms["{name}"]["weight"]', weight) * loss


def _metrics(columns: dict[str, Tensor], mode: str) -> dict[str, Tensor]:
    """Confusion counts and scores of every class, from the sums over all groups."""
    valid, target, predicted, correct = (columns[name].sum(0) for name in _METRICS)
    false_positive, false_negative = predicted - correct, target - correct
    if mode == "multiclass":
        accuracy = correct.sum() / valid[0]
    else:
        accuracy = 1 - (false_positive + false_negative).sum() / valid.sum()
    return {
        "true_positive": correct,
        "false_positive": false_positive,
        "false_negative": false_negative,
        "iou": correct / (target + false_positive),
        "dice": 2 * correct / (target + predicted),
        "accuracy": accuracy,
    }
