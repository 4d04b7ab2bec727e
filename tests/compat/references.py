"""Load the loss modules of the libraries that fastloss.compat mirrors, and nothing else of them.

The wheels of tests/compat/requirements.txt lie in ``.venv/references`` (or the folder named by the
environment variable FASTLOSS_REFERENCES), installed without dependencies. One function per library
returns its losses as a namespace. Where a loss module imports something that no loss computes with
(registries, image operators, training utilities), an empty stand-in takes its place, so no other
wheel is needed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.baselines.linear_assignment import linear_assignment

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("FASTLOSS_REFERENCES", ROOT / ".venv" / "references"))
INSTALL = f"pip install --no-deps --target {FOLDER} -r {Path(__file__).parent / 'requirements.txt'}"


class ReferenceMissing(ImportError):
    """A library is not installed at the mirrored version; the text has the command."""


def or_skip(load: Callable[[], types.SimpleNamespace]) -> types.SimpleNamespace:
    """The library that `load` returns; without it the test module is skipped, with the command."""
    import pytest

    try:
        return load()
    except ReferenceMissing as missing:
        pytest.skip(str(missing), allow_module_level=True)


@functools.cache
def mmdet() -> types.SimpleNamespace:
    """mmdet.models.losses 3.3.0: every public class and function of its files; bbox_overlaps."""
    package = _locate("mmdet", "3.3.0")

    # The __init__ of these would import the whole of mmdet; their submodules load from the wheel.
    task_modules = "mmdet.models.task_modules"
    packages = ("mmdet", "mmdet.models", "mmdet.structures", "mmdet.structures.bbox", task_modules)
    for name in (*packages, f"{task_modules}.assigners"):
        _stand_in(name, package.joinpath(*name.split(".")[1:]))
    bbox = sys.modules["mmdet.structures.bbox"]
    bbox.BaseBoxes = type("BaseBoxes", (), {})
    for name in ("bbox_overlaps", "transforms"):
        vars(bbox).update(_defined_in(importlib.import_module(f"{bbox.__name__}.{name}")))

    registry = _Registry()
    _stand_in("mmdet.registry", MODELS=registry, TASK_UTILS=registry)
    _stand_in("mmdet.utils", reduce_mean=lambda tensor: tensor)
    _stand_in("mmdet.models.utils", multi_apply=_multi_apply)
    _stand_in("mmdet.models.task_modules.coders", BaseBBoxCoder=object)
    _stand_in("mmdet.models.task_modules.samplers", SamplingResult=object)
    _stand_in("mmengine")
    _stand_in("mmengine.logging", print_log=lambda *args, **kwargs: None)
    _stand_in("mmengine.model", BaseModule=torch.nn.Module)
    instances = types.SimpleNamespace
    _stand_in("mmengine.structures", BaseDataElement=instances, InstanceData=instances)
    _stand_in("mmcv")
    _stand_in("mmcv.ops", sigmoid_focal_loss=_mmcv_sigmoid_focal_loss)

    losses = importlib.import_module("mmdet.models.losses")
    namespace = types.SimpleNamespace(
        bbox_overlaps=bbox.bbox_overlaps, public_names=tuple(losses.__all__)
    )
    for file in sorted(package.glob("models/losses/[!_]*.py")):
        vars(namespace).update(_defined_in(sys.modules[f"{losses.__name__}.{file.stem}"]))
    costs = importlib.import_module(f"{task_modules}.assigners.match_cost")
    namespace.matching_cost = functools.partial(_matching_cost, costs, bbox)
    namespace.hungarian_match = functools.partial(_hungarian_match, namespace.matching_cost)
    namespace.equalized = functools.partial(_equalized, namespace.EQLV2Loss)
    return namespace


def _equalized(*args: Any, **options: Any) -> torch.Tensor:
    from bench.tables import equalized

    return equalized(*args, **options)


def _hungarian_match(cost: Callable[..., torch.Tensor], *args: Any, **options: Any) -> torch.Tensor:
    """HungarianAssigner: the costs of each image, and SciPy."""
    return linear_assignment(cost(*args, **options), args[-1])


def _matching_cost(
    costs: types.ModuleType,
    bbox: types.ModuleType,
    logits: torch.Tensor,
    boxes: torch.Tensor,
    labels: torch.Tensor,
    target_boxes: torch.Tensor,
    mask: torch.Tensor,
    *,
    cls_cost: str,
    cls_weight: float,
    l1_weight: float,
    iou_weight: float,
    iou_kind: str = "giou",
    box_format: str = "cxcywh",
    focal_eps: float = 1e-12,
) -> torch.Tensor:
    """What HungarianAssigner sums for each image, put together as fastloss's `matching_cost` does.

    mmdet's boxes are xyxy, and its L1 cost "xywh" is that of their centres and sizes.
    """
    if cls_cost == "softmax":
        class_cost = costs.ClassificationCost(cls_weight)
    else:
        class_cost = costs.FocalLossCost(eps=focal_eps, weight=cls_weight)
    l1_cost = costs.BBoxL1Cost("xywh" if box_format == "cxcywh" else "xyxy", l1_weight)
    terms = class_cost, l1_cost, costs.IoUCost(iou_kind, iou_weight)
    corners = bbox.bbox_cxcywh_to_xyxy if box_format == "cxcywh" else lambda x: x
    result = boxes.new_zeros(*boxes.shape[:2], mask.shape[1])
    for b in range(len(boxes)):
        pred = types.SimpleNamespace(scores=logits[b], bboxes=corners(boxes[b]))
        real = mask[b]
        gt = types.SimpleNamespace(labels=labels[b, real], bboxes=corners(target_boxes[b, real]))
        meta = {"img_shape": (1, 1)}
        result[b][:, real] = torch.stack([term(pred, gt, meta) for term in terms]).sum(0)
    return result


class _Registry(dict):
    """Classes by name: what mmdet registers, builds."""

    def register_module(self, *args: Any, **kwargs: Any) -> Callable[[type], type]:
        return lambda cls: self.setdefault(cls.__name__, cls)

    def build(self, config: dict[str, Any]) -> Any:
        return self[config["type"]](**{k: v for k, v in config.items() if k != "type"})


def _multi_apply(function: Callable[..., Any], *args: Any) -> tuple[list, ...]:
    return tuple(map(list, zip(*map(function, *args), strict=True)))


@functools.cache
def mmdet_assigners() -> types.SimpleNamespace:
    """mmdet.models.task_modules 3.3.0: MaxIoUAssigner, TopkHungarianAssigner, PseudoSampler."""
    mmdet()  # for the stand-ins and bbox_overlaps
    package = _locate("mmdet", "3.3.0")
    folder = "mmdet.models.task_modules"
    utils = sys.modules["mmdet.utils"]
    utils.util_mixins, utils.ConfigType = types.SimpleNamespace(NiceRepr=object), dict
    _stand_in("mmdet.utils.util_random", ensure_rng=None)
    sys.modules["mmdet.structures.bbox"].get_box_tensor = lambda boxes: boxes
    assigners = sys.modules[f"{folder}.assigners"]
    results = importlib.import_module(f"{folder}.assigners.assign_result")
    assigners.AssignResult = results.AssignResult
    samplers = sys.modules[f"{folder}.samplers"]
    samplers.__path__ = [str(package / "models" / "task_modules" / "samplers")]
    names = "assigners.iou2d_calculator assigners.max_iou_assigner"
    names += " assigners.topk_hungarian_assigner samplers.pseudo_sampler"
    modules = (importlib.import_module(f"{folder}.{name}") for name in names.split())
    return types.SimpleNamespace(**{k: v for m in modules for k, v in _defined_in(m).items()})


@functools.cache
def smp() -> types.SimpleNamespace:
    """segmentation_models_pytorch.losses 0.6.0: its public names, and `_functional`."""
    package = _locate("segmentation-models-pytorch", "0.6.0", "segmentation_models_pytorch")

    # The __init__ would import timm, torchvision and every model; losses/ imports only torch.
    _stand_in("segmentation_models_pytorch", package)
    losses = importlib.import_module("segmentation_models_pytorch.losses")
    functional = sys.modules["segmentation_models_pytorch.losses._functional"]
    public = {name: getattr(losses, name) for name in losses.__all__}
    return types.SimpleNamespace(**public, _functional=functional)


@functools.cache
def uotod() -> types.SimpleNamespace:
    """uotod 0.3.post2: its subpackages `loss`, `match` and `utils`; `sinkhorn`, which both of its
    Sinkhorn matchers run, with the arguments of fastloss's; `detection_loss`, a step of its
    DetectionLoss."""
    _locate("uotod", "0.3.post2")
    sys.modules.setdefault("uotod.sample", types.ModuleType("uotod.sample"))  # lacks its pictures
    parts = {name: importlib.import_module(f"uotod.{name}") for name in ("loss", "match", "utils")}
    from bench.detection import detection_loss

    library = types.SimpleNamespace(**parts)
    library.sinkhorn = functools.partial(_sinkhorn, library.match)
    library.detection_loss = functools.partial(detection_loss, library)
    return library


@functools.cache
def pot() -> types.ModuleType:
    """POT 0.9.7.post1, which two matchers call."""
    _locate("POT", "0.9.7.post1", "ot")
    return importlib.import_module("ot")


def _sinkhorn(
    match: types.ModuleType,
    cost: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    reg: float,
    num_iter: int,
    tau_a: float | None = None,
    tau_b: float | None = None,
) -> torch.Tensor:
    if tau_a is None and tau_b is None:
        matcher = match.BalancedSinkhorn(loc_match_module=torch.nn.L1Loss(reduction="none"))
        return matcher._sinkhorn_python(a, b, cost, reg, num_iter)
    matcher = match.UnbalancedSinkhorn(loc_match_module=torch.nn.L1Loss(reduction="none"))
    return matcher._sinkhorn_python(a, b, cost, reg, num_iter, tau_a, tau_b)


@functools.cache
def vis4d() -> types.SimpleNamespace:
    """vis4d.op.loss 1.0.0: every public class and function of its files; `embedding_distance`, its
    class on copies of the arguments."""
    package = _locate("vis4d", "1.0.0")
    _stand_in("vis4d.op.box", package / "op" / "box")  # its __init__ would import every model
    _stand_in("torchvision")
    _stand_in("torchvision.ops", batched_nms=None, nms=None)
    _stand_in("vis4d.common.logging", rank_zero_warn=print)
    _stand_in("vis4d.op.geometry.transform", transform_points=None)
    losses = importlib.import_module("vis4d.op.loss")
    namespace = types.SimpleNamespace()
    for file in sorted(package.glob("op/loss/[!_]*.py")):
        module = importlib.import_module(f"{losses.__name__}.{file.stem}")
        vars(namespace).update(_defined_in(module))
    namespace.embedding_distance = functools.partial(
        _embedding_distance, namespace.EmbeddingDistanceLoss
    )
    return namespace


@functools.cache
def vis4d_engine() -> types.SimpleNamespace:
    """vis4d.engine 1.0.0: LossModule, LossConnector and the functions of its connectors;
    `loss_module`, a step of its LossModule with losses of smp."""
    vis4d()  # for the stand-ins
    package = _locate("vis4d", "1.0.0")
    _stand_in("vis4d.data", package / "data")  # its __init__ would import every data set
    module = importlib.import_module("vis4d.engine.loss_module")
    connectors = importlib.import_module("vis4d.engine.connectors")
    return types.SimpleNamespace(
        **vars(connectors), **_defined_in(module), loss_module=_loss_module
    )


def _loss_module(*args: torch.Tensor, **options: Any) -> tuple[torch.Tensor, dict[str, float]]:
    from bench.loss_module import loss_module

    smp()
    names = ("vis4d.engine.loss_module", "segmentation_models_pytorch.losses")
    return loss_module(*(sys.modules[name] for name in names), *args, **options)


def _embedding_distance(
    loss: type[torch.nn.Module],
    pred: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """On copies: upstream writes to its arguments, which a leaf with a gradient refuses."""
    return loss(**options)(*(x if x is None else x.clone() for x in (pred, target, weight)))


def _mmcv_sigmoid_focal_loss(logits, labels, gamma, alpha, weight, reduction):
    """mmcv's operator is a CUDA kernel; mmdet's own PyTorch version has the same values.

    logits (N, C), labels (N,) int64 with background = C.
    """
    num_classes = logits.size(1)
    one_hot = F.one_hot(labels, num_classes + 1)[:, :num_classes]  # (N, C)
    focal = sys.modules["mmdet.models.losses.focal_loss"]
    return focal.py_sigmoid_focal_loss(logits, one_hot, weight, gamma, alpha, reduction)


def _locate(name: str, version: str, folder: str | None = None) -> Path:
    """The folder of an installed package, found without importing it; its name if not `folder`."""
    # Last, so that nothing installed there can shadow torch or numpy.
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ReferenceMissing(f"{name} {version} is not installed: {INSTALL}") from None
    found = distribution.version
    if found != version:
        raise ReferenceMissing(f"{name} {version} is mirrored, {found} is installed: {INSTALL}")
    return Path(distribution.locate_file(folder or name))


def _stand_in(name: str, path: Path | None = None, **attributes: object) -> None:
    """Put an empty module into sys.modules; its submodules are importable from `path`."""
    module = types.ModuleType(name)
    # An empty search path still marks a package, so that stand-ins for its submodules are found.
    module.__path__ = [] if path is None else [str(path)]
    module.__dict__.update(attributes)
    sys.modules[name] = module


def _defined_in(module: types.ModuleType) -> dict[str, Callable]:
    """Classes and functions of a module, without what it imports."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    }
