"""Registration, torch.compile, functorch, autocast, checkpointing."""

import functools

import pytest
import torch

from fastloss._library import OPS
from fastloss.testing import Sample, assert_matches, capture, samples
from fastloss.testing.samples.sample import incoming

SMALL = samples(tag="small")
ONE_PER_FUNCTION = list(
    {
        (s.function, *sorted(map(str, s.options.items())), "index" in s.name): s for s in SMALL
    }.values()
)
ONE_PER_OP = list({s.function: s for s in SMALL}.values())


def differentiable(chosen):
    return [s for s in chosen if s.leaves()]


def losses(chosen):
    """Without the samples whose gradient, if they have one, is torch's own."""
    return [s for s in differentiable(chosen) if "chosen" not in s.tags]


@functools.cache
def calls() -> list:
    """Distinct op calls of the small samples: forward and backward of every kind."""
    found = {}
    for sample in ONE_PER_FUNCTION:
        with capture() as recorded:
            sample.cast(torch.float32).run()
            sample.cast(torch.float32).run(only_first=True)
        for name, args in recorded:
            absent = tuple(a is None for a in args)
            # "mean" and "sum" differ in nothing that opcheck sees.
            options = tuple(a for a in args if isinstance(a, (str, bool)))
            kind = tuple(a for a in options if a not in ("mean", "sum"))
            found[name, absent, kind] = pytest.param(name, args, id=f"{sample.name}-{name}")
    return list(found.values())


@pytest.mark.parametrize("name,args", calls())
def test_opcheck(name, args):
    plain = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)
    torch.library.opcheck(getattr(torch.ops.fastloss, name).default, plain)


def test_opcheck_covers_every_op():
    assert {param.values[0] for param in calls()} == set(OPS)


@pytest.mark.parametrize("name", OPS)
def test_fake_kernel_on_strided_inputs(name):
    """Shapes and strides of the fake result equal those of the real one, transposed inputs too."""
    name_, args = next(p.values for p in calls() if p.values[0] == name)

    def transposed(a):
        if isinstance(a, torch.Tensor) and a.dim() > 1:
            return a.detach().mT.contiguous().mT
        return a.detach() if isinstance(a, torch.Tensor) else a

    torch.library.opcheck(
        getattr(torch.ops.fastloss, name_).default,
        tuple(map(transposed, args)),
        test_utils=("test_schema", "test_faketensor"),
    )


def _compare_compiled(sample: Sample, backend: str, dynamic: bool) -> None:
    expected, expected_gradients = sample.run()
    torch._dynamo.reset()
    compiled = torch.compile(sample.__call__, fullgraph=True, backend=backend, dynamic=dynamic)
    leaves = {name: x.detach().requires_grad_() for name, x in sample.leaves().items()}
    value = compiled(sample.bind(leaves))
    assert_matches(value, expected)
    if not leaves:
        return
    gradients = torch.autograd.grad(value, list(leaves.values()), incoming(value))
    for gradient, (name, e) in zip(gradients, expected_gradients.items()):
        assert_matches(gradient, e, what=name)


@pytest.mark.parametrize("dynamic", (False, True), ids=("static", "dynamic"))
@pytest.mark.parametrize("sample", ONE_PER_OP, ids=lambda s: s.name)
def test_compile_without_graph_break(sample, dynamic):
    _compare_compiled(sample, "aot_eager", dynamic)


@pytest.mark.parametrize("sample", ONE_PER_OP[:1], ids=lambda s: s.name)
def test_compile_with_inductor(sample):
    _compare_compiled(sample, "inductor", False)


def _first_leaf(sample: Sample):
    name, leaf = next(iter(sample.leaves().items()))
    return leaf, lambda x: sample(sample.bind({name: x})).sum()


@pytest.mark.parametrize("sample", differentiable(ONE_PER_FUNCTION), ids=lambda s: s.name)
def test_functorch(sample):
    leaf, function = _first_leaf(sample)
    x = leaf.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(x), x)
    assert_matches(torch.func.grad(function)(leaf), expected)
    assert_matches(torch.func.jacrev(function)(leaf), expected)
    batch = torch.stack((leaf, leaf * 0.5))
    values = torch.func.vmap(function)(batch)
    assert_matches(values, torch.stack((function(leaf), function(leaf * 0.5))))
    per_sample = torch.func.vmap(torch.func.grad(function))(batch)
    assert_matches(per_sample[0], expected)


@pytest.mark.parametrize("sample", losses(ONE_PER_OP), ids=lambda s: s.name)
def test_forward_mode_is_refused(sample):
    leaf, function = _first_leaf(sample)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.func.jvp(function, (leaf,), (torch.ones_like(leaf),))


# A maximum is one of its inputs and stays in their dtype.
SUMS = [s for s in ONE_PER_FUNCTION if s.function.__name__ != "boundary_pool"]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("sample", losses(SUMS), ids=lambda s: s.name)
def test_autocast_gives_float32_results_and_keeps_half_gradients(sample, dtype):
    half = sample.cast(dtype)
    expected, _ = half.expected()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradients = half.run()
    assert value.dtype == torch.float32
    assert_matches(value, expected, scale=1e-6)
    assert all(g.dtype == half.leaves()[name].dtype for name, g in gradients.items())


DENSE = [s for s in ONE_PER_FUNCTION if "target" in s.leaves()]


@pytest.mark.parametrize("sample", DENSE, ids=lambda s: s.name)
def test_mixed_dtypes_are_promoted(sample):
    """A half prediction with a float32 target, as under mixed precision."""
    name = next(iter(sample.leaves()))
    rounded = sample.cast(torch.float32)
    mixed = rounded.bind({name: rounded.leaves()[name].bfloat16()})
    promoted = rounded.bind({name: rounded.leaves()[name].bfloat16().float()})
    expected = sample(promoted)
    if "terms" in sample.options:  # reads the logits as they are: its result has their dtype
        expected = expected.bfloat16()
    assert torch.equal(sample(mixed), expected)


@pytest.mark.parametrize("sample", differentiable(ONE_PER_OP), ids=lambda s: s.name)
def test_checkpoint(sample):
    leaf, function = _first_leaf(sample)
    x = leaf.clone().requires_grad_()
    value = torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)
    (gradient,) = torch.autograd.grad(value, x)
    y = leaf.clone().requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad(function(y), y)[0])
