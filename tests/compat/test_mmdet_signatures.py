"""fastloss.compat.mmdet has mmdet's names, argument order and defaults."""

import inspect

import pytest
import references
import torch
from torch import nn

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

NAMES = [name for name in mmdet.__all__ if name not in ("LOSSES", "build_loss")]
NEEDED = dict.fromkeys(("CrossEntropyCustomLoss", "FocalCustomLoss"), {"num_classes": 4})
CLASSES = [name for name in NAMES if isinstance(getattr(mmdet, name), type)]


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_every_name_is_here():
    assert {*upstream.public_names, "LOSSES", "build_loss"} <= set(mmdet.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_signature(name):
    assert parameters(getattr(mmdet, name)) == parameters(getattr(upstream, name))


@pytest.mark.parametrize("name", CLASSES)
def test_forward_signature(name):
    assert parameters(getattr(mmdet, name).forward) == parameters(getattr(upstream, name).forward)


# DDQAuxLoss builds its losses from the arguments.
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "DDQAuxLoss"])
def test_module_and_attributes(name):
    ours, theirs = (getattr(m, name)(**NEEDED.get(name, {})) for m in (mmdet, upstream))
    assert isinstance(ours, nn.Module)
    constructor = inspect.signature(type(theirs)).parameters
    assert {key: vars(ours)[key] for key in constructor} == {
        key: vars(theirs)[key] for key in constructor
    }
    buffers, expected = ours.state_dict(), theirs.state_dict()
    assert buffers.keys() == expected.keys()
    assert all(torch.equal(buffers[key], expected[key]) for key in buffers)
    assert inspect.getdoc(type(ours)) != inspect.getdoc(nn.Module)


@pytest.mark.parametrize(
    "name",
    [
        "iou_loss",
        "giou_loss",
        "diou_loss",
        "ciou_loss",
        "eiou_loss",
        "siou_loss",
        "bounded_iou_loss",
        "smooth_l1_loss",
        "balanced_l1_loss",
        "l1_loss",
        "l2_loss",
    ],
)
def test_weight_is_the_third_argument(name):
    # inspect shows the inner signature of a weighted function; it is called with another one.
    pred, target, weight = (
        torch.tensor([[0.0, 0.0, 4.0, 4.0]]),
        torch.tensor([[1.0, 1.0, 5.0, 4.0]]),
        torch.tensor([3.0]),
    )
    ours, theirs = getattr(mmdet, name), getattr(upstream, name)
    assert torch.allclose(ours(pred, target, weight, "sum"), theirs(pred, target, weight, "sum"))
