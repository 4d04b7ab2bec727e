"""The native modules are their functions with the options as attributes."""

import copy
import inspect
import io

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss import losses

INDEX = torch.tensor([0, 1, 2, 3, 0])

# module -> function, options, arguments
MODULES = {
    losses.BoxLoss: (F.box_loss, {"kind": "iou", "mode": "log", "eps": 1e-4, "union_eps": 1e-2}),
    losses.RegressionLoss: (F.regression_loss, {"kind": "smooth_l1", "beta": 0.3}),
    losses.SigmoidFocalLoss: (
        F.sigmoid_focal_loss,
        {"alpha": 0.4, "gamma": 1.5, "activated": True},
    ),
    losses.QualityFocalLoss: (F.quality_focal_loss, {"beta": 1.5, "activated": True}),
    losses.VarifocalLoss: (F.varifocal_loss, {"alpha": 0.4, "gamma": 1.5, "iou_weighted": False}),
    losses.GaussianFocalLoss: (
        F.gaussian_focal_loss,
        {"alpha": 1.5, "gamma": 3.0, "pos_weight": 2.0, "neg_weight": 0.5},
    ),
    losses.BinaryCrossEntropyLoss: (
        F.binary_cross_entropy,
        {"class_weight": [1.0, 2.0, 3.0], "ignore_index": 2, "avg_non_ignore": True},
    ),
    losses.DistributionFocalLoss: (F.distribution_focal_loss, {}),
    losses.DistillationLoss: (F.distillation_loss, {"temperature": 3.0}),
    losses.MultiPositiveCrossEntropyLoss: (
        F.multi_positive_cross_entropy,
        {"others_in_both": True},
    ),
    losses.MaskDiceLoss: (F.mask_dice_loss, {"squared": False, "eps": 0.5, "activated": True}),
    losses.EmbeddingDistanceLoss: (
        F.embedding_distance,
        {
            "neg_pos_ub": 0.4,
            "pos_margin": 0.1,
            "neg_margin": 0.2,
            "min_count": 0.0,
            "min_positives": 3.0,
            "count_eps": 0.5,
        },
    ),
}


PIXEL_MODULES = tuple(f"fastloss.losses.{n}" for n in ("boundary", "lovasz", "segmentation"))


def arguments(module: type) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    if module is losses.BoxLoss:
        boxes = torch.rand(2, 5, 4, generator=g) + torch.tensor([0, 0, 1, 1])
        return boxes[0], boxes[1]
    x = torch.rand(5, 3, generator=g)
    if module.__module__ == "fastloss.losses.tracking":
        return x, torch.arange(15).reshape(5, 3) % 4 - 1
    if module is losses.DistributionFocalLoss:
        return x, torch.rand(5, generator=g)
    return x, torch.rand(5, 3, generator=g) if module in DENSE else INDEX


DENSE = (
    losses.RegressionLoss,
    losses.GaussianFocalLoss,
    losses.DistillationLoss,
    losses.MaskDiceLoss,
)
each = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)


def test_every_function_has_its_module():
    # Choices, costs, a similarity and a maximum, not losses; a loss that needs a matching;
    # several losses at once; and a loss with an argument of its own.
    others = {"hard_negative_mask", "iou_match", "linear_assignment", "linear_sum_assignment"}
    others |= {"matching_cost", "pairwise_iou", "boundary_pool", "sinkhorn", "transport_cost"}
    others |= {"matched_detection", "regression_terms", "seesaw_loss"}
    # Parts of losses that keep a state between their calls.
    others |= {"equalization_loss", "ghm_classification_loss", "ghm_regression_loss"}
    losses_of_functional = set(F.__all__) - others
    pixel = {"cross_entropy", "segmentation_loss", "lovasz_softmax", "lovasz_hinge"}
    pixel |= {"boundary_loss", "ohem_cross_entropy"}
    functions = {function.__name__ for function, _ in MODULES.values()}
    assert functions | pixel == losses_of_functional
    # Those of test_segmentation_modules.py and of tests named after the loss.
    pixel = {name for name in losses.__all__ if getattr(losses, name).__module__ in PIXEL_MODULES}
    matchers = {"HungarianMatcher", "MatchedDetectionLoss", "SeesawLoss"}
    assert {module.__name__ for module in MODULES} | pixel | matchers == set(losses.__all__)
    assert all(getattr(fastloss, name) is getattr(losses, name) for name in losses.__all__)


@each
def test_parameters_are_those_of_the_function(module):
    """Same names and defaults; only the default reduction is "mean" everywhere."""
    function = inspect.signature(MODULES[module][0]).parameters
    ours = inspect.signature(module).parameters
    assert [*ours] == [p for p in [*function][2:] if p not in ("weight", "avg_factor")]
    for name, parameter in ours.items():
        assert parameter.default == ("mean" if name == "reduction" else function[name].default)


