"""Bad input raises an error that names the argument, what was expected and what was given."""

import re

import pytest
import torch

import fastloss
import fastloss.functional as F

BOXES = torch.tensor([0.0, 0.0, 2.0, 1.0]).repeat(5, 1)  # (5, 4)
X = torch.full((5, 3), 0.5)
INDEX = torch.tensor([0, 1, 2, 3, 0])  # 3 is background
SCORE = torch.full((5,), 0.5)
ONE = torch.ones(())

# function -> good arguments and the shape of the unreduced loss
CALLS = {
    F.box_loss: ({"pred": BOXES, "target": BOXES}, (5,)),
    F.regression_loss: ({"pred": X, "target": X}, (5, 3)),
    F.sigmoid_focal_loss: ({"logits": X, "target": INDEX}, (5, 3)),
    F.quality_focal_loss: ({"logits": X, "target": (INDEX, SCORE)}, (5,)),
    F.varifocal_loss: ({"logits": X, "target": X}, (5, 3)),
    F.gaussian_focal_loss: ({"probs": X, "target": X}, (5, 3)),
    F.binary_cross_entropy: ({"logits": X, "target": INDEX}, (5, 3)),
    F.distribution_focal_loss: ({"logits": X, "target": SCORE}, (5,)),
    F.distillation_loss: ({"logits": X, "teacher_logits": X}, (5,)),
    F.multi_positive_cross_entropy: ({"logits": X, "target": X.long()}, (5,)),
    F.embedding_distance: ({"pred": X, "target": X.long()}, (5, 3)),
    F.mask_dice_loss: ({"logits": X, "target": X.long()}, (5,)),
}
BACKGROUND = r"in \[0, 3\], 3 meaning background"


def _every_function():
    """(function, arguments, error, message) of what all functions check."""
    for function, (good, shape) in CALLS.items():
        first, second = good
        like = f"on the device of {first}, cpu, got meta"
        unreduced = re.escape(f"weight must broadcast to the unreduced loss of shape {shape}, got ")
        table = [
            ({first: None}, TypeError, f"{first} must be a tensor, got NoneType"),
            ({first: good[first].long()}, TypeError, f"{first} must be float16.* got torch.int64"),
            ({first: good[first].cfloat()}, TypeError, f"{first} must be .*, got torch.complex64"),
            ({second: 1.0}, TypeError, f"{second} must be a tensor, got float"),
            ({second: good[first].to("meta")}, ValueError, f"{second} must be {like}"),
            ({second: good[first].cfloat()}, TypeError, f"{second} must be .* torch.complex64"),
            ({second: good[first][:4]}, ValueError, rf"{second} must have the shape of \w+, \(5, "),
            ({"weight": [1.0] * 5}, TypeError, "weight must be a tensor, got list"),
            ({"weight": torch.ones(5, device="meta")}, ValueError, f"weight must be {like}"),
            ({"weight": ONE.cfloat()}, TypeError, "weight must be real, got torch.complex64"),
            ({"weight": torch.ones(4)}, ValueError, unreduced + r"\(4,\)"),
            ({"weight": torch.ones(1, *shape)}, ValueError, unreduced + r"\(1, 5"),
            ({"weight": torch.ones(2, *shape)}, ValueError, unreduced + r"\(2, 5"),
            ({"reduction": "avg"}, ValueError, "one of 'none', 'mean', 'sum', got 'avg'"),
            ({"reduction": None}, ValueError, "reduction must be one of .*, got None"),
            ({"avg_factor": 2, "reduction": "sum"}, ValueError, 'avg_factor needs .*, got "sum"'),
            ({"avg_factor": -1.0}, ValueError, "avg_factor must be >= 0, got -1.0"),
            ({"avg_factor": float("nan")}, ValueError, "avg_factor must be finite, got nan"),
            ({"avg_factor": "5"}, TypeError, "avg_factor must be a number, got str"),
            ({"avg_factor": torch.ones(2)}, ValueError, r"avg_factor .* got shape \(2,\)"),
            ({"avg_factor": ONE.clone().requires_grad_()}, ValueError, "avg_factor has no grad"),
            ({"avg_factor": ONE.to("meta")}, ValueError, f"avg_factor must be {like}"),
            ({"avg_factor": ONE.cfloat()}, TypeError, "avg_factor must be real.*complex64"),
        ]  # fmt: skip
        for changes, error, message in table:
            yield function, {"reduction": "mean", **changes}, error, message


