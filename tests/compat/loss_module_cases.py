"""LossModules of several losses of the same tensors, ours and vis4d's, and their inputs."""

import references
import torch
from torch import nn

from fastloss.compat import smp, vis4d

engine = references.or_skip(references.vis4d_engine)
their_vis4d, their_smp = references.vis4d(), references.or_skip(references.smp)

N, C = 2, 4
G = torch.Generator().manual_seed(0)
X = 2 * torch.randn(N, C, 6, 7, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, C, (N, 6, 7), generator=G)
VOID = torch.where(torch.rand(N, 6, 7, generator=G) < 0.2, 255, LABELS)
MASK = (torch.rand(N, 1, 6, 7, generator=G) < 0.4).double()
WEIGHTS = [0.5, 1.0, 2.0, 0.25]
SECOND = {"input": "target", "output": "target", "y_pred": "y_true"}


def connector(library, **sources):
    """By name: "p.key" of the prediction or "d.key" of the data."""
    keys = {"p": library.pred_key, "d": library.data_key}
    return library.LossConnector({n: keys[s[0]](s[2:]) for n, s in sources.items()})


def first_argument(loss):
    """Its name: losses of vis4d, of smp and of torch have names of their own."""
    if isinstance(loss, (vis4d.Loss, their_vis4d.Loss)):
        return "output"
    of_smp = any(
        name in c.__module__ for c in type(loss).__mro__ for name in ("smp", "segmentation_m")
    )
    return "y_pred" if of_smp else "input"


def module(library, losses, weights=None):
    """A LossModule of the library with these losses of prediction "x" and data "y"."""
    definitions = []
    for loss, weight in zip(losses, weights or [1.0] * len(losses), strict=True):
        first = first_argument(loss)
        made = connector(library, **{first: "p.x", SECOND[first]: "d.y"})
        definitions.append({"loss": loss, "connector": made, "weight": weight})
    return library.LossModule(definitions)


def evaluate(loss, x, y):
    """Total, metrics and gradient."""
    x = x.detach().clone().requires_grad_()
    total, metrics = loss({"x": x}, {"y": y})
    (gradient,) = torch.autograd.grad(total, x)
    return total.detach(), metrics, gradient


def mine_and_theirs(*names, dtype=torch.float64):
    """The losses of fastloss.compat, and those of the libraries; options beside the name, those
    under "tensors" as tensors of this dtype."""
    mine, theirs = [], []
    for name, options in names:
        library, name = name.split(".")
        where = {
            "smp": (smp, their_smp), "vis4d": (vis4d, their_vis4d), "nn": (nn, nn),
        }[library]  # fmt: skip
        for made, holder in zip((mine, theirs), where, strict=True):
            given = dict(options)
            if "reducer" in given:
                given["reducer"] = getattr(vis4d if made is mine else their_vis4d, given["reducer"])
            if "tensors" in given:
                given |= {k: torch.tensor(v, dtype=dtype) for k, v in given.pop("tensors").items()}
            made.append(getattr(holder, name)(**given))
    return mine, theirs


MULTI = {"mode": "multiclass", "ignore_index": 255}
PLAIN = {"mode": "multiclass"}
BINARY = {"mode": "binary"}
WEIGHTED = {"label_smoothing": 0.1, "ignore_index": 255, "tensors": {"weight": WEIGHTS}}
# The losses, and the target; the logits are those of all classes, or of one for the mask.
TOGETHER = {
    "bench": ([
        ("vis4d.CrossEntropyLoss", {}),
        ("smp.DiceLoss", MULTI),
        ("smp.FocalLoss", MULTI),
    ], VOID),
    "torch": ([("nn.CrossEntropyLoss", {"ignore_index": 255}), ("smp.JaccardLoss", MULTI)], VOID),
    "twice": ([
        ("smp.DiceLoss", MULTI),
        ("smp.DiceLoss", MULTI | {"classes": [1, 2], "log_loss": True}),
        ("smp.TverskyLoss", MULTI | {"alpha": 0.3, "beta": 0.7, "gamma": 1.5}),
    ], VOID),
    "weights": ([
        ("nn.CrossEntropyLoss", WEIGHTED),
        ("vis4d.CrossEntropyLoss", {"class_weights": WEIGHTS}),
        ("vis4d.CrossEntropyLoss", {"reducer": "sum_loss"}),
        ("smp.FocalLoss", MULTI | {"class_weights": WEIGHTS, "alpha": 0.3}),
    ], VOID),
    "dict": ([
        ("vis4d.SegCrossEntropyLoss", {}),
        ("smp.SoftCrossEntropyLoss", {"smooth_factor": 0.1, "ignore_index": 255}),
    ], VOID),
    "none ignored": ([
        ("smp.DiceLoss", PLAIN),
        ("smp.FocalLoss", PLAIN),
        ("smp.SoftCrossEntropyLoss", {"smooth_factor": 0.0, "ignore_index": None}),
    ], LABELS),
    "sums": ([("nn.CrossEntropyLoss", {"reduction": "sum"}), ("nn.CrossEntropyLoss", {})], LABELS),
    "all ignored": ([
        ("nn.CrossEntropyLoss", {"ignore_index": 255}), ("smp.DiceLoss", MULTI),
    ], torch.full_like(LABELS, 255)),
    "binary": ([
        ("nn.BCEWithLogitsLoss", {}),
        ("smp.DiceLoss", BINARY),
        ("smp.FocalLoss", BINARY),
        ("smp.SoftBCEWithLogitsLoss", {"ignore_index": None}),
    ], MASK),
    "positive": ([
        ("nn.BCEWithLogitsLoss", {"tensors": {"pos_weight": [3.0]}}),
        ("smp.DiceLoss", BINARY | {"smooth": 1.0}),
    ], MASK),
    "elements": ([
        ("nn.MSELoss", {}),
        ("nn.L1Loss", {"reduction": "sum"}),
        ("nn.SmoothL1Loss", {}),
        ("nn.SmoothL1Loss", {"beta": 0.3}),
    ], X.roll(1, 0)),
}  # fmt: skip
