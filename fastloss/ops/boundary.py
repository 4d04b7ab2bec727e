"""Boundary loss, and the sliding maximum that it is made of."""

from torch import Tensor

from .._library import register
from ..reference import boundary_loss as loss_reference
from ..reference import boundary_pool as pool_reference
from . import _arguments as check
from . import _segmentation as segmentation

_pool = register(
    "boundary_pool",
    "(Tensor x, int window)",
    pool_reference.forward,
    pool_reference.backward,
    differentiable=("x",),
)
_loss = register(
    "boundary_loss",
    "(Tensor logits, Tensor target, int width, int theta0, int theta, str reduction, bool widen)",
    loss_reference.forward,
    loss_reference.backward,
    differentiable=("logits",),
    check=loss_reference.check,
)
_PLACES = 2**31 - 1  # kernels keep the place of a maximum in 32 bits


def boundary_pool(x: Tensor, window: int) -> Tensor:
    """Maximum over a sliding square window, at a cost that hardly grows with the window (on a GPU
    that of the gradient grows with its side).

    As torch.nn.functional.max_pool2d(x, window, stride=1, padding=(window - 1) // 2) in value and
    gradient: beyond the border nothing counts, and the gradient goes to the first maximum of a
    window in row-major order. NaN is larger than any number.

    Args:
        x: (N, C, H, W), floating point.
        window: Odd, >= 1; may be larger than the image.

    Returns:
        (N, C, H, W), in the dtype of x. Differentiable.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    check.floating("x", x)
    _images("x", x)
    return _pool(x, _odd("window", window))


def boundary_loss(
    logits: Tensor,
    target: Tensor,
    *,
    theta0: int = 3,
    theta: int = 5,
    reduction: str = "mean",
) -> Tensor:
    r"""Boundary loss: one minus a differentiable F1 score of the boundaries of each class.

    A pixel is on the boundary of a class as far as the probability drops within its window theta0;
    it counts as found within the window theta of a true boundary. Formula and edge rules:
    `fastloss/reference/boundary_loss.py`. Source: Bokhovkin and Burnaev, arXiv 1905.07852; with
    the same values as geo-deep-learning, whose windows are 19 by default.

    Args:
        logits: (N, C, H, W), floating point.
        target: Class indices (N, H, W) in [0, C), any integer dtype.
        theta0: Width of the window that makes the boundary, odd.
        theta: Width of the window that extends it, odd.
        reduction: Over images and classes: "mean", "sum" or "none". A class without a boundary in
            the target has loss 1 and counts.

    Returns:
        A scalar, or (N, C) for "none", in the input's dtype (float32 for half inputs under
        autocast). 0 where there are no pixels. Differentiable in logits.

    Raises:
        IndexError: a label out of range, on the CPU; on CUDA the loss is NaN.
        TypeError, ValueError: an argument is not as described.
    """
    segmentation.has_classes(logits)
    _images("logits", logits)
    target = segmentation.class_indices(logits, target)
    theta0, theta = _odd("theta0", theta0), _odd("theta", theta)
    check.choice("reduction", reduction, check.REDUCTIONS)
    x, labels = segmentation.pixels(logits, target, per_image=True)
    return _loss(x, labels, logits.shape[3], theta0, theta, reduction, check.under_autocast(logits))


def _images(name: str, value: Tensor) -> None:
    if value.dim() != 4:
        raise ValueError(f"{name} must have shape (N, C, H, W), got {tuple(value.shape)}")
    if value.shape[2] * value.shape[3] > _PLACES:
        raise ValueError(
            f"{name} must have at most {_PLACES} pixels an image, got {tuple(value.shape)}"
        )


def _odd(name: str, value: int) -> int:
    """`value`; raise unless it is an odd number of pixels."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 1 or value % 2 == 0:
        raise ValueError(f"{name} must be odd and >= 1, got {value}")
    return min(value, _PLACES)  # no image is wider
