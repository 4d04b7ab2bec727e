"""LOSSES and build_loss. (Needs no reference library.)"""

import pytest
import torch
from torch import nn

from fastloss.compat import mmdet
from fastloss.compat.mmdet import LOSSES, GIoULoss, L1Loss, build_loss
from fastloss.compat.mmdet.registry import Registry


class Loss(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale


UNREGISTERED = {"Accuracy", "DDQAuxLoss"}  # as in mmdet
CLASSES = sorted(name for name in mmdet.__all__ if isinstance(getattr(mmdet, name), type))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_registered(name):
    assert (name in LOSSES) == (name not in UNREGISTERED)
    if name in LOSSES:
        options = {"num_classes": 4} if "Custom" in name else {}
        assert type(build_loss({"type": name, **options})) is getattr(mmdet, name)
        assert LOSSES.get(f"mmdet.{name}") is getattr(mmdet, name)


def test_build():
    cfg = {"type": "GIoULoss", "loss_weight": 2.0, "eps": 1e-4}
    loss = build_loss(cfg)
    assert type(loss) is GIoULoss
    assert (loss.loss_weight, loss.eps, loss.reduction) == (2.0, 1e-4, "mean")
    assert cfg == {"type": "GIoULoss", "loss_weight": 2.0, "eps": 1e-4}
    assert type(build_loss({"type": L1Loss, "_scope_": "mmdet"})) is L1Loss


def test_default_args():
    defaults = {"loss_weight": 3.0, "eps": 0.1}
    loss = LOSSES.build({"type": "GIoULoss", "eps": 0.2}, default_args=defaults)
    assert (loss.loss_weight, loss.eps) == (3.0, 0.2)
    assert defaults == {"loss_weight": 3.0, "eps": 0.1}


def test_register():
    registry = Registry("loss")
    assert registry.register_module()(Loss) is Loss
    assert registry.register_module(module=Loss, name="other") is Loss
    registry.register_module(name=["first", "second"])(Loss)
    assert len(registry) == 4
    assert registry.get("second") is Loss
    assert registry.get("third") is None and "third" not in registry
    assert "first" in repr(registry)
    assert registry.build({"type": "other", "scale": 2.0}).scale == 2.0
    with pytest.raises(KeyError, match="Loss is already registered"):
        registry.register_module(module=Loss)
    registry.register_module(module=nn.L1Loss, name="Loss", force=True)
    assert registry.get("Loss") is nn.L1Loss


@pytest.mark.parametrize(
    "cfg, error, text",
    [
        ({"type": "NoLoss"}, KeyError, "NoLoss is not in the registry"),
        ({"loss_weight": 1.0}, KeyError, "type"),
        ({"type": "L1Loss", "beta": 1.0}, TypeError, "beta"),
        ({"type": 3}, TypeError, "got int"),
        (["L1Loss"], TypeError, "cfg must be a dict, got list"),
        ({"type": "torch.nn.L1Loss"}, KeyError, "torch.nn.L1Loss"),  # strings are never imported
    ],
)
def test_build_errors(cfg, error, text):
    with pytest.raises(error, match=text):
        build_loss(cfg)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"force": 1}, TypeError),
        ({"name": 3}, TypeError),
        ({"name": [3]}, TypeError),
        ({"module": 3}, TypeError),
    ],
)
def test_register_errors(arguments, error):
    with pytest.raises(error):
        Registry("loss").register_module(**arguments)


def test_get_needs_a_name():
    with pytest.raises(TypeError, match="got Tensor"):
        LOSSES.get(torch.zeros(()))
