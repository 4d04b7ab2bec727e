"""LossModule (vis4d 1.0.0, engine/loss_module.py), and which of its losses share a pass."""

from fastloss.compat.vis4d.loss_module.module import LossDefinition, LossModule

__all__ = ["LossDefinition", "LossModule"]
