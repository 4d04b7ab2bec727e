"""Which losses can be computed together with others, and as what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastloss import losses
from fastloss.compat import smp
from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat._plain import is_plain
from fastloss.compat.vis4d.cross_entropy import CrossEntropyLoss, SegCrossEntropyLoss
from fastloss.compat.vis4d.loss_module import elements, pixels
from fastloss.compat.vis4d.loss_module.elements import ElementTerm
from fastloss.ops._arguments import FLOATING

Term = PixelTerm | ElementTerm
_INPUT, _OUTPUT, _SMP = ("input", "target"), ("output", "target"), ("y_pred", "y_true")

# class -> the names of its two tensors, and the function that makes a term of them
KNOWN: dict[type[nn.Module], tuple[tuple[str, str], Callable[..., Term | None]]] = {
    nn.CrossEntropyLoss: (_INPUT, pixels.torch_cross_entropy),
    nn.BCEWithLogitsLoss: (_INPUT, pixels.torch_bce),
    CrossEntropyLoss: (_OUTPUT, pixels.vis4d_cross_entropy),
    SegCrossEntropyLoss: (_OUTPUT, pixels.vis4d_seg_cross_entropy),
    smp.DiceLoss: (_SMP, pixels.smp_loss),
    smp.JaccardLoss: (_SMP, pixels.smp_loss),
    smp.TverskyLoss: (_SMP, pixels.smp_loss),
    smp.FocalLoss: (_SMP, pixels.smp_focal),
    smp.SoftCrossEntropyLoss: (_SMP, pixels.smp_cross_entropy),
    smp.SoftBCEWithLogitsLoss: (_SMP, pixels.smp_loss),
    smp.MCCLoss: (_SMP, pixels.smp_loss),
    losses.CrossEntropyLoss: (_INPUT, pixels.native_cross_entropy),
    losses.DiceLoss: (_INPUT, pixels.native_term),
    losses.JaccardLoss: (_INPUT, pixels.native_term),
    losses.TverskyLoss: (_INPUT, pixels.native_term),
    losses.SoftmaxFocalLoss: (_INPUT, pixels.native_term),
    losses.MCCLoss: (_INPUT, pixels.native_term),
    nn.MSELoss: (_INPUT, elements.torch_loss),
    nn.L1Loss: (_INPUT, elements.torch_loss),
    nn.SmoothL1Loss: (_INPUT, elements.torch_loss),
    losses.RegressionLoss: (_INPUT, elements.native_loss),
}
# What the shared passes compute; a class may be given another later.
_FORWARDS = {known: known.forward for known in KNOWN}
# Losses that return their value in a dict, with its key.
_KEYS = {SegCrossEntropyLoss: "loss_seg"}


class Candidate(NamedTuple):
    """A loss that may share a pass over its two tensors."""

    term: Term
    tensors: tuple[Tensor, Tensor]
    key: str | None  # of the dict in which the loss returns its value

    def result(self, value: Tensor) -> Any:
        """What the loss returns."""
        return value if self.key is None else {self.key: value}


def candidate(loss: Any, inputs: Mapping[str, Any]) -> Candidate | str:
    """The loss of these inputs as a term, or why it has to be called itself."""
    if type(loss) not in KNOWN:
        return "not a known class"
    if not is_plain(loss, type(loss)) or type(loss).forward is not _FORWARDS[type(loss)]:
        return "has hooks or a forward of its own"
    names, make = KNOWN[type(loss)]
    if set(inputs) != set(names):
        return f"is given other arguments than {names[0]} and {names[1]}"
    first, second = (inputs[name] for name in names)
    if not _are_readable(first, second):
        return "its arguments are not two dense tensors with elements, on one device"
    term = make(loss, first, second)
    if term is None:
        return "its options, or its arguments, are none of a shared pass"
    return Candidate(term, (first, second), _KEYS.get(type(loss)))


def _are_readable(first: Any, second: Any) -> bool:
    return (
        all(type(x) in (Tensor, nn.Parameter) for x in (first, second))
        and all(x.layout == torch.strided and x.numel() > 0 for x in (first, second))
        and first.dtype in FLOATING
        and not second.is_complex()
        and not second.is_quantized
        and first.device == second.device
    )
