"""OHEM cross entropy and hard negatives: bad input, dtypes, NaN, reads, threads, large counts."""

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss.testing import assert_matches, implementation

X = torch.zeros(2, 3, 4)
LABELS = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
GOOD = {"logits": X, "target": LABELS}
ROWS = {
    "loss": torch.rand(2, 3),
    "negative": torch.ones(2, 3, dtype=torch.bool),
    "count": torch.tensor([1, 2]),
}
NAN, INF = float("nan"), float("inf")

ERRORS = [
    ({"logits": None}, TypeError, "logits must be a tensor, got NoneType"),
    ({"logits": X.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"logits": X[0, 0]}, ValueError, r"logits .* \(N, C, \*\) with at least one class, .*\(4,\)"),
    ({"target": LABELS.float()}, TypeError, "target .* integer dtype, got torch.float32"),
    ({"target": LABELS[:1]}, ValueError, r"without their classes, \(2, 4\), got \(1, 4\)"),
    ({"target": LABELS.to("meta")}, ValueError, "target must be on the device of logits, cpu, got"),
    ({"target": LABELS + 1}, IndexError, r"indices in \[0, 2\]; got 3 at index 2"),
    ({"target": LABELS - 2**40}, IndexError, rf"\[0, 2\]; got {-(2**40)} at index 0"),
    ({"thresh": -0.1}, ValueError, "thresh must be >= 0, got -0.1"),
    ({"thresh": 1.1}, ValueError, "thresh must be <= 1, got 1.1"),
    ({"thresh": NAN}, ValueError, "thresh must be finite, got nan"),
    ({"thresh": torch.ones(())}, TypeError, "thresh must be a number, got Tensor"),
    ({"min_kept": -1}, ValueError, "min_kept must be >= 0, got -1"),
    ({"min_kept": 2.0}, TypeError, "min_kept must be an integer, got float"),
    ({"min_kept": True}, TypeError, "min_kept must be an integer, got bool"),
    ({"rule": "ocnet"}, ValueError, "rule must be one of 'gdl', 'mmseg', got 'ocnet'"),
    ({"rule": None}, ValueError, "rule must be one of .*, got None"),
    ({"ignore_index": 255.0}, TypeError, "ignore_index must be an integer or None, got float"),
    ({"class_weight": [1.0, 2.0]}, ValueError, r"class_weight .* shape \(3,\), got \(2,\)"),
    ({"class_weight": 2.0}, TypeError, "class_weight must be a tensor or numbers, got float"),
    ({"class_weight": torch.ones(3).requires_grad_()}, ValueError, "class_weight has no gradient"),
]  # fmt: skip
ROW_ERRORS = [
    ({"loss": [1.0]}, TypeError, "loss must be a tensor, got list"),
    ({"loss": torch.ones(2, 3).long()}, TypeError, "loss must be float16.* got torch.int64"),
    ({"loss": torch.rand(3)}, ValueError, r"loss must have shape \(B, N\), got \(3,\)"),
    ({"negative": torch.ones(2, 3).int()}, TypeError, "negative must be of dtype .*bool.*int32"),
    ({"negative": torch.ones(2, 1)}, ValueError, "negative must have the shape of loss"),
    ({"negative": ROWS["negative"][:1]}, ValueError, r"negative .*\(2, 3\), got \(1, 3\)"),
    ({"negative": None}, TypeError, "negative must be a tensor, got NoneType"),
    ({"count": 3}, TypeError, "count must be a tensor, got int"),
    ({"count": torch.tensor(3)}, ValueError, r"count must have shape \(2,\), got \(\)"),
    ({"count": torch.ones(2, 1).long()}, ValueError, r"count must have shape \(2,\), got \(2, 1\)"),
    ({"count": torch.ones(2)}, TypeError, "count must be of an integer dtype, got torch.float32"),
    ({"count": torch.ones(2) > 0}, TypeError, "count must be of an integer dtype, got torch.bool"),
    ({"count": ROWS["count"].to("meta")}, ValueError, "count must be on the device of loss, cpu"),
]  # fmt: skip

