"""The op of Lovász losses with method "histogram": `lovasz_softmax` and `lovasz_hinge` call it."""

from .._library import register
from ..reference import lovasz_histogram as reference

lovasz_histogram = register(
    "lovasz_histogram",
    "(Tensor logits, Tensor target, str kind, bool present, int[]? classes, bool per_image, "
    "int? ignore_index, bool strict, int bins, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits",),
    check=reference.check,
)
