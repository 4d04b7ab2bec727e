"""KnowledgeDistillationKLDivLoss and its function against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, C = 23, 7
GENERATOR = torch.Generator().manual_seed(0)
PRED, TEACHER = 3 * torch.randn(2, N, C, generator=GENERATOR, dtype=torch.float64)
ROWS = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = {"none": None, "rows": ROWS, "one": ROWS[:1], "larger": ROWS[:, None]}


def make(**options):
    return tuple(m.KnowledgeDistillationKLDivLoss(**options) for m in (mmdet, upstream))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_class(reduction, weight, dtype):
    losses = make(reduction=reduction, loss_weight=2.5)
    assert_parity(*losses, PRED, TEACHER, WEIGHTS[weight], dtype=dtype, scale=0.1)


@pytest.mark.parametrize("T", [1, 2.5, 20])
def test_temperature(T):
    losses = make(reduction="none", T=T)
    assert_parity(*losses, PRED, TEACHER, dtype=torch.float64, scale=T**2 / C)


@pytest.mark.parametrize("avg_factor", [11, 0.0, torch.tensor(13.0), torch.tensor([13.0])], ids=str)
@pytest.mark.parametrize("override", ["mean", "none"])
def test_avg_factor_and_override(override, avg_factor):
    extra = {"avg_factor": avg_factor, "reduction_override": override}
    assert_parity(*make(reduction="sum", loss_weight=0.25), PRED, TEACHER, ROWS, **extra)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 3, 5)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_any_number_of_dimensions(reduction, shape):
    x, y = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = make(reduction=reduction)
    assert_parity(*losses, x, y, scale=0.1)
    assert_parity(*losses, x, y, x[:, 0].abs(), scale=0.1)
    assert_parity(*losses, x, y, x[:1, 0].abs(), scale=0.1)


@pytest.mark.parametrize("weight", [None, torch.zeros(0)], ids=["none", "rows"])
@pytest.mark.parametrize("avg_factor", [None, 0.0])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_no_rows(reduction, avg_factor, weight):
    assert_parity(*make(reduction=reduction), PRED[:0], TEACHER[:0], weight, avg_factor)


@pytest.mark.parametrize("detach", [True, False])
def test_function_and_gradient_of_the_target(detach):
    names = (mmdet, upstream)
    ours, theirs = (m.knowledge_distillation_kl_div_loss for m in names)
    options = {"T": 4, "detach_target": detach, "reduction": "sum"}
    assert_parity(ours, theirs, PRED, TEACHER, ROWS, dtype=torch.float64, scale=1.0, **options)


def test_classes_that_are_excluded():
    teacher = TEACHER.index_fill(1, torch.tensor([2, 5]), -torch.inf)
    assert_parity(*make(reduction="none"), PRED, teacher, dtype=torch.float64, scale=10.0)
    # mmdet has 0 * inf for what both exclude.
    pred = PRED.index_fill(1, torch.tensor([2, 5]), -torch.inf)
    ours, theirs = make(reduction="none")
    assert theirs(pred, teacher).isnan().all()
    kept = torch.tensor([0, 1, 3, 4, 6])
    torch.testing.assert_close(ours(pred, teacher), ours(pred[:, kept], teacher[:, kept]) * 5 / C)


ERRORS = {
    "T": (lambda m: m.KnowledgeDistillationKLDivLoss(T=0.5), "T must be >= 1, got 0.5"),
    "override": (
        lambda m: m.KnowledgeDistillationKLDivLoss()(PRED, TEACHER, reduction_override="max"),
        "reduction_override must be .*max",
    ),
    "sum with avg_factor": (
        lambda m: m.KnowledgeDistillationKLDivLoss(reduction="sum")(PRED, TEACHER, avg_factor=2),
        "avg_factor",
    ),
    "shape": (
        lambda m: m.KnowledgeDistillationKLDivLoss()(PRED, TEACHER[:1]),
        r"got \(23, 7\) and \(1, 7\)",
    ),
}


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type