def _numbers():
    """Parameters that are numbers, with the condition they must meet ("" if finite is enough)."""
    for function, name, condition, bad in (
        (F.box_loss, "eps", ">= 0", -1e-9),
        (F.box_loss, "union_eps", ">= 0", -1e-9),
        (F.box_loss, "smooth_point", "> 0", 0),
        (F.box_loss, "beta", "> 0", 0),
        (F.regression_loss, "beta", "> 0", 0),
        (F.regression_loss, "alpha", "> 0", 0),
        (F.regression_loss, "gamma", "> 0", 0),
        (F.sigmoid_focal_loss, "alpha", "", None),
        (F.sigmoid_focal_loss, "gamma", ">= 0", -0.5),
        (F.quality_focal_loss, "beta", ">= 0", -0.5),
        (F.varifocal_loss, "alpha", ">= 0", -0.5),
        (F.varifocal_loss, "gamma", ">= 0", -0.5),
        (F.gaussian_focal_loss, "alpha", ">= 0", -0.5),
        (F.gaussian_focal_loss, "gamma", ">= 0", -0.5),
        (F.gaussian_focal_loss, "pos_weight", ">= 0", -0.5),
        (F.gaussian_focal_loss, "neg_weight", ">= 0", -0.5),
        (F.distillation_loss, "temperature", "> 0", 0),
        (F.embedding_distance, "neg_pos_ub", "", None),
        (F.embedding_distance, "pos_margin", "", None),
        (F.embedding_distance, "neg_margin", "", None),
        (F.embedding_distance, "min_count", ">= 0", -0.5),
        (F.embedding_distance, "min_positives", ">= 0", -0.5),
        (F.embedding_distance, "count_eps", ">= 0", -0.5),
    ):
        for value in (float("nan"), float("inf"), -float("inf"), 10**400):
            yield function, {name: value}, ValueError, f"{name} must be finite, got {value}"
        for value, kind in ((None, "NoneType"), ("1", "str"), (torch.ones(()), "Tensor")):
            if not (name == "union_eps" and value is None):
                yield function, {name: value}, TypeError, f"{name} must be a number, got {kind}"
        if condition:
            yield function, {name: bad}, ValueError, f"{name} must be {condition}, got {float(bad)}"


def _flags():
    for function, name in (
        (F.box_loss, "neg_gamma"),
        (F.sigmoid_focal_loss, "activated"),
        (F.quality_focal_loss, "activated"),
        (F.varifocal_loss, "iou_weighted"),
        (F.binary_cross_entropy, "avg_non_ignore"),
        (F.multi_positive_cross_entropy, "others_in_both"),
        (F.embedding_distance, "hard_mining"),
    ):
        yield function, {name: "yes"}, TypeError, f"{name} must be True or False, got str"


def _class_indices():
    for function, options in (
        (F.sigmoid_focal_loss, {}),
        (F.quality_focal_loss, {}),
        (F.varifocal_loss, {}),
        (F.gaussian_focal_loss, {}),
        (F.binary_cross_entropy, {"ignore_index": 255}),
    ):
        for dtype in (torch.float32, torch.bool):
            message = f"target class indices must be integers, got {dtype}"
            yield function, {"target": INDEX.to(dtype), **options}, TypeError, message
        for bad in (4, -1, -100):
            target = torch.tensor([0, 3, bad, 1, -7])
            message = f"target must .* {BACKGROUND}; got {bad} at index 2"
            yield function, {"target": target, **options}, IndexError, message
        either = r"shape of \w+, \(5, 3\), or hold class indices of shape \(5,\), got \(4,\)"
        yield function, {"target": INDEX[:4], **options}, ValueError, either


