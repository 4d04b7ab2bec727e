"""fastloss.compat.vis4d has vis4d's names, argument order, defaults and attributes."""

import importlib
import inspect
from collections.abc import Callable

import pytest
from torch import Tensor, nn
from vis4d_cases import ours, upstream

connectors = importlib.import_module("vis4d.engine.connectors")
# references.vis4d adds an embedding_distance of its own.
NAMES = [name for name in vars(upstream) if name != "embedding_distance"]
OF_CONNECTORS = ("LossConnector", "data_key", "pred_key")
LOSSES = [
    name
    for name in NAMES
    if isinstance(getattr(upstream, name), type) and issubclass(getattr(upstream, name), nn.Module)
]


def theirs(name):
    return getattr(connectors if name in OF_CONNECTORS else upstream, name)


def parameters(function):
    """Names, kinds and defaults; default reducers by their names."""
    return [
        (p.name, p.kind, getattr(p.default, "__name__", p.default))
        for p in inspect.signature(function).parameters.values()
    ]


def test_names():
    assert {*NAMES, *OF_CONNECTORS, "LossReducer", "SourceKeyDescription"} <= set(ours.__all__)
    assert all(hasattr(ours, name) for name in ours.__all__)
    assert ours.LossReducer == Callable[[Tensor], Tensor]


@pytest.mark.parametrize("name", [*NAMES, *OF_CONNECTORS])
def test_signature(name):
    assert parameters(getattr(ours, name)) == parameters(theirs(name))
    assert inspect.getdoc(getattr(ours, name))


def test_description_of_a_source():
    mine, expected = ours.SourceKeyDescription, connectors.SourceKeyDescription
    assert mine.__required_keys__ == {"key", "source"} and mine.__optional_keys__ == {"sensors"}
    assert mine.__annotations__.keys() == expected.__annotations__.keys()
    assert mine(key="a", source="data") == expected(key="a", source="data")


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "Loss"])
def test_forward_signature(name):
    assert parameters(getattr(ours, name).forward) == parameters(theirs(name).forward)


@pytest.mark.parametrize("name", ["SumWeightedLoss", "LossConnector"])
def test_call_signature(name):
    assert parameters(getattr(ours, name).__call__) == parameters(theirs(name).__call__)


@pytest.mark.parametrize("name", LOSSES)
def test_module_and_attributes(name):
    loss, other = getattr(ours, name)(), getattr(upstream, name)()
    assert isinstance(loss, ours.Loss) and isinstance(loss, nn.Module)
    assert type(loss).__doc__
    for key in inspect.signature(type(other)).parameters:
        mine, expected = getattr(loss, key), getattr(other, key)
        assert getattr(mine, "__name__", mine) == getattr(expected, "__name__", expected)
    assert loss.state_dict() == {} and not list(loss.parameters())


def test_attributes_that_are_given():
    def kept(loss):
        return loss

    assert ours.Loss(kept).reducer is kept
    iou = ours.IoULoss(kept, "square", 0.1)
    assert (iou.reducer, iou.mode, iou.eps) == (kept, "square", 0.1)
    entropy = ours.CrossEntropyLoss(kept, [1.0, 2.0])
    assert (entropy.reducer, entropy.class_weights) == (kept, [1.0, 2.0])
    levels = ours.MultiLevelSegLoss(kept, (2, 1), [3.0, 4.0])
    assert (levels.feature_idx, levels.weights) == ((2, 1), [3.0, 4.0])
    assert ours.MultiLevelSegLoss(kept, (2, 1)).weights == [1.0, 1.0]
    distance = ours.EmbeddingDistanceLoss(kept, 2.0, 0.1, 0.2, False)
    assert (distance.reducer, distance.neg_pos_ub, distance.hard_mining) == (kept, 2.0, False)
    assert (distance.pos_margin, distance.neg_margin) == (0.1, 0.2)
    weighted = ours.SumWeightedLoss(2.0, 3.0)
    assert (weighted.weight, weighted.avg_factor) == (2.0, 3.0)
