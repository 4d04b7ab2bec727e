"""Register the mirrored losses where mmengine's runner looks for them."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastloss.compat import mmdet
from fastloss.compat.mmdet.registry import LOSSES

SCOPE = "fastloss"


def register(replace: bool) -> None:
    """`fastloss.register_mmdet`, which documents it."""
    if not isinstance(replace, bool):
        raise TypeError(f"replace must be True or False, got {type(replace).__name__}")
    try:
        from mmengine.registry import MODELS, Registry
    except ImportError as error:
        raise ImportError(f"mmengine cannot be imported ({error}): pip install mmengine") from error
    registry = MODELS.children.get(SCOPE)
    if registry is None:
        registry = Registry("model", parent=MODELS, scope=SCOPE)
    public = (getattr(mmdet, name) for name in mmdet.__all__)
    losses = [x for x in public if isinstance(x, type) and issubclass(x, nn.Module)]
    _add(registry, losses)
    if replace:
        from mmdet.registry import MODELS as theirs

        theirs.import_from_location()  # Else mmdet's own would find their names taken later.
        _add(theirs, [loss for loss in losses if loss.__name__ in LOSSES])


def _add(registry: Any, losses: list[type[nn.Module]]) -> None:
    for loss in losses:
        registry.register_module(name=loss.__name__, force=True, module=loss)
