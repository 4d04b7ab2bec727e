"""LossModule against vis4d's: values, names, structure, exceptions."""

import copy
import inspect
import pickle
from collections import namedtuple

import pytest
import references
import torch
from loss_module_cases import connector
from torch import nn

from fastloss.compat import vis4d

upstream = references.or_skip(references.vis4d_engine)

Pair = namedtuple("Pair", "first second")
G = torch.Generator().manual_seed(0)
X, Y = (torch.randn(3, 4, generator=G, dtype=torch.float64) for _ in "xy")


class Returns(nn.Module):
    """Whatever `make` makes of its argument."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, input):
        return self.make(input)


def definitions(library, losses):
    """(loss, rest of its definition) with a connector for what the loss is called with."""
    pair, one = {"input": "p.x", "target": "d.y"}, {"input": "p.x"}
    return [
        {
            "loss": loss,
            "connector": connector(library, **(one if isinstance(loss, Returns) else pair)),
            **rest,
        }
        for loss, rest in losses
    ]


def evaluate(library, losses, **options):
    module = library.LossModule(definitions(library, losses), **options)
    x = X.clone().requires_grad_()
    total, metrics = module({"x": x}, {"y": Y})
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, x)
    return total, metrics, gradient


def compare(losses, **options):
    total, metrics, gradient = evaluate(vis4d, losses, **options)
    their_total, their_metrics, their_gradient = evaluate(upstream, losses, **options)
    assert list(metrics) == list(their_metrics)
    assert all(type(value) is float for value in metrics.values())
    assert metrics == pytest.approx(their_metrics, rel=1e-12, abs=1e-14)
    assert total.shape == their_total.shape and total.dtype == their_total.dtype
    torch.testing.assert_close(total, their_total, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-12, atol=1e-14)
    return metrics


def nested(x):
    return {"a": x.sum(), "b": {"c": x.mean(), "d": {"e": x.square().sum()}}, "empty": {}}


@pytest.mark.parametrize("losses,names", [
    ([(nn.MSELoss(), {})], ["MSELoss", "loss"]),
    ([(nn.MSELoss(), {"name": "a", "weight": 2})], ["a", "loss"]),
    ([(nn.MSELoss(), {"weight": 0.7}), (nn.L1Loss(), {"weight": 0.3})],
     ["MSELoss", "L1Loss", "loss"]),
    ([(nn.MSELoss(), {}), (nn.MSELoss(), {}), (nn.MSELoss(), {"weight": 3.0})],
     ["MSELoss", "__MSELoss", "____MSELoss", "loss"]),
    ([(Returns(nested), {"name": "n"})], ["n.a", "n.b.c", "n.b.d.e", "loss"]),
    ([(Returns(nested), {"weight": {"Returns.b.c": 5.0, "a": 7.0}})],
     ["Returns.a", "Returns.b.c", "Returns.b.d.e", "loss"]),
    # The weight is looked up before a name is changed.
    ([(Returns(nested), {"weight": {"Returns.a": 5.0}})] * 2,
     [f"{p}Returns.{k}" for p in ("", "__") for k in ("a", "b.c", "b.d.e")] + ["loss"]),
    ([(Returns(lambda x: Pair(x.sum(), None)), {"weight": {"Returns.first": 0.5}})],
     ["Returns.first", "loss"]),
    ([(Returns(lambda x: Pair(x.sum(), 2.0)), {})], ["Returns.first", "Returns.second", "loss"]),
    ([(Returns(lambda x: x.sum().reshape(1)), {}), (nn.L1Loss(), {})],
     ["Returns", "L1Loss", "loss"]),
    ([(Returns(lambda x: None), {}), (nn.L1Loss(), {})], ["L1Loss", "loss"]),
    ([(nn.L1Loss(), {"weight": torch.tensor(0.5, dtype=torch.float64)})], ["L1Loss", "loss"]),
    ([(nn.L1Loss(), {"name": "loss"}), (nn.MSELoss(), {"name": "loss"})], ["loss", "__loss"]),
])  # fmt: skip
def test_values_and_names(losses, names):
    assert list(compare(losses)) == names


@pytest.mark.parametrize("excluded,total", [
    (None, 3), ([], 3), (["a"], 2), (["__a"], 2), (["other"], 3), (("a", "__a"), 1),
], ids=str)  # fmt: skip
def test_excluded_values_are_reported_alone(excluded, total):
    one = Returns(lambda x: 0 * x.sum() + 1)
    losses = [(one, {"name": "a"}), (one, {"name": "a"}), (one, {"name": "b"})]
    metrics = compare(losses, exclude_attributes=excluded)
    assert metrics == {"a": 1, "__a": 1, "b": 1, "loss": total}


def test_sum_of_nothing_is_zero():
    """vis4d fails: its sum is the number 0."""
    total, metrics, _ = evaluate(vis4d, [(nn.L1Loss(), {})], exclude_attributes=["L1Loss"])
    assert total.dtype == torch.float64 and total.shape == () and total == 0
    assert metrics == {"L1Loss": float((X - Y).abs().mean()), "loss": 0.0}
    with pytest.raises(AttributeError):
        evaluate(upstream, [(nn.L1Loss(), {})], exclude_attributes=["L1Loss"])
    total, metrics = vis4d.LossModule([])({}, {})
    assert total == 0 and metrics == {"loss": 0.0}


@pytest.mark.parametrize("losses,error,text", [
    ([(Returns(lambda x: {"a": None}), {})], ValueError, "NoneType at Returns.a"),
    ([(Returns(lambda x: {"a": {"b": 1.0}}), {})], ValueError, "float at Returns.a.b"),
    ([(Returns(lambda x: {"a": [x.sum()]}), {})], ValueError, "list at Returns.a"),
    ([(Returns(lambda x: {1: x.sum()}), {})], TypeError, "got 1 in Returns"),
    ([(Returns(lambda x: Pair({"a": x.sum()}, 0)), {})], TypeError, "'Returns.first' .* dict and"),
    ([(Returns(lambda x: x), {})], RuntimeError, r"'Returns' must be one number, got \(3, 4\)"),
    ([(nn.L1Loss(reduction="none"), {})], RuntimeError, "'L1Loss' must be one number"),
    ([(nn.L1Loss(), {"weight": "heavy"})], TypeError, "'L1Loss' .* Tensor and str"),
    ([(nn.L1Loss(), {"weight": None})], TypeError, "'L1Loss' .* Tensor and NoneType"),
])  # fmt: skip
def test_exceptions_of_a_call(losses, error, text):
    for library, match in ((upstream, None), (vis4d, text)):
        module = library.LossModule(definitions(library, losses))
        with pytest.raises(error, match=match):
            module({"x": X}, {"y": Y})


@pytest.mark.parametrize(
    "result", [3.0, "x", [X.sum()], (X.sum(), X.sum())], ids=["float", "str", "list", "tuple"]
)
def test_a_result_that_is_no_loss(result):
    """vis4d leaves it out of the sum without a word."""
    losses = [(Returns(lambda x: result), {"name": "mine"}), (nn.L1Loss(), {})]
    assert list(evaluate(upstream, losses)[1]) == ["L1Loss", "loss"]
    with pytest.raises(ValueError, match=f"'mine' must return .* got {type(result).__name__}"):
        evaluate(vis4d, losses)


@pytest.mark.parametrize("given", [{}, {"loss": nn.L1Loss()}, {"connector": None}, (), 3, [{}]])
def test_exceptions_of_the_constructor(given):
    errors = (AssertionError, TypeError)
    for library in (vis4d, upstream):
        with pytest.raises(errors) as raised:
            library.LossModule(given)
        errors = raised.type


def test_definitions_are_kept_but_not_written_to():
    (given,) = definitions(vis4d, [(nn.MSELoss(), {})])
    before = dict(given)
    module = vis4d.LossModule(given)
    assert given == before and type(module.losses) is list
    assert module.losses == [{**given, "name": "MSELoss", "weight": 1.0}]
    theirs = upstream.LossModule(given)
    assert theirs.losses[0].keys() == module.losses[0].keys()
    assert module.exclude_attributes is None


@pytest.mark.parametrize("losses", [[nn.MSELoss()], [nn.MSELoss(), nn.L1Loss()]], ids=len)
def test_metrics_are_of_the_call(losses):
    """Not of what is done to the total before they are looked at, as when steps are accumulated."""
    module = vis4d.LossModule(definitions(vis4d, [(loss, {}) for loss in losses]))
    total, metrics = module({"x": X}, {"y": Y})
    expected = total.item()
    total /= 4
    assert metrics["loss"] == sum(metrics[type(loss).__name__] for loss in losses) == expected


def test_losses_are_no_submodules():
    """As upstream: their parameters are not parameters of the module."""
    module = vis4d.LossModule(definitions(vis4d, [(nn.PReLU(), {})]))
    assert not list(module.parameters()) and list(module.modules()) == [module]
    assert not module.state_dict()


def test_losses_may_be_exchanged_later():
    module = vis4d.LossModule(definitions(vis4d, [(nn.MSELoss(), {})]))
    module.losses[0]["weight"] = 2.0
    module.losses.append(module.losses[0] | {"loss": nn.L1Loss(), "name": "more"})
    total, metrics = module({"x": X}, {"y": Y})
    assert list(metrics) == ["MSELoss", "more", "loss"]
    torch.testing.assert_close(total, 2 * ((X - Y).square() + (X - Y).abs()).mean())


def test_any_callable_with_any_connector():
    calls = []

    def loss(**inputs):
        calls.append(inputs)
        return inputs["a"].sum()

    given = {"loss": loss, "connector": lambda output, batch: {"a": output[0], "b": batch}}
    total, metrics = vis4d.LossModule([given])([X], "batch")
    assert calls == [{"a": X, "b": "batch"}] or calls[0]["a"] is X
    assert list(metrics) == ["function", "loss"] and total == X.sum()


def test_signatures():
    for function in ("__init__", "forward"):
        ours, theirs = (
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
            for f in (getattr(lib.LossModule, function) for lib in (vis4d, upstream))
        )
        assert ours == theirs
    ours, theirs = vis4d.LossDefinition, upstream.LossDefinition
    assert ours.__required_keys__ == {"loss", "connector"}
    assert ours.__optional_keys__ == {"weight", "name"}
    assert ours.__annotations__.keys() == theirs.__annotations__.keys()
    made = ours(loss=nn.L1Loss(), connector=connector(vis4d, input="p.x"))
    assert type(made) is dict and list(made) == ["loss", "connector"]


def test_documented_example():
    """That of vis4d, with numbers: 0.7 (1 + 4) / 2 + 0.3 (1 + 2) / 2."""
    keys = {"input": vis4d.pred_key("input"), "target": vis4d.data_key("target")}
    loss = vis4d.LossModule(
        [
            {"loss": nn.MSELoss(), "weight": 0.7, "connector": vis4d.LossConnector(keys)},
            {"loss": nn.L1Loss(), "weight": 0.3, "connector": vis4d.LossConnector(keys)},
        ]
    )
    prediction = {"input": torch.tensor([1.0, 2.0], requires_grad=True)}
    total, metrics = loss(prediction, {"target": torch.tensor([2.0, 4.0])})
    total.backward()
    assert total.item() == pytest.approx(2.2, rel=1e-6)
    assert metrics == pytest.approx({"MSELoss": 1.75, "L1Loss": 0.45, "loss": 2.2}, rel=1e-6)
    gradient = torch.tensor([0.7 * -1 - 0.15, 0.7 * -2 - 0.15])
    torch.testing.assert_close(prediction["input"].grad, gradient)
    assert loss.plan == "MSELoss, L1Loss: one pass over the elements"


def test_copies_and_pickles():
    module = vis4d.LossModule(definitions(vis4d, [(nn.MSELoss(), {})]))
    expected = module({"x": X}, {"y": Y})[1]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other({"x": X}, {"y": Y})[1] == expected