SPECIAL = {
    F.box_loss: [
        ({"kind": "aiou"}, ValueError, "kind .* 'siou', 'bounded_iou', got 'aiou'"),
        ({"kind": None}, ValueError, "kind must be one of .*, got None"),
        ({"kind": "iou", "mode": "exp"}, ValueError, "mode must be one of .*'log', got 'exp'"),
        ({"kind": "giou", "mode": "log"}, ValueError, "mode must be one of 'linear', got 'log'"),
        (
            {"kind": "bounded_iou", "weight": torch.ones(5)},
            ValueError,
            r"weight must broadcast to the unreduced loss of shape \(5, 4\), got \(5,\)",
        ),
        ({"pred": BOXES[:, :3]}, ValueError, r"pred must have shape \(\*, 4\), got \(5, 3\)"),
        ({"pred": torch.ones(())}, ValueError, r"pred must have shape \(\*, 4\), got \(\)"),
        ({"target": BOXES.mT}, ValueError, r"target must have shape \(\*, 4\), got \(4, 5\)"),
        ({"target": BOXES[:1]}, ValueError, r"target .* of pred, \(5, 4\), got \(1, 4\)"),
        ({"target": BOXES.long()}, TypeError, "target must be float16, .*, got torch.int64"),
    ],
    F.regression_loss: [
        ({"kind": "l2"}, ValueError, "kind must be .*'mse', 'balanced_l1', got 'l2'"),
        ({"gamma": 41}, ValueError, r"gamma must be <= 80 \* alpha, 40, got 41"),
        ({"target": X[:1]}, ValueError, r"target .* of pred, \(5, 3\), got \(1, 3\)"),
        ({"target": X.long()}, TypeError, "target must be float16, .*, got torch.int64"),
    ],
    F.quality_focal_loss: [
        ({"logits": torch.ones(())}, ValueError, r"logits must have shape \(\*, C\), got \(\)"),
        ({"target": (INDEX, SCORE, SCORE)}, ValueError, r"must be \(labels, scores\), got 3"),
        ({"target": (1, SCORE)}, TypeError, r"target\[0\] must be a tensor, got int"),
        ({"target": (INDEX, 1)}, TypeError, r"target\[1\] must be a tensor, got int"),
        ({"target": (INDEX, INDEX)}, TypeError, r"target\[1\] must be float16.* got torch.int64"),
        ({"target": (SCORE, SCORE)}, TypeError, "indices must be integers, got torch.float32"),
        ({"target": (INDEX[:4], SCORE)}, ValueError, r"target\[0\] .* shape \(5,\), got \(4,\)"),
        ({"target": (INDEX, SCORE[:4])}, ValueError, r"target\[1\] .*, \(5,\), got \(4,\)"),
        ({"target": (INDEX, SCORE.to("meta"))}, ValueError, r"target\[1\] .* cpu, got meta"),
        ({"target": (INDEX + 4, SCORE)}, IndexError, f"{BACKGROUND}; got 4 at index 0"),
    ],
    F.distribution_focal_loss: [
        ({"target": INDEX}, TypeError, "target must be float16.*, got torch.int64"),
        ({"target": X}, ValueError, r"shape of logits, \(5, 3\), without .* got \(5, 3\)"),
        ({"target": SCORE + 1.5}, IndexError, r"target must be in \[0, 2\); got 2 at index 0"),
    ],
    F.distillation_loss: [
        ({"teacher_logits": X.long()}, TypeError, "teacher_logits must be float16.* torch.int64"),
    ],
    F.binary_cross_entropy: [
        ({"class_weight": torch.ones(4)}, ValueError, r"class_weight .* \(3,\), got \(4,\)"),
        ({"class_weight": [1.0, 2.0]}, ValueError, r"class_weight .* \(3,\), got \(2,\)"),
        ({"class_weight": 2.0}, TypeError, "class_weight must be a tensor or numbers, got float"),
        ({"class_weight": [1, 2, "3"]}, TypeError, r"class_weight\[2\] must be a number, got str"),
        ({"class_weight": torch.ones(3).long()}, TypeError, "class_weight must be float16.*int64"),
        ({"class_weight": torch.ones(3, device="meta")}, ValueError, "class_weight .* got meta"),
        ({"class_weight": torch.ones(3).requires_grad_()}, ValueError, "class_weight has no grad"),
        ({"ignore_index": 255.0}, TypeError, "ignore_index must be an integer or None, got float"),
    ],
}  # fmt: skip

