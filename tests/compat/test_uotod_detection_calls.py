"""How fastloss.compat.uotod.DetectionLoss may be called: compiled, under autocast and torch.func,
copied and moved, with modules and methods of one's own, with odd boxes; the memory of a step."""

import copy
import pickle

import detection_cases as cases
import pytest
import torch
from references import or_skip, uotod
from test_uotod_detection import UOTOD, build, cast, dtypes, evaluate
from torch import nn

import fastloss
from bench import detection
from bench.inputs import Source
from bench.memory import peak_bytes
from fastloss.compat import uotod as ours

or_skip(uotod)
KINDS = pytest.mark.parametrize("classes", ("weighted", "smoothed", "focal"))
PLANS = {"weighted": "fused", "smoothed": "generic", "focal": "fused"}


def made(classes="weighted", matcher="unbalanced", dtype=torch.float32, library=ours, **options):
    position = "none" if classes == "focal" else "first"
    loss = build(library, dtype, matcher, classes, bg_class_position=position, **options)
    return loss, cast(cases.case(20, position=position), dtype)


@KINDS
@pytest.mark.parametrize("matcher", ("hungarian", "unbalanced"))
def test_compiled_without_a_graph_break(matcher, classes):
    mining = {"use_hard_negative_mining": True, "neg_to_pos_ratio": 3.0}
    loss, case = made(classes, matcher, **mining)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(evaluate(compiled, case), evaluate(loss, case))
    assert loss.plan.startswith(PLANS[classes])


@KINDS
def test_torch_func(classes):
    loss, (logits, boxes, target) = made(classes)

    def value(logits, boxes):
        return loss({"pred_logits": logits, "pred_boxes": boxes}, target)

    gradients = torch.func.grad(value, (0, 1))(logits, boxes)
    expected = evaluate(loss, (logits, boxes, target))[1:]  # of 0.7 times the loss
    torch.testing.assert_close([0.7 * x for x in gradients], list(expected))


@KINDS
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_autocast(dtype, classes):
    """Logits of a layer in half precision: a loss in float32, as upstream's."""
    layer = nn.Linear(5, 5)
    values = []
    for library in (ours, UOTOD):
        loss, (logits, boxes, target) = made(classes, "closest", library=library)
        with torch.autocast("cpu", dtype):
            values.append(loss({"pred_logits": layer(logits), "pred_boxes": boxes}, target))
    assert values[0].dtype == torch.float32
    # SigmoidFocalLoss rounds every product to the half dtype upstream.
    torch.testing.assert_close(*values, rtol=1e-2 if classes == "focal" else 1e-5, atol=0)


@KINDS
def test_copies_after_a_call(classes):
    loss, case = made(classes, "hungarian")
    expected = evaluate(loss, case)
    replica = loss._replicate_for_data_parallel()
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), replica):
        torch.testing.assert_close(evaluate(copied, case), expected, rtol=0, atol=0)
    double = cast(case, torch.float64)
    for moved in (loss.double(), loss.to(torch.float64)):
        torch.testing.assert_close(
            evaluate(moved, double), evaluate(made(classes, "hungarian", torch.float64)[0], double)
        )


def test_methods_of_a_subclass_are_called():
    class Twice(ours.DetectionLoss):
        def _compute_loc_losses(self, pred_locs, tgt_locs):
            return 2 * super()._compute_loc_losses(pred_locs, tgt_locs)

    known, case = made(reduction="sum")
    modules = known.loss_cls_module, known.loss_loc_module, known.matching_method
    loss = Twice(*modules, reduction="sum")
    expected = evaluate(known, case)
    found = evaluate(loss, case)
    assert loss.plan == "generic: Twice overrides _compute_loc_losses"
    torch.testing.assert_close(found[2], 2 * expected[2])
    torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("boxes", ("giou", "huber"))  # fused, and with every pair
def test_mass_that_a_matcher_of_ones_own_puts_on_padding_counts_nothing(boxes):
    class Everywhere(ours.match.Hungarian):
        filled = 0.0

        def compute_matching(self, cost_matrix, target_mask):
            found = super().compute_matching(cost_matrix, target_mask)
            found[..., :-1].masked_fill_(~target_mask[:, None], self.filled)
            return found

    loss, case = made(boxes=boxes, dtype=torch.float64)
    loss.matching_method = Everywhere(loc_match_module=nn.L1Loss(reduction="none"))
    expected = evaluate(loss, case)
    loss.matching_method.filled = 0.3
    torch.testing.assert_close(evaluate(loss, case), expected)


