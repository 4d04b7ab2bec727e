"""isr_p and carl_loss against mmdet's."""

from types import SimpleNamespace

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet
from fastloss.testing import forbid_host_reads

upstream = references.or_skip(references.mmdet)

C = 4


class Coder:
    """Deltas of centres and sizes, in units of the boxes."""

    @staticmethod
    def decode(rois, deltas):
        size = rois[:, 2:] - rois[:, :2]
        centre = rois[:, :2] + size * (0.5 + deltas[:, :2])
        half = size * deltas[:, 2:].exp() / 2
        return torch.cat((centre - half, centre + half), 1)


def focal(score, label, reduction_override):
    """A loss per class, as FocalLoss has."""
    return mmdet.FocalLoss()(score[:, :C], label, reduction_override=reduction_override)


def softmax(score, label, reduction_override):
    assert reduction_override == "none"
    return torch.nn.functional.cross_entropy(score, label, reduction="none")


def case(per_class=False, columns=4, background=C):
    """Four images of 15 rows; the second has no positive. With 2 objects in the third, those of the
    fourth, all of class 0, get the numbers of objects of the first, one of that class, one not."""
    g = torch.Generator().manual_seed(7)

    def rand(*shape):
        return torch.rand(shape, generator=g, dtype=torch.float64)

    objects, labels = [], torch.full((60,), background)
    for image, (count, most) in enumerate(((9, 4), (0, 4), (6, 2), (11, 3))):
        rows = 15 * image + torch.randperm(15, generator=g)[:count].sort().values
        found = torch.randint(0, most, (count,), generator=g)
        objects.append(SimpleNamespace(pos_assigned_gt_inds=found))
        labels[rows] = found % 2 if image < 3 else 0
    corner = rand(60, 2)
    rois = torch.cat((corner, corner + 0.2 + rand(60, 2)), 1)
    rois = torch.cat((torch.zeros(60, 1), rois), 1)[:, 5 - columns :]
    score, pred = rand(60, C + 1) * 4 - 2, rand(60, 4 * C if per_class else 4) - 0.5
    targets = (labels, rand(60) + 0.5, (rand(60, 4) - 0.5) / 2, rand(60, 4))
    return score, pred, targets, rois.double(), objects


def cast(tree, dtype):
    if isinstance(tree, tuple):
        return tuple(cast(x, dtype) for x in tree)
    floats = isinstance(tree, torch.Tensor) and tree.is_floating_point()
    return tree.to(dtype, copy=True) if floats else tree


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k, bias", [(2, 0), (0.5, 0.3)])
@pytest.mark.parametrize("per_class, columns, loss", [(False, 4, focal), (True, 5, softmax)])
def test_isr_p(per_class, columns, loss, k, bias, dtype):
    arguments = cast(case(per_class, columns), dtype)
    options = {"loss_cls": loss, "bbox_coder": Coder, "k": k, "bias": bias, "num_class": C}
    score, pred, before = arguments[0].requires_grad_(), arguments[1].requires_grad_(), arguments[2]
    found = mmdet.isr_p(*arguments, **options)
    weights = before[1].clone()
    expected = upstream.isr_p(*cast(arguments, dtype), **options)
    assert torch.equal(before[1], weights)  # mmdet writes to them
    assert all(x is y for i, (x, y) in enumerate(zip(found, before, strict=True)) if i != 1)
    assert not found[1].requires_grad and found[1].dtype == expected[1].dtype
    assert not torch.equal(found[1], weights)
    torch.testing.assert_close(found[1], expected[1], rtol=64 * torch.finfo(dtype).eps, atol=0)
    assert score.grad is None and pred.grad is None


def test_isr_p_without_positives():
    score, pred, targets, rois, objects = case()
    targets = (torch.full((60,), C), *targets[1:])
    for images in (objects[1:2], objects):  # mmdet looks at the labels first
        found = mmdet.isr_p(score, pred, targets, rois, images, softmax, Coder, num_class=C)
        assert all(x is y for x, y in zip(found, targets, strict=True))


def test_isr_p_of_other_counts(monkeypatch):
    score, pred, targets, rois, objects = case()
    wrong = (score, pred, targets, rois, objects[:1], focal, Coder)
    for library in (mmdet, upstream):
        with pytest.raises(AssertionError):
            library.isr_p(*wrong, num_class=C)
    monkeypatch.setattr("fastloss.compat.mmdet.pisa.values_may_be_read", lambda tensor: False)
    right = mmdet.isr_p(score, pred, targets, rois, objects, focal, Coder, num_class=C)[1]
    with forbid_host_reads():
        again = mmdet.isr_p(score, pred, targets, rois, objects, focal, Coder, num_class=C)[1]
        nan = mmdet.isr_p(*wrong, num_class=C)[1]
    assert torch.equal(again, right) and nan.isnan().sum() == len(objects[0].pos_assigned_gt_inds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("options", [{}, {"k": 2, "bias": 0.5, "avg_factor": 9.0}], ids=len)
@pytest.mark.parametrize("loss", ["L1Loss", "SmoothL1Loss"])
def test_carl_loss(loss, options, per_class, sigmoid, dtype):
    score, pred, (labels, _, targets, _), _, _ = case(per_class, background=-1)
    both = (
        lambda *args, library=library: library.carl_loss(
            *args, getattr(library, loss)(), sigmoid=sigmoid, num_class=C, **options
        )["loss_carl"]
        for library in (mmdet, upstream)
    )
    assert_parity(*both, score, labels, pred, targets, dtype=dtype)


def test_carl_loss_of_a_loss_per_row():
    score, _, (labels, *_), rois, _ = case()
    both = (
        lambda *args, library=library: library.carl_loss(*args, library.GIoULoss(), num_class=C)[
            "loss_carl"
        ]
        for library in (mmdet, upstream)
    )
    assert_parity(*both, score, labels, rois, rois.roll(1, 0), dtype=torch.float64)


def test_carl_loss_leaks_nothing():
    """From rows that are no positives; from none at all."""
    score, pred, (labels, _, targets, _), _, _ = case()
    for kind in (labels, torch.full_like(labels, C), labels[:0]):
        other = (kind == C)[:, None]
        inputs = [x[: len(kind)].masked_fill(other, torch.nan) for x in (score, pred, targets)]
        leaves = [x.requires_grad_() for x in inputs]
        for sigmoid in (False, True):
            with forbid_host_reads():
                loss = mmdet.carl_loss(
                    leaves[0], kind, *leaves[1:], mmdet.L1Loss(), sigmoid=sigmoid, num_class=C
                )["loss_carl"]
                gradients = torch.autograd.grad(loss, leaves[:2], materialize_grads=True)
            assert loss.shape == (1,) and loss.isfinite() and (loss > 0) == (kind < C).any()
            for gradient in gradients:
                assert gradient.isfinite().all() and not gradient[kind == C].any()
