r"""Maximum over a sliding square window.

    y(i) = max of x(j) over the pixels j of the image with |i - j| <= (window - 1) / 2 on both axes

for an odd window of any size, also one larger than the image. The gradient of y(i) goes to the
first maximum in row-major order. A NaN is larger than any number; of several the last counts. This
is torch.nn.functional.max_pool2d with stride 1 and padding (window - 1) / 2, as is its derivative.
"""

import torch.nn.functional as F
from torch import Tensor

from ._reduce import compute_dtype, gradients


def pool(x: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Maxima of x (N, C, H, W), not empty, and their places in the image as row * W + column."""
    window = min(window, 2 * max(x.shape[-2:]) - 1)
    return F.max_pool2d(x, window, stride=1, padding=window // 2, return_indices=True)


def unpool(grad: Tensor, places: Tensor) -> Tensor:
    """The gradient to x from that of its maxima, both (N, C, H, W)."""
    result = grad.new_zeros(grad.shape).flatten(2)
    return result.scatter_add(2, places.flatten(2), grad.flatten(2)).view(grad.shape)


def forward(x: Tensor, window: int) -> Tensor:
    """(N, C, H, W)."""
    if x.numel() == 0:
        return x.clone().contiguous()
    return pool(x.to(compute_dtype(x)).contiguous(), window)[0].to(x.dtype)


def backward(grad: Tensor, x: Tensor, window: int, needs: int) -> list[Tensor]:
    """Gradient to x, (N, C, H, W)."""
    g = grad.to(compute_dtype(x)).contiguous()
    if x.numel():
        g = unpool(g, pool(x.to(g.dtype).contiguous(), window)[1])
    return gradients(needs, x, (g, x.dtype))
