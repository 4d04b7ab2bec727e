"""A call reads the logits once forward and once backward, and writes their gradient once; a reduced
cross entropy of float32 once for both."""

import pytest
import torch

import fastloss
import fastloss.functional as F

ONE = {"dice": 1.0}
FOUR = {"cross_entropy": 0.5, "dice": {"weight": 0.7, "log": True}, "sigmoid_focal": 2.0}
FOUR["softmax_focal"] = 0.3
CLASSES = 5

kernels = pytest.mark.skipif(
    fastloss.backends()["segmentation_table"]["cpu"] != "C++", reason="counts what C++ reads"
)


def cross_entropy(x, target, terms):
    return F.cross_entropy(x, target, reduction=terms)


def whole(x, target, terms):
    return F.segmentation_loss(x, target, terms=terms)[0]


def with_metrics(x, target, terms):
    return F.segmentation_loss(x, target, terms=terms, metrics=True, ignore_index=1)[0]


def dense(x, target, terms):
    hot = torch.nn.functional.one_hot(target, CLASSES).movedim(-1, 1).to(torch.uint8)
    terms = {name: terms[name] for name in terms if name in ("dice", "sigmoid_focal")}
    return F.segmentation_loss(x, hot, terms=terms, mode="multilabel")[0]


CALLS = [(whole, ONE), (whole, FOUR), (with_metrics, FOUR), (dense, ONE), (dense, FOUR)]
CALLS += [(cross_entropy, reduction) for reduction in ("none", "mean")]


def is_one_pass(function, terms, dtype=torch.float32):
    return function is cross_entropy and terms == "mean" and dtype == torch.float32


@kernels
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("function,terms", CALLS, ids=[f"{f.__name__}-{len(t)}" for f, t in CALLS])
def test_one_read_forward_and_one_read_and_write_backward(function, terms, dtype, layout):
    # More than one chunk, and a last tile that is not full.
    x = torch.randn(2, CLASSES, 97, 101).to(dtype, memory_format=layout).requires_grad_()
    target = torch.randint(0, CLASSES, (2, 97, 101))
    size = x.numel() * x.element_size()
    traffic = torch.ops.fastloss._traffic
    traffic()
    loss = function(x, target, terms)
    one_pass = is_one_pass(function, terms, dtype)
    assert traffic() == [size, size * one_pass]
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert traffic() == ([0, 0] if one_pass else [size, size])
    assert gradient.stride() == x.stride()


@kernels
def test_counts_can_tell():
    """Two calls read twice."""
    x, target = torch.randn(2, CLASSES, 40), torch.randint(0, CLASSES, (2, 40))
    torch.ops.fastloss._traffic()
    for _ in range(2):
        whole(x, target, ONE)
    assert torch.ops.fastloss._traffic() == [2 * x.numel() * 4, 0]


@pytest.mark.parametrize("function,terms", CALLS, ids=[f"{f.__name__}-{len(t)}" for f, t in CALLS])
def test_one_op_reads_the_logits_and_the_only_large_result_is_the_gradient(function, terms):
    """No tensor of the size of the logits is made on the way, by fastloss or by torch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Large(TorchDispatchMode):
        """The ops that read the logits or make tensors of their size."""

        def __init__(self):
            super().__init__()
            self.read, self.made = [], []

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            result = op(*args, **(kwargs or {}))
            inputs = [a for a in args if isinstance(a, torch.Tensor)]
            start = x.untyped_storage().data_ptr()
            if op.namespace == "fastloss" and any(
                a.untyped_storage().data_ptr() == start for a in inputs
            ):
                self.read.append(op.name())
            known = {a.untyped_storage().data_ptr() for a in inputs}
            for r in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(r, torch.Tensor) and r.is_floating_point():
                    if r.numel() >= x.numel() and r.untyped_storage().data_ptr() not in known:
                        self.made.append(op.name())
            return result

    x = torch.randn(2, CLASSES, 9, 11, requires_grad=True)
    target = torch.randint(0, CLASSES, (2, 9, 11))
    with Large() as seen:
        loss = function(x, target, terms).sum()
        one_pass = is_one_pass(function, terms)
        assert len(seen.read) == 1 and seen.made == seen.read * one_pass
        torch.autograd.grad(loss, x)
    assert len(seen.read) == 2 - one_pass and seen.made == seen.read[-1:]


class Counter:
    """Elements of a tensor that Triton's interpreter loaded."""

    def __init__(self, monkeypatch, x):
        from triton.runtime.interpreter import InterpreterBuilder

        self.start, self.end = x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()
        self.loaded = 0
        load = InterpreterBuilder.create_masked_load

        def counting(builder, ptrs, mask, *args):
            inside = (ptrs.data >= self.start) & (ptrs.data < self.end) & mask.data
            self.loaded += int(inside.sum())
            return load(builder, ptrs, mask, *args)

        monkeypatch.setattr(InterpreterBuilder, "create_masked_load", counting)

    def take(self):
        count, self.loaded = self.loaded, 0
        return count


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles for the GPU here")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("function,terms", CALLS, ids=[f"{f.__name__}-{len(t)}" for f, t in CALLS])
def test_triton_loads_every_logit_once(function, terms, layout, triton_kernels, monkeypatch):
    from fastloss.testing import implementation

    x = torch.randn(2, CLASSES, 7, 11).to(memory_format=layout).requires_grad_()
    target = torch.randint(0, CLASSES, (2, 7, 11))
    counter = Counter(monkeypatch, x)
    with implementation("triton"):
        loss = function(x, target, terms).sum()
        assert counter.take() == x.numel()
        torch.autograd.grad(loss, x)
        assert counter.take() == x.numel() * (not is_one_pass(function, terms))
