"""The modules of the segmentation losses are their functions with the options as attributes."""

import copy
import inspect
import io

import pytest
import torch

import fastloss.functional as F
from fastloss import losses
from fastloss.ops.segmentation_loss import TERMS

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
DENSE = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
SUM = {"cross_entropy": 0.5, "dice": {"smooth": 0.1}}
REGION = {
    "smooth": 0.5, "eps": 0.4, "log": True, "classes": [0, 2], "class_weight": [1.0, 2.0, 3.0],
    "per_image": True,
}  # fmt: skip

# eps is between the scores of the classes and images, so that it counts and the others do too.
# module, options of the call, options of the term; every option is unlike its default
TERM_MODULES = [
    (losses.DiceLoss, {"ignore_index": 2}, REGION),
    (losses.JaccardLoss, {"mode": "multilabel"}, {**REGION, "eps": 0.61}),
    (
        losses.TverskyLoss,
        {"ignore_index": 2},
        {**REGION, "eps": 0.31, "alpha": 0.3, "beta": 0.8, "gamma": 1.3},
    ),
    (
        losses.SoftmaxFocalLoss,
        {"ignore_index": 2},
        {"gamma": 1.5, "reduced_threshold": 0.5, "normalized": True, "reduction": "sum",
         "class_weight": [1.0, 2.0, 3.0]},
    ),
    (losses.MCCLoss, {"mode": "multilabel", "from_logits": False}, {"eps": 0.1}),
]  # fmt: skip
WHOLE_MODULES = [
    (
        losses.CrossEntropyLoss,
        F.cross_entropy,
        {"class_weight": [1.0, 2.0, 3.0], "ignore_index": 2, "label_smoothing": 0.1,
         "reduction": "none"},
    ),
    (
        losses.OhemCrossEntropyLoss,
        F.ohem_cross_entropy,
        {"thresh": 0.3, "min_kept": 5, "rule": "mmseg", "class_weight": [1.0, 2.0, 3.0],
         "ignore_index": 2},
    ),
    (
        losses.SegmentationLoss,
        F.segmentation_loss,
        {"terms": SUM, "class_weight": [1.0, 2.0, 3.0], "ignore_index": 2},
    ),
]  # fmt: skip


def of_term(module, shared, options):
    """What the module computes, and the function."""
    x, target = X, LABELS
    if shared.get("mode") == "multilabel":
        target = DENSE
    if shared.get("from_logits") is False:
        x = x.sigmoid()
    term = module.term
    return (x, target), F.segmentation_loss(x, target, terms={term: options}, **shared)[0]


each_term = pytest.mark.parametrize(
    "module,shared,options", TERM_MODULES, ids=[m.__name__ for m, *_ in TERM_MODULES]
)
each_whole = pytest.mark.parametrize(
    "module,function,options", WHOLE_MODULES, ids=[m.__name__ for m, *_ in WHOLE_MODULES]
)


@each_term
def test_value_of_a_term(module, shared, options):
    inputs, expected = of_term(module, shared, options)
    loss = module(**shared, **options)
    assert torch.equal(loss(*inputs), expected)
    changed = module()
    for name, value in {**shared, **options}.items():
        setattr(changed, name, value)
    assert torch.equal(changed(*inputs), expected) and repr(changed) == repr(loss)


@each_term
def test_every_option_counts(module, shared, options):
    inputs, expected = of_term(module, shared, options)
    for name, value in module().__dict__.items():
        if name in options:
            loss = module(**shared, **options)
            setattr(loss, name, value)
            assert not torch.equal(loss(*inputs), expected), name


@each_term
def test_defaults_are_those_of_the_function(module, shared, options):
    defaults = inspect.signature(F.segmentation_loss).parameters
    loss = module()
    for name in loss._names:
        if name in TERMS[module.term]:
            assert getattr(loss, name) == TERMS[module.term][name], name
        elif name != "mode":
            assert getattr(loss, name) == defaults[name].default, name


@each_whole
def test_whole_functions(module, function, options):
    ours, parameters = (inspect.signature(f).parameters for f in (module, function))
    of_call = ("weight", "avg_factor")
    names = [name for name in [*parameters][2:] if name not in of_call]
    assert [name for name in ours if name != "values"] == names
    for name, parameter in parameters.items():
        if name in ours:
            assert ours[name].default == parameter.default
    expected = function(X, LABELS, **options)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert torch.equal(module(**options)(X, LABELS), expected)


def test_cross_entropy_takes_weights():
    call = {"weight": torch.rand(2, 1, 5), "avg_factor": 3.0}
    loss = losses.CrossEntropyLoss(label_smoothing=0.1)(X, LABELS, **call)
    assert torch.equal(loss, F.cross_entropy(X, LABELS, label_smoothing=0.1, **call))


def test_values_and_metrics_on_request():
    total, values = losses.SegmentationLoss(SUM, values=True)(X, LABELS)
    assert set(values) == set(SUM) and total == sum(values.values())
    with_metrics = losses.SegmentationLoss(SUM, metrics=True)(X, LABELS)
    expected = F.segmentation_loss(X, LABELS, terms=SUM, metrics=True)
    assert torch.equal(with_metrics[0], total) and set(with_metrics[1]) == set(SUM)
    assert all(torch.equal(with_metrics[2][name], m) for name, m in expected[2].items())


@pytest.mark.parametrize(
    "loss",
    [m(**shared, **options) for m, shared, options in TERM_MODULES]
    + [m(**options) for m, _, options in WHOLE_MODULES],
    ids=lambda loss: type(loss).__name__,
)
def test_copies_and_state(loss):
    assert not loss.state_dict() and not [*loss.parameters()] and not [*loss.buffers()]
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    for other in (copy.deepcopy(loss), torch.load(file, weights_only=False)):
        assert repr(other) == repr(loss) and repr(loss).startswith(f"{type(loss).__name__}(")