def test_alpha_above_1():
    """Which the kernel refuses, but not the class."""

    def value(library, dtype=torch.float64):
        logits, boxes, target = cases.case(21, position="none")
        loss = library.loss.DetectionLoss(
            library.loss.SigmoidFocalLoss("none", 1.5), nn.L1Loss(reduction="none"),
            cases.matcher(library, "closest"), "none",
        )  # fmt: skip
        return evaluate(loss, (logits, boxes, target))

    torch.testing.assert_close(value(ours), value(UOTOD))


NONE = {"reduction": "none"}
NOT_FUSED = {
    "ignored class": lambda x: (nn.CrossEntropyLoss(ignore_index=0, **NONE), x.GIoULoss(**NONE)),
    "no beta": lambda x: (nn.CrossEntropyLoss(**NONE), nn.SmoothL1Loss(beta=0.0, **NONE)),
    "two distances": lambda x: (
        nn.CrossEntropyLoss(**NONE),
        x.MultipleObjectiveLoss([nn.L1Loss(**NONE), nn.MSELoss(**NONE)], [2.0, 3.0]),
    ),
    "two kinds of IoU": lambda x: (
        nn.CrossEntropyLoss(**NONE),
        x.MultipleObjectiveLoss([x.IoULoss(**NONE), x.GIoULoss(**NONE)], [2.0, 3.0]),
    ),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_what_is_not_fused(name):
    case = cases.case(24)
    losses = [
        library.loss.DetectionLoss(
            *NOT_FUSED[name](library.loss), cases.matcher(library, "unbalanced")
        )
        for library in (ours, UOTOD)
    ]
    found, expected = (evaluate(loss, case) for loss in losses)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # plans in float32 upstream
    assert losses[0].plan.startswith("generic")


@pytest.mark.parametrize("boxes", ("giou", "huber"))
def test_a_prediction_without_mass_may_hold_anything(boxes):
    """Fused and with every pair: the box of a prediction that is background."""
    logits, predicted, target = cases.case(25)
    loss = build(ours, torch.float64, boxes=boxes)
    expected = evaluate(loss, (logits, predicted, target))[0]
    free = loss.matching_method._last_match[..., -1] == 1
    predicted[free] = torch.nan
    found = evaluate(loss, (logits, predicted, target))
    assert torch.equal(found[0], expected) and found[1].isfinite().all()


@dtypes
def test_corners_in_any_order(dtype):
    """Inverted boxes on both sides: their areas and hulls are negative, as upstream."""
    logits, _, target = cases.case(22)
    g = torch.Generator().manual_seed(23)
    boxes, corners = (torch.rand(2, n, 4, generator=g, dtype=torch.float64) for n in (40, 6))

    def loss(library):
        giou = library.loss.GIoULoss("none")
        matcher = library.match.SoftMin(loc_match_module=giou, reg=2.0)
        return library.loss.DetectionLoss(nn.CrossEntropyLoss(reduction="none"), giou, matcher)

    case = cast((logits, boxes, {**target, "boxes": corners}), dtype)
    found, expected = loss(ours), loss(UOTOD)
    exact = {torch.float32: 1e-3, torch.float64: 1e-9}[dtype]  # the hull nearly cancels in some
    size = max(float(x.abs().max()) for x in evaluate(expected, case))
    torch.testing.assert_close(
        evaluate(found, case), evaluate(expected, case), rtol=exact, atol=exact * size
    )
    assert found.plan == "fused"


CPP = [fastloss.backends()[name]["cpu"] == "C++" for name in ("matched_detection", "sinkhorn")]


@pytest.mark.skipif(not all(CPP), reason="no C++ kernels")
@pytest.mark.parametrize("shape", ((16, 1000, 40, 5), (16, 1000, 3, 80)), ids=str)
@pytest.mark.parametrize("matcher", ("hungarian", "unbalanced"))
def test_memory_of_a_step(matcher, shape):
    """Three tensors of all pairs at the most, cost, matching and one more, and nothing of the size
    of the logits but their gradient: beside them a few numbers per prediction."""
    inputs = detection.predictions(Source("cpu"), shape).arguments
    leaves = [x.requires_grad_() for x in inputs[:2]]

    def step():
        value = detection.detection_loss(ours, *inputs, matcher=matcher)
        torch.autograd.grad(value, leaves)

    detection._module.cache_clear()
    step()
    detection._module.cache_clear()  # and with it what the matcher keeps of its last call
    images, count, targets, classes = shape
    row = 4 * images * count
    pairs, logits = row * (targets + 1), row * classes
    # At the one peak all pairs, at the other two of them (what the matcher keeps) and gradients.
    few = 20 * row
    assert peak_bytes(step, torch.device("cpu")) < max(3 * pairs, 2 * pairs + logits) + few
