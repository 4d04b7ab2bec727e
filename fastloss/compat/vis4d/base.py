"""The base class of the losses (vis4d 1.0.0, op/loss/base.py)."""

from __future__ import annotations

import abc

from torch import nn

from fastloss.compat.vis4d.reducers import LossReducer, identity_loss


class Loss(nn.Module, abc.ABC):
    """A module that keeps a reducer.

    Args:
        reducer: callable Tensor -> Tensor that makes the result of the loss per element.
    """

    def __init__(self, reducer: LossReducer = identity_loss) -> None:
        super().__init__()
        self.reducer = reducer
