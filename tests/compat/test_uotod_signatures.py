"""fastloss.compat.uotod has the names, options, defaults and properties of uotod's matchers."""

import inspect

import pytest
import torch
from references import or_skip, uotod
from torch import nn

from fastloss.compat import uotod as ours

UOTOD = or_skip(uotod)
MATCHERS = [name for name, x in vars(UOTOD.match).items() if inspect.isclass(x)]
# An internal of upstream's, and a default that its own check refuses.
DEPARTURES = {("BalancedPOT", "balanced"), ("UnbalancedPOT", "balanced"),
              ("UnbalancedPOT", "method")}  # fmt: skip


def their_options(cls):
    """The options that the constructors of a class and of its bases have by a decorator."""
    options = {}
    for base in reversed(cls.__mro__):
        for function in (vars(base).get("__init__"), vars(base).get("__new__")):
            function = getattr(function, "__func__", function)
            if hasattr(function, "__wrapped__") and issubclass(base, cls.__mro__[-2]):
                options |= inspect.getclosurevars(function).nonlocals.get("dict_kwargs", {})
    return options


def our_options(cls):
    options = {}
    for base in reversed(cls.__mro__):
        function = vars(base).get("__init__") or vars(base).get("__new__")
        if base.__module__.startswith("fastloss") and function is not None:
            parameters = inspect.signature(function).parameters.values()
            options |= {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
    return options


def test_names():
    assert set(ours.match.__all__) == set(MATCHERS)
    utils = {"box_cxcywh_to_xyxy", "convert_target_to_dict"}
    assert set(ours.__all__) == (
        {*ours.match.__all__, *ours.loss.__all__} | utils | {"loss", "match", "utils"}
    )
    for name in ours.match.__all__:
        assert getattr(ours, name) is getattr(ours.match, name)
    assert all(getattr(ours, name) is getattr(ours.utils, name) for name in utils)


@pytest.mark.parametrize("name", MATCHERS)
def test_options(name):
    theirs, options = their_options(getattr(UOTOD.match, name)), our_options(getattr(ours, name))
    assert theirs
    for option, default in theirs.items():
        if (name, option) not in DEPARTURES:
            assert options[option] == default, option


@pytest.mark.parametrize("name", [name for name in MATCHERS if name != "Min"])
def test_methods(name):
    ours_, theirs = getattr(ours, name), getattr(UOTOD.match, name)
    assert issubclass(ours_, nn.Module) and issubclass(ours_, ours.match._Match._Match)
    assert inspect.getdoc(ours_) != inspect.getdoc(ours.match._Match._Match)
    for method in ("forward", "compute_cost_matrix", "compute_matching", "plot"):
        parameters, expected = (
            [(p.name, p.default) for p in inspect.signature(getattr(x, method)).parameters.values()]
            for x in (ours_, theirs)
        )
        assert parameters == expected
    for attribute, value in inspect.getmembers(theirs, lambda x: isinstance(x, property)):
        found = inspect.getattr_static(ours_, attribute)
        assert isinstance(found, property) and (found.fset is None) == (value.fset is None)


def test_methods_of_the_sum():
    parameters, expected = (
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (ours.WeightedSum.plots_individual, UOTOD.match.WeightedSum.plots_individual)
    )
    assert parameters == expected
    for name in ("BalancedPOT", "UnbalancedPOT"):
        methods = getattr(UOTOD.match, name).available_methods
        assert getattr(ours, name).available_methods == methods


def image(g, count):
    labels = torch.randint(0, 9, (count,), generator=g)
    return {"boxes": torch.rand(count, 4, generator=g), "labels": labels}


def test_convert_target_to_dict():
    g = torch.Generator().manual_seed(0)
    for counts in ((2, 0, 3), (0, 0), (1,)):
        target = [image(g, count) for count in counts]
        found, expected = (x.utils.convert_target_to_dict(target) for x in (ours, UOTOD))
        assert list(found) == list(expected)
        for name in expected:
            assert torch.equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype
    double = {"boxes": torch.rand(2, 4).double(), "labels": torch.ones(2, dtype=torch.int32)}
    found = ours.convert_target_to_dict([double])
    assert found["boxes"].dtype == torch.float32 and found["labels"].dtype == torch.int64
    one_hot = {"boxes": torch.rand(1, 4), "labels": torch.tensor([[0.0, 1.0, 0.0]])}
    found = ours.convert_target_to_dict([one_hot, {**one_hot, "boxes": torch.rand(1, 4)}])
    assert torch.equal(found["labels"][1], one_hot["labels"])


def test_labels_must_be_as_many_as_boxes():
    boxes, three = torch.rand(2, 4), torch.rand(3, 4)
    for labels in (torch.tensor(7), torch.tensor([7])):  # one for all
        target = [{"boxes": boxes, "labels": labels}, {"boxes": three, "labels": labels}]
        found, expected = (x.utils.convert_target_to_dict(target) for x in (ours, UOTOD))
        assert torch.equal(found["labels"], expected["labels"])
    wrong = {"boxes": boxes, "labels": torch.ones(3)}
    for library in (ours, UOTOD):
        with pytest.raises(RuntimeError, match="size"):
            library.utils.convert_target_to_dict([wrong, {**wrong, "boxes": three}])


def test_box_cxcywh_to_xyxy():
    boxes = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, expected = (x.utils.box_cxcywh_to_xyxy(boxes) for x in (ours, UOTOD))
    assert torch.equal(found, expected)
    for size in (3, 5):
        with pytest.raises(ValueError, match=r"\(\*, 4\)"):
            ours.box_cxcywh_to_xyxy(torch.rand(2, size))
    above = torch.linspace(0, 1, 24).reshape(2, 3, 4)
    assert torch.equal(*(torch.autograd.grad(x, boxes, above)[0] for x in (found, expected)))


@pytest.mark.parametrize(
    "name", sorted(name for name, x in vars(UOTOD.loss).items() if inspect.isclass(x))
)
def test_losses(name):
    """Names, order and defaults of the constructor and of the call."""
    loss, theirs = getattr(ours.loss, name), getattr(UOTOD.loss, name)
    assert name in ours.loss.__all__ and getattr(ours, name) is loss
    for function, expected in ((loss.__init__, theirs.__init__), (loss.forward, theirs.forward)):
        parameters = inspect.signature(function).parameters.values()
        theirs_too = inspect.signature(expected).parameters.values()
        assert [(p.name, p.default) for p in parameters] == [
            (p.name, p.default) for p in theirs_too
        ]
    assert issubclass(loss, nn.modules.loss._Loss) and len(inspect.getdoc(loss)) > 100


def test_the_base_is_imported_from_its_module():
    """As users do who write a matcher."""
    from fastloss.compat.uotod.match._Match import _Match

    assert ours.match._Match._Match is _Match and issubclass(ours.match.Hungarian, _Match)