languages = pytest.mark.parametrize("language", ("C++", "reference", "triton"))


def using(language):
    """The context in which the ops run with that implementation."""
    if language == "C++":
        return fastloss.backend("auto")
    if language == "triton" and torch.cuda.is_available():
        pytest.skip("kernels would be launched on CPU tensors")
    return implementation(language)


def inputs(*shape, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) * 2
    return x, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g)


def run(x, target, **options):
    x = x.detach().requires_grad_()
    loss = F.ohem_cross_entropy(x, target, **options)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def names(table):
    return [f"{i}-{'-'.join(map(str, changes))}" for i, (changes, *_) in enumerate(table)]


@pytest.mark.parametrize("changes,error,message", ERRORS, ids=names(ERRORS))
def test_errors(changes, error, message):
    assert F.ohem_cross_entropy(**GOOD).isfinite()
    with pytest.raises(error, match=message):
        F.ohem_cross_entropy(**{**GOOD, **changes})


@pytest.mark.parametrize("changes,error,message", ROW_ERRORS, ids=names(ROW_ERRORS))
def test_errors_of_rows(changes, error, message):
    assert F.hard_negative_mask(**ROWS).sum() == 3
    with pytest.raises(error, match=message):
        F.hard_negative_mask(**{**ROWS, **changes})


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int8, torch.int16, torch.uint16), ids=str)
def test_labels_and_counts_of_any_integer_dtype(dtype):
    x, target = inputs(2, 3, 50)
    target[0, :9] = 1
    same(
        run(x, target.to(dtype), ignore_index=1, min_kept=7),
        run(x, target, ignore_index=1, min_kept=7),
    )
    rows = {**ROWS, "count": ROWS["count"].to(dtype)}
    assert torch.equal(F.hard_negative_mask(**rows), F.hard_negative_mask(**ROWS))


@languages
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("rule", ("gdl", "mmseg"))
@pytest.mark.parametrize("thresh", (0.0, 1.0))
def test_a_nan_pixel_is_kept(rule, thresh, language, triton_kernels):
    """However few are; the gradients of the others stay finite."""
    x, target = inputs(1, 3, 6)
    x[0, 1, 2] = NAN
    with using(language):
        loss, gradient = run(x, target, rule=rule, thresh=thresh, min_kept=0)
        assert loss.isnan() and gradient[..., 2].isnan().all()
        assert gradient[..., [0, 1, 3, 4, 5]].isfinite().all()
        target[0, 2] = 255
        loss, gradient = run(x, target, rule=rule, thresh=thresh, min_kept=0)
        assert loss.isfinite() and gradient.isfinite().all() and not gradient[..., 2].any()


@languages
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_label_out_of_range_poisons_the_loss(language, triton_kernels):
    x, target = inputs(1, 3, 6)
    target[0, 4] = -7
    if language == "C++":
        with pytest.raises(IndexError, match="got -7 at index 4"):
            run(x, target)
        return
    for weight in (None, [1.0, 2.0, 3.0]):
        with using(language):
            loss, gradient = run(x, target, class_weight=weight)
        assert loss.isnan() and gradient[..., 4].isnan().all()
        assert gradient[..., :4].isfinite().all()


@languages
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_nothing_is_kept_the_loss_is_zero(language, triton_kernels):
    x, target = inputs(2, 3, 6)
    ignored = torch.full_like(target, 255)
    with using(language):
        for rule in ("gdl", "mmseg"):
            for case in (
                run(x, ignored, rule=rule),
                run(x, target, rule=rule, thresh=0.0, min_kept=0),
                run(x[..., :0], target[:, :0], rule=rule),
                run(x, target, rule=rule, class_weight=[0.0, 0.0, 0.0]),
            ):
                assert case[0] == 0 and not case[1].any()


