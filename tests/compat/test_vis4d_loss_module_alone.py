"""LossModule calls itself what one pass cannot hold, and whatever a user has changed."""

import functools

import pytest
import torch
from loss_module_cases import LABELS, MASK, WEIGHTS, C, X, connector, module
from torch import nn

from fastloss import losses as native
from fastloss.compat import smp, vis4d
from fastloss.compat.vis4d.loss_module.passes import run


class Derived(smp.DiceLoss):
    pass


class Own(nn.MSELoss):
    def forward(self, input, target):
        return 10 * super().forward(input, target)


def with_hook(loss, register="register_forward_hook"):
    getattr(loss, register)(lambda *args: None)
    return loss


def with_forward(loss):
    loss.forward = lambda input, target: input.sum()
    return loss


DICE = functools.partial(smp.DiceLoss, "multiclass")


@pytest.mark.parametrize("loss,reason", [
    (lambda: Derived("multiclass"), "not a known class"),
    (lambda: smp.LovaszLoss("multiclass"), "not a known class"),
    (lambda: with_hook(DICE()), "hooks"),
    (lambda: with_hook(DICE(), "register_forward_pre_hook"), "hooks"),
    (lambda: with_hook(DICE(), "register_full_backward_hook"), "hooks"),
    (lambda: with_hook(DICE(), "register_full_backward_pre_hook"), "hooks"),
    (lambda: DICE(ignore_index=1), "ignore_index None, not 1"),
    (lambda: DICE(from_logits=False), "from_logits True, not False"),
    (lambda: smp.SoftCrossEntropyLoss(smooth_factor=0.1), "ignore_index"),
    (lambda: smp.SoftCrossEntropyLoss("none", 0.1), "none of a shared pass"),
    (lambda: smp.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=None, dim=2), "none of a"),
    (lambda: smp.FocalLoss("multiclass", gamma=1.0), "gamma of sigmoid_focal 2.0, not 1.0"),
    (lambda: smp.FocalLoss("multiclass", alpha=0.5), "alpha of sigmoid_focal None, not 0.5"),
    (lambda: smp.FocalLoss("multiclass", reduced_threshold=0.5), "reduced_threshold"),
    (lambda: smp.FocalLoss("multiclass", from_logits=False), "none of a shared pass"),
    (lambda: nn.CrossEntropyLoss(), "ignore_index None, not -100"),
    (lambda: nn.CrossEntropyLoss(torch.ones(C)), "none of a shared pass"),  # of another dtype
    (lambda: nn.CrossEntropyLoss(reduction="none"), "none of a shared pass"),
    (lambda: vis4d.CrossEntropyLoss(lambda loss: loss.mean()), "none of a shared pass"),
    (lambda: native.DiceLoss(group=3), "none of a shared pass"),
    (lambda: native.CrossEntropyLoss(reduction="none"), "none of a shared pass"),
])  # fmt: skip
def test_alone(loss, reason, monkeypatch):
    """A loss that one pass with Dice and focal cannot hold is called itself."""
    loss = loss()
    losses = module(vis4d, [DICE(), smp.FocalLoss("multiclass"), loss]).losses
    assert planned(losses, LABELS, monkeypatch) == [loss]
    _, passes = run(losses, {"x": X}, {"y": LABELS})
    assert [len(one.names) for one in passes] == [2, 1] and reason in passes[1].text


def planned(losses, y, monkeypatch, x=X):
    """The losses that are called themselves; instead of calling them, they are listed."""
    called = []
    monkeypatch.setattr(nn.Module, "__call__", lambda self, **inputs: called.append(self))
    run(losses, {"x": x}, {"y": y})
    return called


@pytest.mark.parametrize("loss", [
    lambda: Own(),
    lambda: with_forward(nn.MSELoss()),
    lambda: with_hook(nn.MSELoss()),
    lambda: nn.MSELoss(reduction="none"),
    lambda: nn.SmoothL1Loss(beta=0.0),
    lambda: native.RegressionLoss(kind="balanced_l1"),
    lambda: nn.HuberLoss(),
    lambda: nn.BCEWithLogitsLoss(),  # of pixels
])  # fmt: skip
def test_elements_alone(loss, monkeypatch):
    loss = loss()
    losses = module(vis4d, [nn.MSELoss(), loss, nn.L1Loss()]).losses
    assert planned(losses, X, monkeypatch) == [loss]


@pytest.mark.parametrize("x,y", [
    (X, X[:1]),  # broadcast
    (X, X.long()),
    (X[:0], X[:0]),
    (X.to_sparse(), X.to_sparse()),
    (X, torch.nn.utils.rnn.pack_padded_sequence(X[0], [6] * 4, enforce_sorted=False)),
    (X, X.to("meta")),
    (X.to(torch.complex128), X),
], ids=["broadcast", "integer", "empty", "sparse", "no tensor", "devices", "complex"])  # fmt: skip
def test_tensors_that_are_not_read_together(x, y, monkeypatch):
    losses = module(vis4d, [nn.MSELoss(), nn.L1Loss()]).losses
    called = planned(losses, y, monkeypatch, x)
    assert called == [losses[0]["loss"], losses[1]["loss"]]


