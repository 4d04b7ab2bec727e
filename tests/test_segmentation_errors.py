"""Bad input of the segmentation losses raises an error that names the argument and what came."""

import pytest
import torch

import fastloss
import fastloss.functional as F

X = torch.zeros(2, 3, 4)
LABELS = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
DICE = {"dice": 1.0}
GOOD = {"logits": X, "target": LABELS}
DENSE = {"target": torch.zeros(2, 3, 4), "mode": "multilabel"}

# What cross_entropy and segmentation_loss both check: changes, error, message
BOTH = [
    ({"logits": None}, TypeError, "logits must be a tensor, got NoneType"),
    ({"logits": X.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"logits": X[0, 0]}, ValueError, r"logits .* \(N, C, \*\) with at least one class, .*\(4,\)"),
    ({"logits": X[:, :0]}, ValueError, r"logits .* at least one class, got \(2, 0, 4\)"),
    ({"target": 1}, TypeError, "target must be a tensor, got int"),
    ({"target": LABELS.to("meta")}, ValueError, "target must be on the device of logits, cpu, got"),
    ({"target": LABELS.cfloat()}, TypeError, "target must be real, got torch.complex64"),
    ({"target": LABELS.float()}, TypeError, "target .* integer dtype, got torch.float32"),
    ({"target": LABELS > 0}, TypeError, "target .* integer dtype, got torch.bool"),
    ({"target": LABELS[:1]}, ValueError, r"without their classes, \(2, 4\), got \(1, 4\)"),
    ({"target": LABELS[:, None]}, ValueError, r"without their classes, \(2, 4\), got \(2, 1, 4\)"),
    ({"target": LABELS + 1}, IndexError, r"indices in \[0, 2\]; got 3 at index 2"),
    ({"target": LABELS - 2**40}, IndexError, rf"\[0, 2\]; got {-(2**40)} at index 0"),
    ({"ignore_index": 255.0}, TypeError, "ignore_index must be an integer or None, got float"),
    ({"ignore_index": True}, TypeError, "ignore_index must be an integer or None, got bool"),
    ({"class_weight": 2.0}, TypeError, "class_weight must be a tensor or numbers, got float"),
    ({"class_weight": [1, 2, "3"]}, TypeError, r"class_weight\[2\] must be a number, got str"),
    ({"class_weight": [1.0, 2.0]}, ValueError, r"class_weight .* shape \(3,\), got \(2,\)"),
    ({"class_weight": torch.ones(3, 1)}, ValueError, r"class_weight .* \(3,\), got \(3, 1\)"),
    ({"class_weight": torch.ones(3).long()}, TypeError, "class_weight must be float16.*int64"),
    ({"class_weight": torch.ones(3, device="meta")}, ValueError, "class_weight .* got meta"),
    ({"class_weight": torch.ones(3).requires_grad_()}, ValueError, "class_weight has no gradient"),
]  # fmt: skip