CASES = [*_every_function(), *_numbers(), *_flags(), *_class_indices()]
CASES += [(function, *row) for function, rows in SPECIAL.items() for row in rows]


@pytest.mark.parametrize("function", CALLS, ids=lambda f: f.__name__)
def test_the_unspoiled_calls_are_right(function):
    good, shape = CALLS[function]
    assert function(**good, reduction="none").shape == shape


@pytest.mark.parametrize(
    "function,changes,error,message",
    CASES,
    ids=[f"{f.__name__}-{'-'.join(changes)}" for f, changes, _, _ in CASES],
)
def test_error(function, changes, error, message):
    with pytest.raises(error, match=message):
        function(**{**CALLS[function][0], **changes})


PAIRWISE = [
    ({"boxes1": None}, TypeError, "boxes1 must be a tensor, got NoneType"),
    ({"boxes2": BOXES.long()}, TypeError, "boxes2 must be float16.* got torch.int64"),
    ({"boxes1": BOXES[0]}, ValueError, r"boxes1 must have shape \(\*, N, 4\), got \(4,\)"),
    ({"boxes2": BOXES[:, :3]}, ValueError, r"boxes2 must have shape \(\*, N, 4\), got \(5, 3\)"),
    ({"boxes2": BOXES.to("meta")}, ValueError, "boxes2 must be on the device of boxes1, cpu"),
    (
        {"boxes1": BOXES.expand(2, 5, 4), "boxes2": BOXES.expand(3, 5, 4)},
        ValueError,
        r"boxes2 must have batch .* broadcast with those of boxes1, \(2,\), got \(3,\)",
    ),
    ({"kind": "eiou"}, ValueError, "kind must be one of 'iou', 'giou', 'diou', 'ciou', got 'eiou'"),
    ({"eps": -1e-9}, ValueError, "eps must be >= 0, got -1e-09"),
    ({"eps": ONE}, TypeError, "eps must be a number, got Tensor"),
]


@pytest.mark.parametrize(
    "changes,error,message", PAIRWISE, ids=[str(list(c)) for c, *_ in PAIRWISE]
)
def test_error_of_pairwise_iou(changes, error, message):
    with pytest.raises(error, match=message):
        F.pairwise_iou(**{"boxes1": BOXES, "boxes2": BOXES, **changes})


TERMS = [
    ({"target": X[:1]}, ValueError, r"target .* of pred, \(5, 3\), got \(1, 3\)"),
    ({"target": X.long()}, TypeError, "target must be float16, .*, got torch.int64"),
    ({"pred": None}, TypeError, "pred must be a tensor, got NoneType"),
    ({"target": X.to("meta")}, ValueError, "target must be on the device of pred, cpu"),
    ({"kinds": "l1"}, ValueError, "kinds must be a sequence .*, got 'l1'"),
    ({"kinds": ()}, ValueError, r"kinds must be a sequence with at least one kind, got \(\)"),
    ({"kinds": ("l1", "l2")}, ValueError, r"kinds\[1\] must be one of 'l1', .*, got 'l2'"),
    ({"reduction": "none"}, ValueError, r"reduction\[0\] must be one of .*, got 'none'"),
    ({"reduction": ["mean"]}, ValueError, r"reduction .* each of kinds, 2, got \['mean'\]"),
    ({"beta": (1.0, 2.0, 3.0)}, ValueError, "beta must have one entry for each of kinds, 2"),
    ({"beta": (1.0, 0)}, ValueError, r"beta\[1\] must be > 0, got 0"),
    ({"beta": (1.0, "2")}, TypeError, r"beta\[1\] must be a number, got str"),
]  # fmt: skip


@pytest.mark.parametrize("changes,error,message", TERMS, ids=[str(list(c)) for c, *_ in TERMS])
def test_error_of_regression_terms(changes, error, message):
    with pytest.raises(error, match=message):
        F.regression_terms(**{"pred": X, "target": X, "kinds": ("l1", "mse"), **changes})


