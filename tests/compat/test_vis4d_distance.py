"""l1_loss, l2_loss, smooth_l1_loss and the reducers, against vis4d's."""

import functools

import pytest
import torch
from parity import assert_parity
from vis4d_cases import DTYPES, LIBRARIES, REDUCERS, ours, reducer, same_error, upstream

G = torch.Generator().manual_seed(0)
PRED, TARGET = torch.randn(2, 6, 5, generator=G), torch.randn(2, 6, 5, generator=G)
PRED[0, 0], TARGET[0, 0] = 1.0, torch.tensor([1.0, 0.5, 1.5, 0.0, 2.0])  # |d| = 0, 1/2 and 1
FUNCTIONS = {
    "l1": ("l1_loss", {}),
    "l2": ("l2_loss", {}),
    "smooth l1": ("smooth_l1_loss", {}),
    "smooth l1 of beta 1/2": ("smooth_l1_loss", {"beta": 0.5}),
    "smooth l1 of beta 3": ("smooth_l1_loss", {"beta": 3}),
}
each = pytest.mark.parametrize("name, options", FUNCTIONS.values(), ids=FUNCTIONS)


def calls(name, how, **options):
    """The function of both libraries with a reducer."""
    return [
        lambda pred, target, library=library: getattr(library, name)(
            pred, target, reducer(library, how), **options
        )
        for library in LIBRARIES
    ]


@DTYPES
@pytest.mark.parametrize("how", REDUCERS)
@each
def test_values_and_gradients(name, options, how, dtype):
    assert_parity(*calls(name, how, **options), PRED, TARGET, dtype=dtype)


@each
def test_default_keeps_the_loss_per_element(name, options):
    pair = [functools.partial(getattr(library, name), **options) for library in LIBRARIES]
    assert_parity(*pair, PRED.mT, TARGET.mT.contiguous())
    assert getattr(ours, name)(PRED[0, 0, 0], TARGET[1, 0, 0]).shape == ()


WEIGHTS = {
    "whole": (torch.rand(2, 6, 5, generator=G) - 0.3, 4.0),
    "row": (torch.rand(5, generator=G), 4.0),
    "column": (torch.rand(2, 1, 1, generator=G), torch.tensor(4.0)),
    "scalar": (torch.tensor(0.3), torch.tensor(4)),
    "enlarges": (torch.rand(3, 1, 1, 1, generator=G), 4.0),
    "avg_factor 0": (torch.rand(5, generator=G), 0.0),
    "avg_factor 0, tensor": (torch.rand(5, generator=G), torch.tensor(0)),
    "negative avg_factor": (torch.rand(5, generator=G), -2.0),
    "avg_factor with a dimension": (torch.rand(5, generator=G), torch.tensor([4.0])),
}


@DTYPES
@pytest.mark.parametrize("weight, avg_factor", WEIGHTS.values(), ids=WEIGHTS)
def test_sum_weighted(weight, avg_factor, dtype):
    def call(library):
        def loss(pred, target, weight, avg_factor):
            return library.l1_loss(pred, target, library.SumWeightedLoss(weight, avg_factor))

        return loss

    if isinstance(avg_factor, torch.Tensor) and avg_factor.is_floating_point():
        avg_factor = avg_factor.to(dtype)  # differentiable
    assert_parity(*map(call, LIBRARIES), PRED, TARGET, weight, avg_factor, dtype=dtype)


def test_a_reducer_derived_from_sum_weighted_is_called():
    for library in LIBRARIES:
        derived = type("Derived", (library.SumWeightedLoss,), {"__call__": lambda self, loss: self})
        reducer_ = derived(WEIGHTS["whole"][0], 4.0)
        assert library.l1_loss(PRED, TARGET, reducer_) is reducer_


def test_sum_weighted_of_integers():
    for library in LIBRARIES:
        weighted = library.SumWeightedLoss(torch.tensor([True, False, True]), 2)
        value = library.l2_loss(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3), weighted)
        assert value == 5


@each
def test_integers(name, options):
    values = [
        getattr(library, name)(torch.tensor([1, 2]), torch.tensor([3, 2]), **options)
        for library in LIBRARIES
    ]
    assert torch.equal(*(value.float() for value in values))
    target = torch.randint(0, 3, PRED.shape, generator=G)
    assert_parity(*calls(name, "identity_loss", **options), PRED, target)


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (3,)), ((2, 3), (2, 1)), ((4,), (5,)), ((0,), (0,)), ((2, 0), (2, 0))],
    ids=str,
)
@pytest.mark.parametrize("name", ["l1_loss", "l2_loss", "smooth_l1_loss"])
def test_one_shape_that_is_not_empty(name, shapes):
    pair = [torch.zeros(shape) for shape in shapes]
    text = same_error(lambda library: getattr(library, name)(*pair))
    assert str(shapes[0]) in text and str(shapes[1]) in text


@pytest.mark.parametrize("beta", [0, 0.0, -1.0])
def test_beta_is_positive(beta):
    text = same_error(lambda library: library.smooth_l1_loss(PRED, TARGET, beta=beta))
    assert "beta" in text and str(beta) in text


def test_what_torch_would_refuse_is_a_runtime_error():
    with pytest.raises(RuntimeError, match="device"):
        ours.l1_loss(PRED, TARGET.to("meta"))


def test_reducers_by_themselves():
    for name in ("identity_loss", "mean_loss", "sum_loss"):
        assert_parity(getattr(ours, name), getattr(upstream, name), PRED)
    assert ours.identity_loss(PRED) is PRED
    assert ours.mean_loss(PRED[:0]).isnan()
    for library in LIBRARIES:
        assert library.SumWeightedLoss(PRED, 0.0)(torch.ones_like(PRED)).isinf()
