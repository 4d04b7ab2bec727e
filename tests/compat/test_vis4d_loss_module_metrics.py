"""The metrics of LossModule: a dict of floats that are fetched once, when looked at."""

import contextlib
import copy
import json
import pickle
import pprint
import threading

import pytest
import torch

from fastloss.compat.vis4d.loss_module import metrics as loss_module_metrics
from fastloss.compat.vis4d.loss_module.metrics import Metrics
from fastloss.testing import forbid_host_reads

EXPECTED = {"a": 1.5, "b": -2.0, "loss": -0.5}
VALUES = {key: torch.tensor(value) for key, value in EXPECTED.items()}


def waiting():
    return Metrics.on_device(VALUES)


class Transfers(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what reads values on the host: `tolist` of one stacked tensor, not item() of each."""

    def __init__(self):
        super().__init__()
        self.reads, self.stacks = 0, 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.reads += op.name().startswith(("aten::_local_scalar_dense", "aten::item"))
        self.stacks += op.name().startswith("aten::stack")
        return op(*args, **(kwargs or {}))


LOOKS = {
    "entry": lambda m: {k: m[k] for k in m},
    "get": lambda m: {k: m.get(k) for k in m},
    "items": lambda m: dict(m.items()),
    "values": lambda m: dict(zip(m, m.values())),
    "dict": dict,
    "unpacked": lambda m: {**m},
    "arguments": lambda m: dict(**m),
    "updated": lambda m: (d := {}, d.update(m))[0],
    "or": lambda m: m | {},
    "ror": lambda m: {} | m,
    "ior": lambda m: m.__ior__({}),
    "merged": lambda m: (d := {}, d.__ior__(m))[0],
    "method copy": lambda m: m.copy(),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "json": lambda m: json.loads(json.dumps(m)),
    "json, indented": lambda m: json.loads(json.dumps(m, indent=1)),
    "repr": lambda m: eval(repr(m)),
    "str": lambda m: eval(str(m)),
    "f-string": lambda m: eval(f"{m}"),
    "pprint": lambda m: eval(pprint.pformat(m)),
    "percent": lambda m: {k: float(f"%({k})s" % m) for k in m},
    "pop": lambda m: {k: m.pop(k) for k in list(m)},
    "popitem": lambda m: dict(reversed([m.popitem() for _ in range(len(m))])),
    "setdefault": lambda m: {k: m.setdefault(k, 7.0) for k in m},
    "fresh": lambda m: type(m)(m),
}


@pytest.mark.parametrize("look", LOOKS)
def test_every_look_sees_the_numbers(look):
    seen = LOOKS[look](waiting())
    assert dict(seen) == EXPECTED and list(seen) == list(EXPECTED)
    assert all(type(value) is float for value in seen.values())


def test_equality_from_both_sides():
    assert waiting() == EXPECTED and waiting() == EXPECTED and waiting() == waiting()
    assert waiting() != {**EXPECTED, "a": 0.0} and {} != waiting()
    assert not waiting() != EXPECTED


def test_keys_need_no_values():
    with forbid_host_reads():
        metrics = waiting()
        assert isinstance(metrics, dict) and len(metrics) == 3 and metrics
        assert list(metrics) == list(metrics.keys()) == list(EXPECTED)
        assert list(reversed(metrics)) == list(EXPECTED)[::-1]
        assert "a" in metrics and "x" not in metrics
        metrics["a"] = 7.0
        metrics["new"] = 8.0
    assert metrics == {**EXPECTED, "a": 7.0, "new": 8.0}


@pytest.mark.parametrize("look", ["entry", "dict", "repr", "json"])
def test_one_transfer(look):
    with Transfers() as seen:
        metrics = waiting()
        assert seen.stacks == 0
        LOOKS[look](metrics)
        assert seen.stacks == 1
        LOOKS[look](metrics)
        metrics["a"], metrics["b"]
    assert seen.stacks == 1 and seen.reads == 0


@pytest.mark.parametrize("while_waiting", ["failure", "another thread"])
def test_numbers_are_never_taken_for_fetched(while_waiting, monkeypatch):
    """A transfer that fails (an error of an earlier kernel) leaves no NaN, nor does one that is
    not done yet."""
    metrics, fetch, seen = waiting(), loss_module_metrics._numbers, []

    def interrupted(values):
        monkeypatch.setattr(loss_module_metrics, "_numbers", fetch)
        if while_waiting == "failure":
            raise RuntimeError("device")
        thread = threading.Thread(target=lambda: seen.append(metrics["a"]))
        thread.start()
        thread.join()
        return fetch(values)

    monkeypatch.setattr(loss_module_metrics, "_numbers", interrupted)
    with pytest.raises(RuntimeError) if while_waiting == "failure" else contextlib.nullcontext():
        metrics["a"]
    assert metrics == EXPECTED and seen in ([], [EXPECTED["a"]])


def test_changes_as_of_a_dict():
    metrics = waiting()
    del metrics["a"]
    metrics.update(b=3.0)
    assert metrics == {"b": 3.0, "loss": -0.5}
    metrics.clear()
    assert metrics == {} and not metrics
    with pytest.raises(KeyError):
        waiting()["x"]
    assert waiting().get("x") is None and waiting().pop("x", 5) == 5
    with pytest.raises(TypeError):
        hash(metrics)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_numbers_of_any_dtype(dtype):
    """As `item` gives them, also where the dtypes differ."""
    values = {
        "a": torch.tensor(1 / 3, dtype=torch.float64),
        "b": torch.tensor([1 / 3]).to(dtype),
        "c": torch.tensor(2**40 + 1),
    }
    assert Metrics.on_device(values) == {key: value.item() for key, value in values.items()}
