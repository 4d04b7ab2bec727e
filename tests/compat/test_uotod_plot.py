"""Figures of fastloss.compat.uotod's matchers: what is in them."""

import sys

import pytest
import torch
from torch import nn
from uotod_cases import batch

from fastloss.compat import uotod as ours

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
L1 = nn.L1Loss(reduction="none")
IMG = torch.zeros(40, 60, 3)


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def called(**options):
    matcher = ours.Hungarian(loc_match_module=L1, **options)
    input, target = batch(counts=(5, 2, 1))
    order = [1, 0, 4, 2, 3]  # padding in between
    target = {name: x[:, order] for name, x in target.items()}
    return matcher, matcher(input, target)


def table(figure, at=0):
    """Shown numbers, row and column labels, title."""
    ax = figure.axes[at]
    (image,) = ax.images
    texts = [[label.get_text() for label in labels] for labels in
             (ax.get_yticklabels(), ax.get_xticklabels())]  # fmt: skip
    return torch.tensor(image.get_array().filled()), *texts, ax.get_title()


def test_tables():
    matcher, matching = called()
    image, cost, match = matcher.plot(idx=1)
    assert image is None
    columns = [0, 1, 5]  # A and B are real in this image
    for figure, values in ((cost, matcher._last_cost), (match, matching)):
        shown, rows, labels, _ = table(figure)
        assert torch.equal(shown, values[1][:, columns])
        assert rows == [str(i) for i in range(1, 10)] and labels == ["A", "B", r"$\varnothing$"]
        assert figure.axes[0].get_ylabel() == "Predictions" and len(figure.axes) == 2
    assert (cost.get_suptitle(), match.get_suptitle()) == ("Cost", "Match")
    colours = [label.get_color() for label in match.axes[0].get_xticklabels()]
    assert colours[2] == "black" and len(set(colours)) == 3


def test_padding_is_left_out():
    matcher, matching = called()
    mask = matcher._last_target["mask"][2]
    assert mask.tolist() == [False, True, False, False, False]
    shown, _, labels, _ = table(matcher.plot(idx=2)[2])
    assert labels[0] == "B" and torch.equal(shown, matching[2][:, [1, 5]])


def test_predictions_of_the_background_are_left_out():
    matcher, matching = called()
    image, cost, match = matcher.plot(idx=1, img=IMG, max_background_match=0.5)
    rows = (matching[1, :, -1] == 0).nonzero().flatten()
    assert len(rows) == 2
    for figure, values in ((cost, matcher._last_cost), (match, matching)):
        shown, names, *_ = table(figure)
        assert names == [str(i + 1) for i in rows.tolist()]
        assert torch.equal(shown, values[1][rows][:, [0, 1, 5]])
    # A veil, two targets and two predictions, these named.
    ax = image.axes[0]
    assert len(ax.patches) == 5 and [x.get_text() for x in ax.texts] == ["A", "B"] + [
        str(i + 1) for i in rows.tolist()
    ]
    box = matcher._last_target["boxes"][1, 0]
    patch = ax.patches[1]
    found = [*patch.get_xy(), patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height()]
    torch.testing.assert_close(torch.tensor(found), box)
    assert list(image.get_size_inches() * image.dpi) == [60, 40]


@pytest.mark.parametrize("options,count", [
    ({}, 2), ({"plot_cost": False}, 1), ({"plot_match": False}, 1), ({"img": IMG}, 3),
    ({"img": [None, IMG.numpy(), None], "plot_cost": False, "plot_match": False}, 1),
])  # fmt: skip
def test_which_figures(options, count):
    matcher, _ = called()
    figures = matcher.plot(1, **options)
    assert len(figures) == 3 and sum(x is not None for x in figures) == count
    assert (figures[0] is None) == ("img" not in options)


def test_without_a_background():
    matcher, matching = called()
    shown, _, labels, _ = table(matcher.plot(1, background=False)[2])
    assert labels == ["A", "B"] and torch.equal(shown, matching[1][:, :2])
    matcher, matching = called(background=False)
    with pytest.warns(UserWarning, match="no background to plot"):
        shown, rows, labels, _ = table(matcher.plot(1, max_background_match=0.5)[2])
    assert labels == ["A", "B"] and len(rows) == 9 and torch.equal(shown, matching[1][:, :2])


def test_erase_and_nothing_saved():
    matcher, _ = called()
    matcher.plot(erase=True)
    for nothing in (matcher, ours.Hungarian(loc_match_module=L1)):
        with pytest.raises(AssertionError, match="nothing to plot: call the matcher first"):
            nothing.plot()


def test_many_targets_and_no_mask():
    input, target = batch(counts=(30,), columns=30)
    matcher = ours.SoftMin(loc_match_module=L1)
    matcher(input, {**target, "mask": None})
    labels = table(matcher.plot()[1])[2]
    assert labels[:2] + labels[24:29] == ["A", "B", "Y", "Z", "AA", "BB", "CC"]
    matcher(*batch(torch.bfloat16))
    assert table(matcher.plot()[2])[0].shape == (9, 6)


def test_what_has_a_gradient():
    input, target = batch()
    input["pred_boxes"].requires_grad_()
    matcher = ours.SoftMin(loc_match_module=L1)
    matcher(input, target, cost_matrix=matcher.compute_cost_matrix(input, target))
    assert all(matcher.plot(img=IMG))


def summed(same_cost):
    modules = [ours.Hungarian(loc_match_module=L1), ours.SoftMin(loc_match_module=L1)]
    options = {"weights": [1, 0.5], "same_cost": same_cost}
    matcher = ours.WeightedSum(matching_modules=modules, loc_match_module=L1, **options)
    matcher(*batch(counts=(5, 2, 1)))
    return matcher


def test_sums():
    matcher = summed(same_cost=False)
    costs, matchings = matcher._last_cost, matcher._last_matchings
    with pytest.warns(UserWarning, match="a cost of its own"):
        assert matcher.plot(1)[1] is None
    figures = matcher.plots_individual(1)
    for figure, values, what in zip(figures, (costs, matchings), ("Costs", "Matches")):
        assert figure.get_suptitle() == f"{what} in WeightedSum"
        for at, (value, name) in enumerate(zip(values, ("Hungarian", "SoftMin"))):
            shown, _, labels, title = table(figure, at)
            assert torch.equal(shown, value[1][:, [0, 1, 5]]) and labels[:2] == ["A", "B"]
            assert title == f"{name}\n(weight: {(1, 0.5)[at]})"
        assert len({ax.images[0].get_clim() for ax in figure.axes[:2]}) == 1
    with pytest.raises(AssertionError, match="nothing to plot"):
        matcher.plots_individual()  # erased
    matcher = summed(same_cost=True)
    with pytest.warns(UserWarning, match="the same cost"):
        assert matcher.plots_individual(0, erase=False)[0] is None
    assert matcher.plots_individual(0, plot_costs=False, plot_matches=False) == (None, None)


def test_matplotlib_is_needed(monkeypatch):
    matcher, _ = called()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="plots need matplotlib"):
        matcher.plot()