@each
@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
def test_value_is_that_of_the_function(module, reduction):
    function, options = MODULES[module]
    inputs = arguments(module)
    loss = module(**options, reduction=reduction)
    expected = function(*inputs, **options, reduction=reduction)
    assert torch.equal(loss(*inputs), expected)
    if reduction == "mean":
        weight = torch.tensor(0.5)
        expected = function(*inputs, **options, reduction=reduction, weight=weight, avg_factor=3.0)
        assert torch.equal(loss(*inputs, weight, avg_factor=3.0), expected)


@pytest.mark.parametrize(
    "module, options",
    [
        (losses.BoxLoss, {"kind": "eiou", "smooth_point": 0.7}),
        (losses.BoxLoss, {"kind": "siou", "neg_gamma": True}),
        (losses.BoxLoss, {"kind": "bounded_iou", "beta": 0.7}),
        (losses.RegressionLoss, {"kind": "balanced_l1", "alpha": 0.2}),
        (losses.RegressionLoss, {"kind": "balanced_l1", "gamma": 0.7}),
    ],
    ids=str,
)
def test_options_of_single_kinds(module, options):
    function, inputs = MODULES[module][0], arguments(module)
    loss = module(**options)(*inputs)
    assert torch.equal(loss, function(*inputs, **options))
    assert loss != function(*inputs, kind=options["kind"])


@each
def test_options_are_attributes_that_count(module):
    function, options = MODULES[module]
    inputs = arguments(module)
    loss = module()
    for name, value in options.items():
        setattr(loss, name, value)
    assert torch.equal(loss(*inputs), function(*inputs, **options, reduction="mean"))
    assert all(f"{name}={value!r}" in repr(loss) for name, value in options.items())
    assert repr(loss).startswith(f"{module.__name__}(")


@each
def test_copies_and_state(module):
    _, options = MODULES[module]
    inputs = arguments(module)
    loss = module(**options)
    assert not loss.state_dict() and not [*loss.parameters()] and not [*loss.buffers()]
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    for other in (copy.deepcopy(loss), torch.load(file, weights_only=False)):
        assert repr(other) == repr(loss) and torch.equal(other(*inputs), loss(*inputs))


def test_hungarian_matcher_is_cost_and_assignment():
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 9, 4, generator=g), torch.randint(4, (3, 5), generator=g)
    boxes, targets = torch.rand(3, 9, 4, generator=g), torch.rand(3, 5, 4, generator=g)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])
    options = {"cls_cost": "sigmoid_focal", "cls_weight": 2.0, "box_format": "cxcywh"}
    matcher = losses.HungarianMatcher(**options)
    cost = F.matching_cost(logits, boxes, labels, targets, mask, **options)
    found = matcher(logits, boxes, labels, targets, mask)
    assert torch.equal(found, F.linear_assignment(cost, mask))
    assert (found >= 0).sum(1).tolist() == [5, 2, 0]
    assert torch.equal(copy.deepcopy(matcher)(logits, boxes, labels, targets, mask), found)
    assert "cls_cost='sigmoid_focal', cls_weight=2.0" in repr(matcher)
    parameters = inspect.signature(F.matching_cost).parameters
    ours = inspect.signature(losses.HungarianMatcher).parameters
    assert {*ours} == {*parameters} - {
        "logits", "boxes", "labels", "target_boxes", "mask", "constant", "background_cost",
    }  # fmt: skip
    assert all(ours[name].default == parameters[name].default for name in ours)


def test_matched_detection_loss_is_the_function():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 4, generator=g, requires_grad=True)
    labels, mask = torch.randint(1, 4, (2, 3), generator=g), torch.tensor([[True] * 3, [False] * 3])
    boxes = torch.rand(2, 12, 4, generator=g).cumsum(-1)
    matching = torch.rand(2, 9, 4, generator=g).softmax(-1)
    arguments = (logits, boxes[:, :9], labels, boxes[:, 9:], matching, mask)
    options = {"class_weight": [0.1, 1.0, 1.0, 2.0], "distance": "mse", "neg_to_pos_ratio": 3.0}
    loss = losses.MatchedDetectionLoss(**options)
    assert torch.equal(loss(*arguments), F.matched_detection(*arguments, **options))
    assert torch.equal(copy.deepcopy(loss)(*arguments), loss(*arguments))
    assert "distance='mse'" in repr(loss)
    parameters = inspect.signature(F.matched_detection).parameters
    ours = inspect.signature(losses.MatchedDetectionLoss).parameters
    assert [*ours] == [*parameters][6:]
    assert all(ours[name].default == parameters[name].default for name in ours)