CROSS_ENTROPY = [
    ({"reduction": "avg"}, ValueError, "one of 'none', 'mean', 'sum', got 'avg'"),
    ({"reduction": None}, ValueError, "reduction must be one of .*, got None"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing must be >= 0, got -0.1"),
    ({"label_smoothing": 1.1}, ValueError, "label_smoothing must be <= 1, got 1.1"),
    ({"label_smoothing": float("nan")}, ValueError, "label_smoothing must be finite, got nan"),
    ({"label_smoothing": torch.ones(())}, TypeError, "label_smoothing must be a number, got Tens"),
    ({"weight": [1.0] * 4}, TypeError, "weight must be a tensor, got list"),
    ({"weight": torch.ones(3)}, ValueError, r"weight .* loss of shape \(2, 4\), got \(3,\)"),
    ({"weight": torch.ones(1, 2, 4)}, ValueError, r"weight .* \(2, 4\), got \(1, 2, 4\)"),
    ({"weight": torch.ones(4, device="meta")}, ValueError, "weight must be on .* cpu, got meta"),
    ({"avg_factor": 2, "reduction": "sum"}, ValueError, 'avg_factor needs .*, got "sum"'),
    ({"avg_factor": -1.0}, ValueError, "avg_factor must be >= 0, got -1.0"),
    ({"avg_factor": torch.ones(2)}, ValueError, r"avg_factor .* got shape \(2,\)"),
    ({"avg_factor": torch.ones((), device="meta")}, ValueError, "avg_factor .* got meta"),
]

CALL = [
    ({"mode": "multi"}, ValueError, "mode must be .*'multiclass', 'multilabel', got 'multi'"),
    ({"metrics": 1}, TypeError, "metrics must be True or False, got int"),
    ({"from_logits": None}, TypeError, "from_logits must be True or False, got NoneType"),
    ({"strict": "no"}, TypeError, "strict must be True or False, got str"),
    ({"terms": None}, ValueError, "terms must be a mapping with at least one term, got None"),
    ({"terms": {}}, ValueError, r"terms must be a mapping with at least one term, got \{\}"),
    ({"terms": ["dice"]}, ValueError, "terms must be a mapping with at least one term, got "),
    ({"terms": {"Dice": 1.0}}, ValueError, "a name in terms must be one of .*, got 'Dice'"),
    ({"terms": {"a": {"kind": "Dice"}}}, ValueError, r'terms\["a"\]\["kind"\] .*, got \'Dice\''),
    ({"terms": {"a": {"kind": "dice", "gamma": 2}}}, ValueError, r'option of terms\["a"\] .*gamma'),
    (
        {"terms": {"sigmoid_focal": {"gamma": 1}, "a": {"kind": "sigmoid_focal"}}},
        ValueError,
        r'terms\["a"\]\["gamma"\] must be that of the other terms of its kind, 1.0, got 2.0',
    ),
    (
        {"terms": {"a": {"kind": "sigmoid_focal"}, "sigmoid_focal": {"alpha": 0.5}}},
        ValueError,
        r'\["alpha"\] must be that of the other terms of its kind, None, got 0.5',
    ),
    ({"terms": {"a": {"kind": "soft_bce", "smoothing": None}}}, TypeError, "smoothing.* number"),
    ({**DENSE, "target": LABELS}, ValueError, r"shape of logits, \(2, 3, 4\), .*\(2, 4\)"),
    ({**DENSE, "target": None}, TypeError, "target must be a tensor, got NoneType"),
    ({**DENSE, "target": X.cfloat()}, TypeError, "target must be real, got torch.complex64"),
    ({**DENSE, "target": X.to(torch.float8_e5m2)}, TypeError, "target must be .*float8_e5m2"),
    ({**DENSE, "logits": X.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"mode": "binary"}, ValueError, r'"binary" needs .* got \(2, 3, 4\) and \(2, 4\)'),
    ({"mode": "binary", "logits": X[0, 0, 0]}, ValueError, r'"binary" needs .* got \(\) and'),
    (
        {"mode": "multilabel", "terms": {"cross_entropy": 1.0}, "target": X},
        ValueError,
        r'terms\["cross_entropy"\] needs mode "multiclass", got "multilabel"',
    ),
    (
        {"terms": {"soft_bce": 1.0}, "from_logits": False},
        ValueError,
        r'terms\["soft_bce"\] needs logits: from_logits must be True',
    ),
]  # fmt: skip


def _options():
    """Every number and flag of every term."""
    bounds = {
        "cross_entropy": {"label_smoothing": (">= 0", -1)},
        "softmax_focal": {"gamma": (">= 0", -1), "reduced_threshold": (">= 0", -1)},
        "sigmoid_focal": {"gamma": (">= 0", -1), "reduced_threshold": (">= 0", -1), "alpha": None},
        "dice": {"smooth": (">= 0", -1), "eps": (">= 0", -1)},
        "jaccard": {"smooth": (">= 0", -1), "eps": (">= 0", -1)},
        "tversky": {"alpha": None, "beta": None, "gamma": (">= 0", -1)},
        "soft_bce": {"smoothing": None},
        "mcc": {"eps": (">= 0", -1)},
        "lovasz": {},
    }
    for term, numbers in bounds.items():
        for option, bound in {"weight": None, **numbers}.items():
            label = rf'terms\["{term}"\]\["{option}"\] must be'
            yield term, {option: "1"}, TypeError, f"{label} a number, got str"
            yield term, {option: float("inf")}, ValueError, f"{label} finite, got inf"
            if bound:
                yield term, {option: bound[1]}, ValueError, f"{label} {bound[0]}, got"
        yield term, {"sigma": 1}, ValueError, rf'option of terms\["{term}"\] must be .*, got .sigma'
    for term, option in (
        ("softmax_focal", "normalized"), ("sigmoid_focal", "normalized"), ("dice", "log"),
        ("jaccard", "per_image"), ("tversky", "log"),
    ):  # fmt: skip
        yield term, {option: 1}, TypeError, rf'\["{term}"\]\["{option}"\] must be True or False'
    for term in ("cross_entropy", "softmax_focal", "sigmoid_focal", "soft_bce"):
        label = rf'terms\["{term}"\]'
        yield term, {"reduction": "none"}, ValueError, rf"{label}\[.reduction.\] .*, got 'none'"
        bad = {"reduction": "sum", "avg_factor": 2}
        yield term, bad, ValueError, rf'{label}\["avg_factor"\] needs reduction "mean", got "sum"'
        yield term, {"avg_factor": -1}, ValueError, rf'{label}\["avg_factor"\] must be >= 0, got -1'
        yield term, {"empty": 1}, ValueError, rf'{label}\["empty"\] must be 0 or nan, got 1'
        weight = {"class_weight": [1.0]}
        yield term, weight, ValueError, rf'{label}\["class_weight"\] .* \(3,\), got \(1,\)'
    yield "soft_bce", {"pos_weight": [1.0]}, ValueError, r'\["pos_weight"\] .* \(3,\), got \(1,\)'
    yield "cross_entropy", {"label_smoothing": 2}, ValueError, r'smoothing"\] must be <= 1, got 2'
    for bad in ([3], [-4], [True], [1.0]):
        yield "dice", {"classes": bad}, ValueError, r'\["classes"\] must hold class indices below 3'


def ids(table):
    return [f"{i}-{'-'.join(map(str, changes))}" for i, (changes, *_) in enumerate(table)]


@pytest.mark.parametrize(
    "changes,error,message", BOTH + CROSS_ENTROPY, ids=ids(BOTH + CROSS_ENTROPY)
)
def test_error_of_cross_entropy(changes, error, message):
    with pytest.raises(error, match=message):
        F.cross_entropy(**{**GOOD, **changes})


@pytest.mark.parametrize("changes,error,message", BOTH + CALL, ids=ids(BOTH + CALL))
def test_error_of_segmentation_loss(changes, error, message):
    with pytest.raises(error, match=message):
        F.segmentation_loss(**{**GOOD, "terms": DICE, **changes})


OPTIONS = list(_options())


@pytest.mark.parametrize(
    "term,options,error,message", OPTIONS, ids=[f"{t}-{'-'.join(o)}" for t, o, *_ in OPTIONS]
)
def test_error_of_an_option(term, options, error, message):
    with pytest.raises(error, match=message):
        F.segmentation_loss(X, LABELS, terms={term: options})


@pytest.mark.parametrize("term", ("cross_entropy", "softmax_focal", "sigmoid_focal", "dice"))
@pytest.mark.parametrize("backend", ("auto", "reference"))
def test_class_index_out_of_range_in_either_backend(term, backend):
    call = {"logits": X, "target": LABELS.clone(), "terms": {term: 1.0}}
    call["target"][1, 2] = -1
    with fastloss.backend(backend):
        with pytest.raises(IndexError, match=r"\[0, 2\]; got -1 at index 6"):
            F.segmentation_loss(**call)
        F.segmentation_loss(**call, ignore_index=-1)
        F.segmentation_loss(**call, strict=False)


def test_the_unspoiled_calls_are_right():
    assert F.cross_entropy(**GOOD).isfinite()
    assert F.segmentation_loss(**GOOD, terms=DICE)[0].isfinite()
    assert F.segmentation_loss(**{**GOOD, **DENSE}, terms=DICE)[0].isfinite()
