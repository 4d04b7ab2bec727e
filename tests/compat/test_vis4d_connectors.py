"""LossConnector, pred_key and data_key against vis4d's."""

import collections
import importlib
from typing import NamedTuple

import pytest
from vis4d_cases import ours

theirs = importlib.import_module("vis4d.engine.connectors")


class Head(NamedTuple):
    boxes: str
    scores: str


class Output(NamedTuple):
    head: Head
    features: dict
    mask: None = None

    @property
    def first(self):
        return self.features["p2"]


TUPLES = Output(Head("b", "s"), {"p2": "f"})
DICTS = {"head": {"boxes": "b", "roi": {"scores": "s"}}, "mask": None}
DATA = {"images": "i", "a.b": "dot", "nothing": None}
FOUND = {
    "data": (DICTS, ours.data_key("images"), "i"),
    "data, flat": (DICTS, ours.data_key("a.b"), "dot"),
    "data that is None": (DICTS, ours.data_key("nothing"), None),
    "data, sensors": (DICTS, ours.data_key("images", ["left"]), "i"),
    "entry": (DICTS, ours.pred_key("head"), DICTS["head"]),
    "entry that is None": (DICTS, ours.pred_key("mask"), None),
    "nested entry": (DICTS, ours.pred_key("head.boxes"), "b"),
    "twice nested entry": (DICTS, ours.pred_key("head.roi.scores"), "s"),
    "field": (TUPLES, ours.pred_key("features"), TUPLES.features),
    "field that is None": (TUPLES, ours.pred_key("mask"), None),
    "nested field": (TUPLES, ours.pred_key("head.scores"), "s"),
    "property": (TUPLES, ours.pred_key("first"), "f"),
}
# Upstream does not step from one kind into the other.
MIXED = {
    "mapping in a tuple": (TUPLES, "features.p2", "f"),
    "tuple in a mapping": ({"out": TUPLES}, "out.head.boxes", "b"),
    "another mapping": (collections.ChainMap({}, DICTS), "head.boxes", "b"),
}


@pytest.mark.parametrize("prediction, description, value", FOUND.values(), ids=FOUND)
def test_found(prediction, description, value):
    for library in (ours, theirs):
        connector = library.LossConnector({"x": description})
        assert connector(prediction, DATA) == {"x": value}


@pytest.mark.parametrize("prediction, key, value", MIXED.values(), ids=MIXED)
def test_found_in_mixed_nesting(prediction, key, value):
    assert ours.LossConnector({"x": ours.pred_key(key)})(prediction, DATA) == {"x": value}


def test_names_order_and_identity():
    target = object()
    mapping = {"b": ours.pred_key("head.boxes"), "a": ours.data_key("t")}
    connector = ours.LossConnector(mapping)
    assert connector.key_mapping is mapping
    found = connector(DICTS, {"t": target})
    assert list(found) == ["b", "a"] and found["a"] is target
    assert ours.LossConnector({})(DICTS, DATA) == {}


def test_descriptions():
    for library in (ours, theirs):
        assert library.pred_key("a.b") == {"key": "a.b", "source": "prediction"}
        assert library.data_key("a") == {"key": "a", "source": "data"}
        assert library.data_key("a", ["l"]) == {"key": "a", "source": "data", "sensors": ["l"]}
        assert library.data_key("a", []) == {"key": "a", "source": "data", "sensors": []}


# description -> the texts that its error has: the key, where it was looked for, what is there
MISSING = {
    "data": (DICTS, ours.data_key("labels"), ["'labels'", "in data", "'images', 'a.b'"]),
    "data, nested": (DICTS, ours.data_key("images.x"), ["'images.x'", "in data"]),
    "entry": (DICTS, ours.pred_key("neck"), ["'neck'", "in prediction,", "['head', 'mask']"]),
    "nested entry": (
        DICTS, ours.pred_key("head.roi.x"),
        ["'head.roi.x'", "no 'x' in prediction.head.roi,", "['scores']"],
    ),
    "field": (TUPLES, ours.pred_key("neck"), ["'neck'", "in prediction, a Output", "'features'"]),
    "nested field": (
        TUPLES, ours.pred_key("head.x"),
        ["no 'x' in prediction.head, a Head", "['boxes', 'scores']"],
    ),
    "data key in the prediction": (DICTS, ours.pred_key("images"), ["in prediction"]),
    "empty key": (DICTS, ours.pred_key(""), ["no '' in prediction"]),
}  # fmt: skip


@pytest.mark.parametrize("prediction, description, texts", MISSING.values(), ids=MISSING)
def test_missing(prediction, description, texts):
    for library in (ours, theirs):
        with pytest.raises(ValueError) as error:
            library.LossConnector({"x": description})(prediction, DATA)
        if library is ours:
            assert all(text in str(error.value) for text in texts), error.value


def test_missing_in_what_has_no_keys():
    with pytest.raises(ValueError, match="no 'x' in prediction.head.boxes, a str with the keys"):
        ours.LossConnector({"x": ours.pred_key("head.boxes.x")})(DICTS, DATA)


def test_unknown_source():
    for library in (ours, theirs):
        with pytest.raises(ValueError, match="model"):
            library.LossConnector({"x": {"key": "a", "source": "model"}})(DICTS, DATA)
