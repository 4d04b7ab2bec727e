"""Online hard example mining: cross entropy of the pixels whose true class is improbable."""

from collections.abc import Sequence

from torch import Tensor

from .._library import register
from ..reference import ohem_loss as loss_reference
from ..reference import ohem_pixels as pixels_reference
from ..reference import ohem_threshold as threshold_reference
from . import _arguments as check
from . import _segmentation as segmentation

_pixels = register(
    "ohem_pixels",
    "(Tensor logits, Tensor target, int? ignore_index)",
    pixels_reference.forward,
    pixels_reference.backward,
    differentiable=("logits",),
    check=pixels_reference.check,
)
_threshold = register(
    "ohem_threshold",
    "(Tensor pixels, int rank, float thresh, str rule)",
    threshold_reference.forward,
)
_loss = register(
    "ohem_loss",
    "(Tensor pixels, Tensor target, Tensor? class_weight, Tensor threshold, str rule, "
    "ScalarType dtype)",
    loss_reference.forward,
    loss_reference.backward,
    differentiable=("pixels",),
)


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    thresh: float = 0.7,
    min_kept: int = 100000,
    rule: str = "gdl",
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int | None = 255,
) -> Tensor:
    """Softmax cross entropy of the hard pixels: those whose class has a probability up to t.

    t is `thresh`, raised until at least `min_kept` pixels are hard. Radix histograms of the
    probabilities give it: nothing is sorted, and nothing is read on the host. The logits are read
    once forward and once backward, there only where a pixel is hard, and one tensor of their size
    is made, the gradient. Formulas and edge rules: `fastloss/reference/ohem_*.py`.

    Args:
        logits: (N, C, *), any number of further dimensions, floating point.
        target: Class indices (N, *) in [0, C), any integer dtype.
        thresh: A probability, in [0, 1].
        min_kept: How many pixels are hard at least, if so many are valid.
        rule: "gdl", geo-deep-learning's: `min_kept` is for the batch, a pixel of probability t is
            hard, and the loss is divided by the sum of the class weights of the hard pixels.
            "mmseg", mmsegmentation's: `min_kept` is for each image, t is raised to the next larger
            probability and a pixel at t itself is easy, and the loss is divided by the number of
            all pixels (mmsegmentation 1.x divides by their class weights, if there are any).
        class_weight: (C,), tensor or numbers; None for ones.
        ignore_index: Pixels with this label count nothing, whatever their logits; None: no such
            label.

    Returns:
        A scalar in the input's dtype (float32 for half inputs under autocast), 0 if no pixel is
        hard. A valid pixel with a NaN logit always is; of pixels with equal probabilities all are
        or none. Differentiable in logits; the choice of pixels has no gradient.

    Raises:
        IndexError: a label out of range, on the CPU; on CUDA the loss is NaN.
        TypeError: an argument is not of the type named.
        ValueError: wrong shape, different devices, unknown rule, thresh outside [0, 1], negative
            min_kept.
    """
    segmentation.has_classes(logits)
    thresh = check.at_least("thresh", thresh, 0)
    if thresh > 1:
        raise ValueError(f"thresh must be <= 1, got {thresh}")
    if isinstance(min_kept, bool) or not isinstance(min_kept, int):
        raise TypeError(f"min_kept must be an integer, got {type(min_kept).__name__}")
    if min_kept < 0:
        raise ValueError(f"min_kept must be >= 0, got {min_kept}")
    check.choice("rule", rule, threshold_reference.RULES)
    target = segmentation.class_indices(logits, target)
    ignore_index = segmentation.ignored_index(ignore_index)
    weight = segmentation.class_weight_of(logits, class_weight)
    x, labels = segmentation.pixels(logits, target, per_image=False)
    # Beyond the pixels of any batch all numbers mean the same.
    rank = min(min_kept, 2**40) * (logits.shape[0] if rule == "mmseg" else 1)
    pixels = _pixels(x, labels, ignore_index)
    threshold = _threshold(pixels.detach(), rank, thresh, rule)
    return _loss(pixels, labels, weight, threshold, rule, segmentation.result_dtype(logits))
