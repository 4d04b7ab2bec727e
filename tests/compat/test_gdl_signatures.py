"""fastloss.compat.gdl has the names, argument order, defaults and attributes of the project's
losses, which are on no package index and therefore written down here."""

import inspect

import pytest
import torch
from torch import nn

from fastloss.compat import gdl, smp

# Constructor and call, as Python shows them without annotations.
OWN = {
    "BoundaryLoss": ("(theta0=19, theta=19, ignore_index=None)", "(pred, gt)"),
    "DuoLoss": ("(**kwargs)", "(preds, labels)"),
    "LovaszSoftmax": ("(ignore_index=None, only_present=True, weight=None)", "(logits, labels)"),
    "OhemCrossEntropy2d": (
        "(thresh=0.6, min_kept=0, weight=None, ignore_index=255)", "(predict, target)",
    ),
}  # fmt: skip
OF_SMP = {
    "DiceLoss", "FocalLoss", "LovaszLoss", "SoftBCEWithLogitsLoss", "SoftCrossEntropyLoss",
}  # fmt: skip


def plain(function):
    """The signature without annotations and self."""
    signature = inspect.signature(function)
    parameters = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_names():
    assert set(gdl.__all__) == OWN.keys() | OF_SMP


@pytest.mark.parametrize("name", OWN)
def test_class(name):
    loss = getattr(gdl, name)
    assert (plain(loss), plain(loss.forward)) == OWN[name]
    assert issubclass(loss, nn.Module) and inspect.getdoc(loss) != inspect.getdoc(nn.Module)


@pytest.mark.parametrize("name", sorted(OF_SMP))
def test_the_five_of_smp_are_the_same_objects(name):
    assert getattr(gdl, name) is getattr(smp, name)


def test_attributes():
    boundary = gdl.BoundaryLoss(3, 5, 7)
    assert (boundary.theta0, boundary.theta, boundary.ignore_index) == (3, 5, 7)
    lovasz = gdl.LovaszSoftmax(7, False)
    assert (lovasz.ignore_index, lovasz.only_present, lovasz.weight) == (7, False, None)
    ohem = gdl.OhemCrossEntropy2d("0.5", 4.0, None, 7)
    assert (ohem.ignore_label, ohem.thresh, ohem.min_kept) == (7, 0.5, 4)
    assert isinstance(ohem.criterion, nn.CrossEntropyLoss) and ohem.criterion.ignore_index == 7
    first, second = gdl.DuoLoss(ignore_index=7).criterion
    assert isinstance(first, gdl.LovaszSoftmax) and isinstance(second, gdl.BoundaryLoss)
    assert first.ignore_index == second.ignore_index == 7


def test_state():
    for loss in (gdl.BoundaryLoss(), gdl.DuoLoss(), gdl.LovaszSoftmax(), gdl.OhemCrossEntropy2d()):
        assert not loss.state_dict() and not list(loss.parameters())
    weight = torch.tensor([1.0, 2.0])
    state = gdl.OhemCrossEntropy2d(weight=weight).state_dict()
    assert list(state) == ["criterion.weight"] and torch.equal(state["criterion.weight"], weight)
    assert not gdl.LovaszSoftmax(weight=weight).state_dict()