EQUALIZATION = [
    ({"logits": X.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"logits": X[0]}, ValueError, r"logits must have shape \(N, C\), got \(3,\)"),
    ({"labels": SCORE}, TypeError, "labels must be integers, got torch.float32"),
    ({"labels": INDEX[:4]}, ValueError, r"labels must have shape \(5,\), got \(4,\)"),
    ({"labels": INDEX.to("meta")}, ValueError, "labels must be on the device of logits, cpu"),
    ({"labels": INDEX + 1}, IndexError, r"class indices in \[0, 2\]; got 3 at index 2"),
    ({"pos_weight": None}, TypeError, "pos_weight must be a tensor, got NoneType"),
    ({"neg_weight": X[0].long()}, TypeError, "neg_weight must be float16.* got torch.int64"),
    ({"neg_weight": X}, ValueError, r"neg_weight must have shape \(3,\), got \(5, 3\)"),
    ({"pos_weight": X[0].to("meta")}, ValueError, "pos_weight must be on the device of logits"),
    ({"reduction": "none"}, ValueError, "reduction must be one of 'mean', 'sum', got 'none'"),
    ({"gradient_sums": 1}, TypeError, "gradient_sums must be True or False, got int"),
]


@pytest.mark.parametrize("backend", ("auto", "reference"))
@pytest.mark.parametrize(
    "changes,error,message", EQUALIZATION, ids=[str(list(c)) for c, *_ in EQUALIZATION]
)
def test_error_of_equalization_loss(changes, error, message, backend):
    good = {"logits": X, "labels": INDEX % 3, "pos_weight": X[0], "neg_weight": X[0]}
    with fastloss.backend(backend), pytest.raises(error, match=message):
        F.equalization_loss(**{**good, **changes})


HARMONIZED = [
    ({"target": X[:4]}, ValueError, r"target must have the shape of \w+, \(5, 3\), got \(4, 3\)"),
    ({"target": X.cfloat()}, TypeError, "target must be real, got torch.complex64"),
    ({"target": X.to("meta")}, ValueError, r"target must be on the device of \w+, cpu, got meta"),
    ({"weight": torch.ones(4)}, ValueError, r"weight must broadcast .* \(5, 3\), got \(4,\)"),
    ({"bins": 0}, ValueError, "bins must be >= 1, got 0"),
    ({"bins": 2.0}, TypeError, "bins must be an integer, got float"),
    ({"bins": True}, TypeError, "bins must be an integer, got bool"),
    ({"reduction": "avg"}, ValueError, "reduction must be one of .*, got 'avg'"),
]


@pytest.mark.parametrize("function", (F.ghm_classification_loss, F.ghm_regression_loss))
@pytest.mark.parametrize(
    "changes,error,message", HARMONIZED, ids=[str(list(c)) for c, *_ in HARMONIZED]
)
def test_error_of_harmonized_losses(changes, error, message, function):
    first = "pred" if function is F.ghm_regression_loss else "logits"
    with pytest.raises(TypeError, match=f"{first} must be float16.* got torch.int64"):
        function(**{first: X.long(), "target": X})
    with pytest.raises(error, match=message):
        function(**{first: X, "target": X, **changes})


def test_errors_of_one_harmonized_loss():
    with pytest.raises(ValueError, match=r"indices must have shape \(5,\), got \(4,\)"):
        F.ghm_classification_loss(X, INDEX[:4])
    with pytest.raises(TypeError, match="class indices must be integers, got torch.float32"):
        F.ghm_classification_loss(X, SCORE)
    with pytest.raises(ValueError, match=r"must have the shape of pred, \(5, 3\), got \(5,\)"):
        F.ghm_regression_loss(X, INDEX)
    with pytest.raises(ValueError, match="mu must be > 0, got 0"):
        F.ghm_regression_loss(X, X, mu=0)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of .*, got 'fast'"):
        with fastloss.backend("fast"):
            pass


@pytest.mark.parametrize("backend", ("auto", "reference"))
def test_class_index_out_of_range_in_either_backend(backend):
    with (
        fastloss.backend(backend),
        pytest.raises(IndexError, match=f"{BACKGROUND}; got 9 at index 4"),
    ):
        F.sigmoid_focal_loss(X, torch.tensor([0, 1, 2, 3, 9]))
