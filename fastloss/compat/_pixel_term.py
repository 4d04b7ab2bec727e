"""A loss of pixels as one term of `functional.segmentation_loss`, alone or together with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastloss import functional
from fastloss.ops.segmentation_loss import SHARED


class PixelTerm(NamedTuple):
    """A term of `kind` with these options; the other fields are arguments of the call.

    `error` is what a label out of range raises, on the CPU.
    """

    kind: str
    logits: Tensor  # as `mode` has them
    target: Tensor
    mode: str
    options: dict[str, Any]
    ignore_index: int | None = None
    from_logits: bool = True
    strict: bool = True
    error: type[Exception] = RuntimeError

    def value(self) -> Tensor:
        """The loss, a scalar."""
        return self.together([self])[0]

    def reading(self) -> dict[str, Any]:
        """What terms need to have in common to be computed from one read of the logits, besides
        the logits and the target themselves."""
        common = {
            "mode": self.mode,
            "shape": tuple(self.logits.shape),
            "ignore_index": self.ignore_index,
            "from_logits": self.from_logits,
            "target": (tuple(self.target.shape), self.target.dtype),
        }
        options = SHARED.get(self.kind, ())
        return common | {f"{name} of {self.kind}": self.options[name] for name in options}

    @staticmethod
    def together(terms: Sequence[PixelTerm]) -> list[Tensor]:
        """The losses of terms on the same logits and target, from one read. A label out of range
        is an error if it is one for any of them."""
        first = next((term for term in terms if term.strict), terms[0])
        try:
            values = functional.segmentation_loss(
                first.logits,
                first.target,
                terms={str(i): {"kind": t.kind, **t.options} for i, t in enumerate(terms)},
                mode=first.mode,
                ignore_index=first.ignore_index,
                from_logits=first.from_logits,
                strict=first.strict,
            )[1]
        except IndexError as error:
            raise first.error(str(error)) from error
        return list(values.values())
