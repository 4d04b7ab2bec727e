"""fastloss::scale_, the in-place product of a gradient with a scalar on the device."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common


@common.kernel
def scale_(gradient, factor, n, BLOCK: tl.constexpr):
    """A factor of 1, which is what loss.backward() passes, moves no memory."""
    value = tl.load(factor)
    if value != 1.0:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = common.load_block(gradient, i, n)
        common.store_block(gradient, x * value.to(x.dtype), i, n)


def run(gradient: Tensor, factor: Tensor) -> None:
    n = gradient.numel()
    with torch.cuda.device_of(gradient):
        common.launch(scale_, triton.cdiv(n, common.BLOCK), gradient, factor, n, BLOCK=common.BLOCK)


implement("scale_", "triton", run)