@pytest.mark.parametrize("scale", (1.0, 0.5))
@pytest.mark.parametrize("rule", ("gdl", "mmseg"))
def test_the_search_finds_every_rank(rule, scale):
    """On probabilities that differ in a few bits alone, and more of them than a chunk has."""
    count = 70_001
    p = (1 - torch.arange(count) % 5000 * 2.0**-24)[torch.randperm(count)] * scale
    p[::7] = 2.0  # ignored
    ordered = p[p <= 1].sort().values
    for dtype in (torch.float32, torch.float64):
        pixels = torch.stack((p, p)).view(2, 1, count).to(dtype)
        for rank in (1, 2, 100, 30_000, len(ordered) - 2, len(ordered) - 1):
            found = torch.ops.fastloss.ohem_threshold(pixels, rank, 0.25, rule)
            assert found == ordered[rank if rule == "mmseg" else rank - 1], rank


@pytest.mark.skipif(
    fastloss.backends()["ohem_pixels"]["cpu"] != "C++", reason="counts what C++ reads"
)
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_tiles_without_a_hard_pixel_are_not_read_again(dtype, layout):
    x, target = inputs(2, 5, 96, 128, dtype=dtype)
    x[0] = 0
    x[0, 3] = 30  # The first image is certain, and right.
    target[0] = 3
    x = x.to(memory_format=layout).requires_grad_()
    size = x.numel() * x.element_size()
    traffic = torch.ops.fastloss._traffic
    traffic()
    loss = F.ohem_cross_entropy(x, target, min_kept=0)
    assert traffic() == [size, 0]
    (gradient,) = torch.autograd.grad(loss, x)
    assert traffic() == [size // 2, size]
    assert not gradient[0].any() and gradient.stride() == x.stride()
    alone = run(x[1:], target[1:], min_kept=0)
    assert torch.equal(gradient[1:], alone[1])


def test_same_bits_for_any_number_of_threads():
    x, target = inputs(3, 5, 50_021)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4, 1):
            torch.set_num_threads(count)
            options = {"thresh": 0.2, "min_kept": 90_000, "class_weight": [1.0, 0.3, 2.0, 0.1, 0.7]}
            results.append([*run(x, target, **options), *run(x, target, rule="mmseg")])
    finally:
        torch.set_num_threads(threads)
    if fastloss.backends()["ohem_loss"]["cpu"] == "C++":
        for result in results[1:]:
            same(results[0], result)
    with implementation("reference"):  # with other labels in each chunk of an image
        expected = run(x.double(), target, **options)
    for actual, exact in zip(results[0], expected):
        assert_matches(actual, exact)


@pytest.mark.parametrize("classes", (511, 513))
def test_many_classes(classes):
    """On either side of where tiles become narrow; channels last is read in place."""
    x, target = inputs(2, classes, 35, dtype=torch.float64)
    options = {"thresh": 1e-4, "min_kept": 30}
    with implementation("reference"):
        expected = run(x, target, **options)
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    for given in (x, last):
        for actual, e in zip(run(given, target, **options), expected):
            assert_matches(actual, e)


def test_class_weights_of_any_layout():
    x, target = inputs(2, 3, 50, dtype=torch.float64)
    weight = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    padded = torch.stack((weight, weight * NAN), 1)[:, 0]
    expected = run(x, target, class_weight=weight.tolist(), min_kept=20)
    for given in (weight, padded, weight.half()):
        same(run(x, target, class_weight=given, min_kept=20), expected)


def test_all_pixels_kept_are_cross_entropy():
    """Also for an incoming gradient that is not 1."""
    x, target = inputs(2, 4, 300, dtype=torch.float64)
    x.requires_grad_()
    for options in ({"min_kept": 600}, {"thresh": 1.0, "min_kept": 0}):
        loss = F.ohem_cross_entropy(x, target, **options)
        expected = torch.nn.functional.cross_entropy(x, target)
        assert_matches(loss, expected.detach())
        (gradient,) = torch.autograd.grad(loss * -3, x)
        assert_matches(gradient, torch.autograd.grad(expected * -3, x)[0])
