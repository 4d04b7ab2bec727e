"""fastloss.compat.smp has smp's names, argument order, defaults and attributes."""

import inspect

import pytest
import references
import torch
from torch import nn

from fastloss.compat import smp
from fastloss.compat.smp import _functional

upstream = references.or_skip(references.smp)

CLASSES = [name for name in smp.__all__ if isinstance(getattr(smp, name), type)]
FUNCTIONS = [name for name in _functional.__all__]
# Arguments of the constructor besides the mode, none of them a default.
ARGUMENTS = {
    "DiceLoss": ([2, 0], True, False, 1.5, 3, 1e-3, [1.0, 2.0, 3.0]),
    "JaccardLoss": ([2, 0], True, False, 1.5, 3, 1e-3, [1.0, 2.0, 3.0]),
    "TverskyLoss": ([2, 0], True, False, 1.5, 3, 1e-3, 0.2, 0.7, 1.4, [1.0, 2.0, 3.0]),
    "FocalLoss": (0.3, 1.5, 3, False, 1e-3, "sum", True, 0.4, [1.0, 2.0, 3.0]),
    "LovaszLoss": (True, 3, False),
    "MCCLoss": (1e-3,),
    "SoftBCEWithLogitsLoss": (torch.ones(3, 1, 1), 3, "sum", 0.2, torch.full((3, 1, 1), 2.0)),
    "SoftCrossEntropyLoss": ("sum", 0.2, 3, 2),
}


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def make(module, name):
    mode = ("multiclass",) if "mode" in inspect.signature(getattr(module, name)).parameters else ()
    return getattr(module, name)(*mode, *ARGUMENTS[name])


def attributes(loss):
    """What the constructor stores, tensors as numbers and functions by their name."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return value.dtype, value.tolist()
        return (value.func.__name__, value.keywords) if hasattr(value, "func") else value

    return {name: plain(value) for name, value in vars(loss).items() if name[0] != "_"}


def test_names():
    theirs = {name for name in vars(upstream) if name[0] != "_"}
    assert set(smp.__all__) == theirs
    for name in theirs - set(CLASSES):
        assert getattr(smp, name) == getattr(upstream, name)


@pytest.mark.parametrize("name", CLASSES)
def test_class(name):
    ours, theirs = getattr(smp, name), getattr(upstream, name)
    assert parameters(ours) == parameters(theirs)
    assert parameters(ours.forward) == parameters(theirs.forward)
    assert issubclass(ours, nn.Module) and inspect.getdoc(ours) != inspect.getdoc(nn.Module)
    assert [base.__name__ for base in ours.__mro__ if base.__name__ in CLASSES] == [
        base.__name__ for base in theirs.__mro__ if base.__name__ in CLASSES
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_and_state(name):
    ours, theirs = make(smp, name), make(upstream, name)
    expected = attributes(theirs)
    assert {key: attributes(ours)[key] for key in expected} == expected
    assert attributes(ours).keys() - expected.keys() <= {"classes"}
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in theirs.state_dict().items())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    assert parameters(getattr(_functional, name)) == parameters(getattr(upstream._functional, name))
    assert inspect.getdoc(getattr(_functional, name))


def test_every_function_of_smp_is_there():
    theirs = references._defined_in(upstream._functional)
    assert set(FUNCTIONS) == set(theirs)


MODES = [name for name in CLASSES if "mode" in inspect.signature(getattr(smp, name)).parameters]


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("options", [{}, {"classes": [0]}, {"class_weights": [1.0]}], ids=str)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel", "other", None])
def test_errors_of_the_constructor(name, options, mode):
    options = {
        k: v for k, v in options.items() if k in inspect.signature(getattr(smp, name)).parameters
    }
    try:
        getattr(upstream, name)(mode, **options)
    except Exception as error:
        with pytest.raises(type(error)):
            getattr(smp, name)(mode, **options)
    else:
        getattr(smp, name)(mode, **options)
