"""Assignment of boxes to the targets that they overlap most, without the matrix of overlaps."""

from torch import Tensor

from .._library import register
from ..reference import iou_match as reference
from . import _arguments as check

_op = register(
    "iou_match",
    "(Tensor boxes, Tensor target_boxes, Tensor? mask, float positive, float negative, "
    "float min_positive, bool low_quality, str low_quality_index, float eps, bool widen)",
    reference.forward,
    returns="(Tensor, Tensor)",
)


def iou_match(
    boxes: Tensor,
    target_boxes: Tensor,
    mask: Tensor | None = None,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    min_positive: float = 0.0,
    low_quality: bool = True,
    low_quality_index: str = "target",
    eps: float = 1e-7,
) -> tuple[Tensor, Tensor]:
    r"""Max-IoU assignment of boxes (anchors, proposals, predictions) to the targets of each image.

    A box whose best IoU is at least `positive` goes to the first target that has it; it is negative
    where its best IoU is below `negative`, and ignored between the two. With `low_quality`, each
    target whose best IoU over all boxes is at least `min_positive` takes in addition the boxes that
    have exactly this IoU with it. No B x N x M tensor is made: memory grows with N + M, and by
    one number for each target and 1024 boxes.

    With the default `min_positive` of 0 a target that overlaps no box at all has the best IoU 0 and
    takes every box of its image, unless a later target takes the box (so does mmdet). Any positive
    `min_positive` prevents that.

    IoU is I / max(U, eps), each operation rounded once, so that results equal those of PyTorch's
    own operations bit for bit, ties included. Half precision is computed and compared in float32.

    It takes the place of `assign_wrt_overlaps` of mmdet's MaxIoUAssigner, for all images of a batch
    at once: pos_iou_thr is `positive`, neg_iou_thr `negative`, min_pos_iou `min_positive`,
    match_low_quality `low_quality`, with ``eps=1e-6``. mmdet's ``gt_inds`` (0 negative, -1 ignored,
    targets from 1) are ``index + 1``, its ``max_overlaps`` are `iou`. Its gt_max_assign_all=False,
    ignore_iof_thr and the tuple form of neg_iou_thr are not here.

    Args:
        boxes: (B, N, 4), or (N, 4) for the same boxes in all images; x1 y1 x2 y2, floating point.
            A box with a coordinate that is not finite is ignored and counts for no target.
        target_boxes: (B, M, 4), likewise. A target with a coordinate that is not finite does not
            exist. Different floating dtypes are promoted.
        mask: (B, M), bool: which targets exist; None: all. What the others hold does not matter.
        positive: IoU from which a box is positive.
        negative: IoU below which a box is negative, at most `positive`.
        min_positive: Least best IoU of a target for its low-quality matches.
        low_quality: Whether there are low-quality matches.
        low_quality_index: "target": such a box goes to the target that takes it, to the last of
            several (mmdet). "box": to the box's own best target (torchvision, detectron2, vis4d).
        eps: Floor of the union, >= 0.

    Returns:
        index: (B, N), int64: the target's number in `target_boxes`, -1 negative, -2 ignored. In an
            image without targets every finite box is negative, whatever the thresholds.
        iou: (B, N): the best IoU of each box with a target, 0 without targets; NaN for a box that
            is not finite. In the input's dtype (float32 for half inputs under autocast).
        Neither has a gradient.

    Raises:
        TypeError: boxes are not floating point, `mask` is not bool, a threshold is not a number,
            `low_quality` not a bool.
        ValueError: wrong shape, batch sizes that differ, different devices, a threshold that is not
            finite, positive < negative, an unknown `low_quality_index`, negative eps.

    Source: MaxIoUAssigner of mmdet 3.3.0; rules in `fastloss/reference/iou_match.py`.
    """
    check.floating("boxes", boxes)
    check.floating("target_boxes", target_boxes)
    if boxes.dim() not in (2, 3) or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must have shape (B, N, 4) or (N, 4), got {tuple(boxes.shape)}")
    if target_boxes.dim() != 3 or target_boxes.shape[-1] != 4:
        raise ValueError(f"target_boxes must have shape (B, M, 4), got {tuple(target_boxes.shape)}")
    check.tensor_on("target_boxes", target_boxes, "boxes", boxes)
    if boxes.dim() == 3 and len(boxes) != len(target_boxes):
        raise ValueError(
            f"target_boxes must have the batch size of boxes, {len(boxes)}, got {len(target_boxes)}"
        )
    if mask is not None:
        check.mask("mask", mask, target_boxes.shape[:2], "boxes", boxes)
    positive, negative = check.number("positive", positive), check.number("negative", negative)
    if positive < negative:
        raise ValueError(f"positive must be at least negative, {negative:g}, got {positive:g}")
    min_positive = check.number("min_positive", min_positive)
    low_quality = check.flag("low_quality", low_quality)
    check.choice("low_quality_index", low_quality_index, reference.RULES)
    eps = check.at_least("eps", eps, 0)
    boxes, target_boxes = check.promote(boxes.detach(), target_boxes.detach())
    widen = check.under_autocast(boxes)
    thresholds = (positive, negative, min_positive)
    return _op(boxes, target_boxes, mask, *thresholds, low_quality, low_quality_index, eps, widen)
