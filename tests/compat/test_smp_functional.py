"""The functions of fastloss.compat.smp._functional against smp's."""

import numpy as np
import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat.smp import _functional

upstream = references.or_skip(references.smp)._functional

N, C = 2, 3
G = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(N, C, 5, 4, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, C, (N, 5, 4), generator=G)
SOFT = torch.rand(N, C, 5, 4, generator=G, dtype=torch.float64)
HARD = (SOFT < 0.4).long()
VOID = torch.where(SOFT[:, 0] < 0.3, -100, LABELS)
REDUCTIONS = ["mean", "sum", "none", "batchwise_mean", "other"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
FOCAL = [
    {},
    {"gamma": 0.0},
    {"gamma": 1.5, "normalized": True},
    {"normalized": True, "eps": 1e3},
    {"reduced_threshold": 0.5},
    {"reduced_threshold": 0.5, "normalized": True},
]


def pair(name):
    return getattr(_functional, name), getattr(upstream, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", FOCAL, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["focal_loss_with_logits", "softmax_focal_loss_with_logits"])
def test_focal(name, reduction, options, dtype):
    options = {"reduction": reduction, **options}
    targets = (LABELS,) if "softmax" in name else (HARD, SOFT)
    for target in targets:
        assert_parity(*pair(name), LOGITS, target, dtype=dtype, **options)
        if "softmax" not in name:
            assert_parity(*pair(name), LOGITS, target, dtype=dtype, alpha=None, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_focal_of_label_minus_100(reduction):
    """nll_loss ignores it: it counts in the mean alone."""
    for options in FOCAL[2:]:
        assert_parity(
            *pair("softmax_focal_loss_with_logits"), LOGITS, VOID, dtype=torch.float64,
            reduction=reduction, **options,
        )  # fmt: skip


@pytest.mark.parametrize("shape", [(), (6,), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_focal_of_any_shape(reduction, shape):
    logits = torch.randn(shape, generator=G, dtype=torch.float64)
    target = torch.rand(shape, generator=G, dtype=torch.float64)
    losses = pair("focal_loss_with_logits")
    assert_parity(*losses, logits, target, dtype=torch.float64, reduction=reduction)
    if shape == (2, 0):  # rows of no pixels
        logits = torch.randn(2, C, 0, dtype=torch.float64)
        losses = pair("softmax_focal_loss_with_logits")
        assert_parity(*losses, logits, target.long(), dtype=torch.float64, reduction=reduction)


@pytest.mark.parametrize("dims", [None, (0, 2), 1, (0, 1, 2, 3), -1], ids=str)
@pytest.mark.parametrize("options", [{}, {"smooth": 1.0}, {"eps": 20.0}], ids=str)
@pytest.mark.parametrize("target", [HARD, HARD.double(), SOFT], ids=["integer", "hard", "soft"])
@pytest.mark.parametrize("name", ["soft_jaccard_score", "soft_dice_score", "soft_tversky_score"])
def test_scores(name, target, options, dims):
    weights = (0.3, 0.8) if "tversky" in name else ()
    for p in (LOGITS.sigmoid(), HARD.double()):
        for dtype in DTYPES:
            given = dict(dims=dims, dtype=dtype, scale=1.0, **options)
            assert_parity(*pair(name), p, target, *weights, **given)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"width": 2, "curvature": 0.1}], ids=str)
def test_wing_loss(options, reduction):
    for dtype in DTYPES:
        assert_parity(
            *pair("wing_loss"), 4 * LOGITS, SOFT, dtype=dtype, reduction=reduction, **options
        )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("ignore_index", [None, -100])
def test_label_smoothed_nll_loss(ignore_index, epsilon, reduction):
    target = LABELS if ignore_index is None else VOID
    for dim in (1, -1):
        lprobs = LOGITS.log_softmax(1).movedim(1, dim)
        for labels in (target, target.unsqueeze(dim)):
            for dtype in DTYPES:
                assert_parity(
                    *pair("label_smoothed_nll_loss"), lprobs, labels, epsilon, dtype=dtype,
                    ignore_index=ignore_index, reduction=reduction, dim=dim,
                )  # fmt: skip


@pytest.mark.parametrize(
    "value", [[1, 2], (0.1, 3), [], np.arange(3), np.ones(2), torch.ones(2), 3, None], ids=str
)
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.int64], ids=str)
def test_to_tensor(value, dtype):
    ours, theirs = _functional.to_tensor(value, dtype), upstream.to_tensor(value, dtype)
    assert (ours is None) == (theirs is None)
    if theirs is not None:
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


ERRORS = {
    "focal shape": lambda m: m.focal_loss_with_logits(LOGITS, HARD[:1]),
    "focal map shape": lambda m: m.focal_loss_with_logits(LOGITS, HARD[:1], reduction="none"),
    "softmax label": lambda m: m.softmax_focal_loss_with_logits(LOGITS, LABELS + 1),
    "softmax label in a map": lambda m: m.softmax_focal_loss_with_logits(
        LOGITS, LABELS - 1, reduction="none"
    ),
    "score shape": lambda m: m.soft_dice_score(SOFT, HARD[:1]),
    "nll label": lambda m: m.label_smoothed_nll_loss(LOGITS, LABELS + 1, 0.1, dim=1),
}


@pytest.mark.parametrize("call", ERRORS.values(), ids=ERRORS)
def test_errors(call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(theirs.type) as ours:
        call(_functional)
    assert ours.type is theirs.type
