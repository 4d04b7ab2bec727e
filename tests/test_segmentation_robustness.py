"""Segmentation losses: dtypes, strides, many classes, poisoned values, threads, processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import fastloss.functional as F
from fastloss.testing import assert_matches, implementation

TERMS = {
    "cross_entropy": {"label_smoothing": 0.1},
    "dice": {"log": True},
    "sigmoid_focal": {"normalized": True, "class_weight": [1.0, 0.5, 2.0]},
    "softmax_focal": 0.3,
    "mcc": {"eps": 0.1},
}
ANY = {name: TERMS[name] for name in ("dice", "sigmoid_focal", "mcc")}
REGIONS = ("dice", "jaccard", "tversky")


def inputs(*shape, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) * 2
    return x, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g)


def run(x, target, terms=TERMS, **options):
    """Sum, values and gradient."""
    leaf = x.detach().requires_grad_()
    total, values = F.segmentation_loss(leaf, target, terms=terms, **options)
    return [total.detach(), *values.values(), torch.autograd.grad(total, leaf)[0]]


def same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def fresh(target):
    """The target that the options below see as 255."""
    target = target.clone()
    target[0, :2] = 255
    return target


@pytest.mark.parametrize(
    "dtype", (torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32), ids=str
)
def test_labels_of_any_integer_dtype(dtype):
    x, target = inputs(2, 3, 50)
    target = fresh(target)
    same(run(x, target.to(dtype), ignore_index=255), run(x, target, ignore_index=255))
    same([F.cross_entropy(x, target.to(dtype), ignore_index=255)],
         [F.cross_entropy(x, target, ignore_index=255)])  # fmt: skip


def test_int8_labels_and_an_ignored_one_that_does_not_fit():
    x, target = inputs(2, 3, 50)
    same(run(x, target.to(torch.int8), ignore_index=255), run(x, target))
    ignored = torch.where(target == 1, -1, target)
    same(run(x, ignored.to(torch.int8), ignore_index=-1), run(x, ignored, ignore_index=-1))
    # -1 is 255 in a byte, and is not what is ignored.
    with pytest.raises(IndexError, match="got -1 at index"):
        run(x, ignored.to(torch.int8), ignore_index=255)


@pytest.mark.parametrize("dtype", (torch.bool, torch.uint8, torch.int64, torch.float16), ids=str)
def test_dense_targets_of_any_dtype(dtype):
    x, target = inputs(2, 3, 50)
    hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    options = {"mode": "multilabel", "terms": ANY}
    same(run(x, hot.to(dtype), **options), run(x, hot.float(), **options))


@pytest.mark.parametrize("layout", ("padded", "expanded", "double", "half"))
def test_class_weights_of_any_layout(layout):
    x, target = inputs(2, 3, 50, dtype=torch.float64)
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    given = {
        "padded": torch.stack((weight, weight * torch.nan), 1)[:, 0],
        "expanded": torch.ones(1, dtype=torch.float64).expand(3),
        "double": weight.clone(),
        "half": weight.half(),
    }[layout]
    exact = given.tolist()
    terms = {name: 1.0 for name in TERMS}
    same(run(x, target, terms, class_weight=given), run(x, target, terms, class_weight=exact))
    for reduction in ("none", "mean"):
        options = {"reduction": reduction, "label_smoothing": 0.1}
        a, b = (F.cross_entropy(x, target, class_weight=w, **options) for w in (given, exact))
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", ("expanded", "padded", "scalar"))
def test_gradients_of_any_layout_come_in(layout):
    x, target = inputs(2, 3, 50, dtype=torch.float64)
    leaf = x.requires_grad_()
    total, values = F.segmentation_loss(leaf, target, terms=TERMS)
    stacked = torch.stack((total, *values.values()))
    plain = torch.full(stacked.shape, 2.0, dtype=torch.float64)
    incoming = {
        "expanded": torch.tensor(2.0, dtype=torch.float64).expand(stacked.shape),
        "padded": torch.stack((plain, plain * torch.nan), 1)[:, 0],
        "scalar": plain,
    }[layout]
    (expected,) = torch.autograd.grad(stacked, leaf, plain, retain_graph=True)
    assert torch.equal(torch.autograd.grad(stacked, leaf, incoming)[0], expected)
    loss = F.cross_entropy(leaf, target, reduction="none")
    grid = plain[:1, None].expand(2, 50)
    a = torch.autograd.grad(loss, leaf, grid, retain_graph=True)[0]
    assert torch.equal(a, torch.autograd.grad(loss, leaf, grid.clone())[0])


@pytest.mark.parametrize("classes", (511, 512, 513, 1000, 5000))
def test_many_classes(classes):
    x, target = inputs(1, classes, 70, dtype=torch.float64)
    terms = {"cross_entropy": TERMS["cross_entropy"], "softmax_focal": 1.0, "dice": 1.0}
    with implementation("reference"):
        expected = run(x, target, terms)
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    for given in (x, last):
        for actual, e in zip(run(given, target, terms), expected):
            assert_matches(actual, e, scale=1e-2)
    assert_matches(F.cross_entropy(x, target), torch.nn.functional.cross_entropy(x, target))


@pytest.mark.parametrize("value", (-torch.inf, 1e30))
def test_predictions_at_unusual_logits(value):
    """A class that is masked out is never predicted; the others are."""
    x, target = inputs(1, 3, 300)
    for c in range(3):
        masked = x.clone()
        masked[:, c] = value
        *_, metrics = F.segmentation_loss(masked, target, terms={"mcc": 1.0}, metrics=True)
        best = masked.argmax(1)
        for k in range(3):
            hits = (best == k) & (target == k)
            assert metrics["true_positive"][k] == hits.sum()
            assert metrics["false_positive"][k] == ((best == k) & (target != k)).sum()
    x[0, :, 7] = torch.nan
    *_, metrics = F.segmentation_loss(x, target, terms={"mcc": 1.0}, metrics=True)
    assert metrics["true_positive"].sum() + metrics["false_positive"].sum() == 299


def test_one_poisoned_pixel_poisons_itself_and_the_loss():
    x, target = inputs(2, 3, 40)
    x[1, 1, 5] = torch.nan
    *_, gradient = run(x, target, {"cross_entropy": 1.0})
    assert gradient[1, :, 5].isnan().all() and gradient.isnan().sum() == 3
    loss = F.cross_entropy(x, target, reduction="none")
    assert loss.isnan().sum() == 1 and loss[1, 5].isnan()
    target[1, 5] = 255
    assert all(r.isfinite().all() for r in run(x, target, ignore_index=255))


@pytest.mark.parametrize("shape", ((0, 3, 4), (2, 3, 0), (0, 3)), ids=str)
def test_empty_batches_are_zero(shape):
    x, target = inputs(*shape)
    regions = {name: {"per_image": True} for name in REGIONS}
    for terms in ({k: v for k, v in TERMS.items() if k != "mcc"}, regions):
        total, *_, gradient = run(x, target, terms)
        assert total == 0 and gradient.shape == x.shape
    *_, metrics = F.segmentation_loss(x, target, terms={"dice": 1.0}, metrics=True)
    assert not metrics["true_positive"].any() and metrics["iou"].isnan().all()
    assert F.cross_entropy(x, target) == 0
    assert F.cross_entropy(x, target, reduction="none").shape == target.shape


def test_everything_ignored_is_zero():
    x, target = inputs(2, 3, 40)
    x[0, 0, 0] = torch.nan
    terms = {name: options for name, options in TERMS.items() if name != "mcc"}
    terms |= {name: {"per_image": True} for name in REGIONS}
    total, *values, gradient = run(x, torch.full_like(target, 255), terms, ignore_index=255)
    assert total == 0 and not any(values[:-1]) and not gradient.any()
    nothing = {"sigmoid_focal": {"empty": float("nan")}}
    assert run(x, torch.full_like(target, 255), nothing, ignore_index=255)[0].isnan()


def test_no_foreground_gives_a_finite_gradient():
    """Also with an exponent below 1, whose slope at 0 is infinite."""
    x, _ = inputs(2, 3, 40)
    for gamma in (1.0, 0.75):
        terms = {"tversky": {"gamma": gamma}}
        total, _, gradient = run(x, torch.zeros_like(x), terms, mode="multilabel")
        assert total == 0 and not gradient.any(), gamma


@pytest.mark.parametrize("per_image", (False, True))
def test_same_bits_for_any_number_of_threads(per_image):
    x, target = inputs(3, 5, 20_011)
    terms = {"cross_entropy": 1.0, "dice": {"per_image": per_image}, "sigmoid_focal": 1.0}
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append([*run(x, target, terms), F.cross_entropy(x, target)])
    finally:
        torch.set_num_threads(threads)
    from fastloss import backends

    if backends()["segmentation_table"]["cpu"] == "C++":
        same(results[0], results[1])
        same(results[0], results[2])


def _process(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    x, target = inputs(3, 3, 40, dtype=torch.float64)
    part = slice(0, 2) if rank == 0 else slice(2, 3)
    for name, terms in distributed_terms().items():
        total, *values, gradient = run(
            x[part], fresh(target)[part], terms, ignore_index=255, group=dist.group.WORLD
        )
        torch.save([total, *values, gradient], f"{results}/{name}-{rank}.pt")
    *_, metrics = F.segmentation_loss(
        x[part], fresh(target)[part], terms={"dice": 1.0}, ignore_index=255, metrics=True,
        group=dist.group.WORLD,
    )  # fmt: skip
    torch.save(metrics, f"{results}/metrics-{rank}.pt")
    dist.destroy_process_group()


def distributed_terms():
    return {"all": TERMS, **{name: {name: TERMS[name]} for name in TERMS}}


def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path):
    """The batch of three images is divided unevenly; each gradient is twice what the process adds
    to that of the whole batch, because DistributedDataParallel will halve the sum."""
    mp.spawn(_process, (tmp_path / "rendezvous", tmp_path), nprocs=2)
    x, target = inputs(3, 3, 40, dtype=torch.float64)
    for name, terms in distributed_terms().items():
        *values, gradient = run(x, fresh(target), terms, ignore_index=255)
        parts = [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1)]
        for *actual, _ in parts:
            torch.testing.assert_close(actual, values, rtol=1e-12, atol=1e-14)
        halves = torch.cat([part[-1] for part in parts]) / 2
        torch.testing.assert_close(halves, gradient, rtol=1e-10, atol=1e-15)
    options = {"terms": {"dice": 1.0}, "ignore_index": 255, "metrics": True}
    *_, expected = F.segmentation_loss(x, fresh(target), **options)
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"metrics-{rank}.pt"), expected)


def test_numbers_become_a_tensor_once():
    """Class weights given as numbers are copied to the device at the first call, whatever the mode
    of that call."""
    x, target = torch.randn(2, 3, 4, requires_grad=True), torch.randint(0, 3, (2, 4))
    weight = [0.12345, 2.0, 3.0]
    with torch.inference_mode():
        F.cross_entropy(x, target, class_weight=weight)
    F.cross_entropy(x, target, class_weight=weight).backward()
    with forbid_copies():
        F.cross_entropy(x, target, class_weight=weight)
        with pytest.raises(AssertionError, match="made"):
            F.cross_entropy(x, target, class_weight=[0.5, 2.0, 3.0])


class forbid_copies(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        assert op.name() != "aten::lift_fresh", "a tensor was made of numbers"
        return op(*args, **(kwargs or {}))


@pytest.mark.full
def test_more_than_two_to_the_31_logits():
    """bfloat16: 4.3 GB each for logits and gradient; the last pixels as in a small problem."""
    terms = {"cross_entropy": {"reduction": "sum"}}
    results = []
    for images, pixels in ((2, 2**29 + 40), (1, 4)):
        x = torch.zeros(images, 2, pixels, dtype=torch.bfloat16)
        y = torch.zeros(images, pixels, dtype=torch.uint8)
        x[-1, 1, -1], x[-1, 0, -2], y[-1, -1] = 3, 2, 1
        x.requires_grad_()
        value = F.segmentation_loss(x, y, terms=terms)[0]
        results.append(torch.autograd.grad(value, x)[0][-1, :, -4:].clone())
        assert abs(float(value) / ((images * pixels - 2) * 0.693147 + 0.1755) - 1) < 1e-2
    assert torch.equal(*results)
