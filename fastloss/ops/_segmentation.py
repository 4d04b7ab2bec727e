"""The two ops behind every reduced segmentation loss, and the arguments that they share.

`table(...)` reads the logits once and sums them to a table; `losses(table, ...)` turns the table
into the terms. Both are differentiable: the backward of the second makes the coefficients with
which the backward of the first reads the logits again. Whatever is done to the table between them,
such as adding up those of several processes, acts on value and gradient alike.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._library import register
from ..reference import segmentation_loss as loss_reference
from ..reference import segmentation_table as table_reference
from . import _arguments as check

INDEX_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

table = register(
    "segmentation_table",
    "(Tensor logits, Tensor target, int statistics, str activation, int? ignore_index, "
    "bool per_image, bool strict, float softmax_gamma, float? softmax_threshold, float? alpha, "
    "float gamma, float? threshold, float bce_smoothing)",
    table_reference.forward,
    table_reference.backward,
    differentiable=("logits", "target"),
    check=table_reference.check,
)
losses = register(
    "segmentation_loss",
    "(Tensor table, Tensor? class_weights, int statistics, int[] kinds, float[] parameters, "
    "ScalarType dtype)",
    loss_reference.forward,
    loss_reference.backward,
    differentiable=("table",),
)


class Term(NamedTuple):
    """One term of a loss as `segmentation_loss` (the op) takes it.

    `columns` are the statistics that it reads, `options` the parameters of its kind by name;
    `weights` and `positive_weights` are class weights (C,), None for ones.
    """

    kind: str
    columns: tuple[str, ...]
    weight: float
    options: dict[str, float]
    weights: Tensor | None = None
    positive_weights: Tensor | None = None

    def numbers(self) -> list[float]:
        """Its part of the op's `parameters`."""
        names = loss_reference.PARAMETERS[self.kind]
        numbers = [self.weight, *(float(self.options[name]) for name in names)]
        return numbers + [0.0] * (loss_reference.WIDTH - len(numbers))


class Reading(NamedTuple):
    """How the table is made from logits and target: the arguments of the op after `statistics`."""

    activation: str
    ignore_index: int | None = None
    per_image: bool = False
    strict: bool = True
    softmax_gamma: float = 0.0
    softmax_threshold: float | None = None
    alpha: float | None = None
    gamma: float = 0.0
    threshold: float | None = None
    bce_smoothing: float = 0.0


def fused(
    logits: Tensor,
    target: Tensor,
    terms: Sequence[Term],
    reading: Reading,
    extra: Sequence[str] = (),
    across: Callable[[Tensor], Tensor] | None = None,
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The total and the value of every weighted term, and the columns of the table by name.

    `extra` are columns that no term needs; `across` acts on the table between the two ops.
    """
    names = {name for term in terms for name in term.columns} | set(extra)
    statistics = table_reference.bits(names)
    sums = table(logits, target, statistics, *reading)
    if across is not None:
        sums = across(sums)
    kinds = [loss_reference.KINDS.index(term.kind) for term in terms]
    parameters = [number for term in terms for number in term.numbers()]
    weights, dtype = _class_weights(sums, terms), result_dtype(logits)
    values = losses(sums, weights, statistics, kinds, parameters, dtype).unbind()
    if not extra:
        return values, {}
    return values, dict(zip(table_reference.columns(statistics), sums.detach().unbind(1)))


def _class_weights(sums: Tensor, terms: Sequence[Term]) -> Tensor | None:
    """Rows u and v of every term, (T, 2, C); None if all are ones."""
    rows = [(t.weights, t.positive_weights) for t in terms]
    given = {id(row): row for pair in rows for row in pair if row is not None}
    if not given:
        return None
    classes = sums.shape[-1]
    if len(given) == 1 and all(row is not None for pair in rows for row in pair):
        return next(iter(given.values())).expand(len(terms), 2, classes)
    ones = sums.new_ones(classes)
    flat = [ones if row is None else row.to(sums.dtype) for pair in rows for row in pair]
    return torch.stack(flat).view(len(terms), 2, classes)


def class_indices(logits: Tensor, target: Tensor) -> Tensor:
    """The target in a dtype that kernels read; raise unless it holds class indices (N, *)."""
    check.tensor_on("target", target, "logits", logits)
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target must hold class indices of an integer dtype, got {target.dtype}")
    expected = (logits.shape[0], *logits.shape[2:])
    if target.shape != expected:
        raise ValueError(
            f"target must have the shape of logits without their classes, {expected}, "
            f"got {tuple(target.shape)}"
        )
    return target if target.dtype in INDEX_DTYPES else target.long()


def class_weight_of(
    logits: Tensor, weight: Tensor | Sequence[float] | None, name: str = "class_weight"
) -> Tensor | None:
    """A tensor (C,) on the device of the logits; raise for anything else."""
    if weight is None:
        return None
    classes = logits.shape[1]
    if not isinstance(weight, Tensor):
        weight = check.constant(check.numbers(name, weight), logits)
    check.floating(name, weight)
    check.tensor_on(name, weight, "logits", logits)
    if weight.shape != (classes,):
        raise ValueError(f"{name} must have shape ({classes},), got {tuple(weight.shape)}")
    if weight.requires_grad:
        raise ValueError(f"{name} has no gradient here: pass {name}.detach()")
    return weight


def ignored_index(value: int | None) -> int | None:
    """`value`; raise unless it is an integer or None."""
    if isinstance(value, bool) or not isinstance(value, (int, type(None))):
        raise TypeError(f"ignore_index must be an integer or None, got {type(value).__name__}")
    return value


def has_classes(logits: Tensor) -> None:
    """Raise unless the logits are (N, C, *) with a class."""
    check.floating("logits", logits)
    if logits.dim() < 2 or logits.shape[1] == 0:
        raise ValueError(
            f"logits must have shape (N, C, *) with at least one class, got {tuple(logits.shape)}"
        )


def pixels(logits: Tensor, target: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """Logits (N, C, *) as (N, C, P), without a copy where strides allow; the target likewise.

    Rows of single pixels (N, C) become the pixels of one image, unless images are told apart.
    """
    index = target.dim() == logits.dim() - 1
    if logits.dim() == 2 and not per_image:
        return logits.t()[None], target[None] if index else target.t()[None]
    if logits.dim() == 2:
        return logits[..., None], target[..., None]
    return logits.flatten(2), target.flatten(1 if index else 2)


def result_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of a reduced loss: that of the logits, float32 for half inputs under autocast."""
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half and check.under_autocast(logits) else logits.dtype