def test_hooks_on_all_modules(monkeypatch):
    losses = module(vis4d, [nn.MSELoss(), nn.L1Loss()]).losses
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        assert len(planned(losses, X, monkeypatch)) == 2
    finally:
        handle.remove()


def test_a_forward_that_a_class_is_given(monkeypatch):
    monkeypatch.setattr(nn.MSELoss, "forward", lambda self, input, target: input.sum())
    _, metrics = module(vis4d, [nn.MSELoss(), nn.L1Loss()])({"x": X}, {"y": X.roll(1, 0)})
    assert metrics["MSELoss"] == pytest.approx(float(X.sum()), rel=1e-12)


def test_users_results_are_kept():
    """What a derived class, a hook and a forward of its own return is what is summed."""
    hooked = nn.MSELoss()
    hooked.register_forward_hook(lambda module, args, result: 100 * result)
    ours = module(vis4d, [Own(), hooked, with_forward(nn.MSELoss()), nn.MSELoss(), nn.L1Loss()])
    y = X.roll(1, 0)
    _, metrics = ours({"x": X}, {"y": y})
    mse, l1 = float((X - y).square().mean()), float((X - y).abs().mean())
    expected = [10 * mse, 100 * mse, float(X.sum()), mse, l1]
    assert list(metrics.values())[:-1] == pytest.approx(expected, rel=1e-12)
    assert ours.plan.splitlines() == [
        "Own: alone, not a known class",
        "MSELoss: alone, has hooks or a forward of its own",
        "MSELoss: alone, has hooks or a forward of its own",
        "MSELoss, L1Loss: one pass over the elements",
    ]


def test_other_arguments():
    """A connector that gives more, or other tensors, is not overruled."""
    keys = {"output": "p.x", "target": "d.y", "ignore_index": "d.ignored"}
    definitions = [
        {"loss": vis4d.CrossEntropyLoss(), "connector": connector(vis4d, **keys)},
        {"loss": DICE(), "connector": connector(vis4d, y_pred="p.x", y_true="d.y")},
        {"loss": DICE(), "connector": connector(vis4d, y_pred="p.copy", y_true="d.y")},
    ]
    ours = vis4d.LossModule(definitions)
    _, metrics = ours({"x": X, "copy": X.clone()}, {"y": LABELS, "ignored": 1})
    assert ours.plan.count("alone") == 3 and "other arguments" in ours.plan
    expected = float(vis4d.CrossEntropyLoss()(X, LABELS, ignore_index=1))
    assert metrics["CrossEntropyLoss"] == pytest.approx(expected, rel=1e-12)


class Tagged(torch.Tensor):
    pass


BCE, CE = nn.BCEWithLogitsLoss, nn.CrossEntropyLoss
ONE, LEARNT = X[:, :1], nn.Parameter(torch.ones(1).double())


@pytest.mark.parametrize("losses,x,y", [
    ([BCE(pos_weight=LEARNT), BCE()], ONE, MASK),
    ([BCE(weight=torch.ones(1).double()), BCE()], ONE, MASK),
    ([CE(weight=torch.tensor(WEIGHTS)), CE()], X, LABELS),  # float32: an error in torch
    ([CE(label_smoothing=1.5), CE()], X, LABELS),
    ([CE(), CE()], X, LABELS.int()),
    ([CE(), CE()], X, X.softmax(1)),
    ([native.CrossEntropyLoss(), native.DiceLoss()], X, LABELS.double()),
    ([vis4d.CrossEntropyLoss(), vis4d.CrossEntropyLoss()], X, LABELS.double()),
    ([vis4d.CrossEntropyLoss(class_weights=[1.0]), vis4d.CrossEntropyLoss()], X, LABELS),
    ([nn.MSELoss(), nn.L1Loss()], X.as_subclass(Tagged), X),
    ([nn.MSELoss(), BCE()], X, X.sigmoid()),  # of two kinds of passes
])  # fmt: skip
def test_what_torch_has_to_answer_for(losses, x, y, monkeypatch):
    called = planned(module(vis4d, losses).losses, y, monkeypatch, x)
    assert called == losses


@pytest.mark.parametrize("losses", [[nn.MSELoss(), nn.L1Loss()], [CE(), CE()]], ids=["MSE", "CE"])
def test_other_targets_of_the_same_prediction(losses):
    y = (X.roll(1, 0), X.roll(2, 1)) if type(losses[0]) is nn.MSELoss else (LABELS, 3 - LABELS)
    made = [
        {"loss": loss, "connector": connector(vis4d, input="p.x", target=f"d.{i}")}
        for i, loss in enumerate(losses)
    ]
    _, metrics = vis4d.LossModule(made)({"x": X}, {"0": y[0], "1": y[1]})
    expected = [float(loss(X, target)) for loss, target in zip(losses, y)]
    assert list(metrics.values())[:-1] == pytest.approx(expected, rel=1e-12)


def test_metrics_keep_no_graph():
    """Nobody has to look at them for the memory of a step to be freed."""
    x = X.clone().requires_grad_()
    _, metrics = module(vis4d, [nn.MSELoss(), nn.L1Loss()])({"x": x}, {"y": X})
    assert not any(value.requires_grad for value in metrics._waiting.values())
