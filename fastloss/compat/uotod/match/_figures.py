"""Figures of matchers: boxes on the image, costs and matchings as tables. Predictions are numbered
from 1, targets are lettered from A."""

from __future__ import annotations

import string
import warnings
from typing import Any

import torch
from torch import Tensor

FONT_SIZE = 20
# Targets are filled, in a colour that lets the others through, on an image that is made pale.
FILL_ALPHA, VEIL_ALPHA = 0.2, 0.6
BACKGROUND = r"$\varnothing$"


def of_matcher(
    matcher: Any,
    idx: int,
    img: Any,
    plot_cost: bool,
    plot_match: bool,
    max_background_match: float,
    background: bool,
    erase: bool,
) -> tuple[Any, Any, Any]:
    """See `_Match.plot`."""
    background = _check(matcher, background)
    matching = _on_host(matcher._last_match, idx)  # (P, T + 1 or T)
    columns = _real(matcher, idx)
    rows = torch.ones(len(matching), dtype=torch.bool)
    if matcher.background:
        rows = matching[:, -1] <= max_background_match
    figures: list[Any] = [None, None, None]
    if img is not None:
        assert matcher._last_input is not None, "there are no boxes to plot: the input was None"
        predicted = _on_host(matcher._last_input["pred_boxes"], idx)
        targets = _on_host(matcher._last_target["boxes"], idx)
        image = img[idx] if isinstance(img, list) else img
        figures[0] = _image(image, predicted, targets, rows, columns)
    if plot_cost:
        cost = _on_host(matcher._last_cost, idx)
        figures[1] = _tables([cost], "Cost", [""], "Oranges", rows, columns, background)
    if plot_match:
        figures[2] = _tables([matching], "Match", [""], "Greys", rows, columns, background)
    if erase:
        matcher._forget()
    return tuple(figures)


def of_sum(
    matcher: Any, idx: int, plot_costs: bool, plot_matches: bool, background: bool, erase: bool
) -> tuple[Any, Any]:
    """See `WeightedSum.plots_individual`."""
    background = _check(matcher, background)
    names = [
        f"{type(module).__name__}\n(weight: {weight})"
        for module, weight in zip(matcher.matching_modules, matcher.weights)
    ]
    rows, columns = torch.ones(len(matcher._last_match[idx]), dtype=torch.bool), _real(matcher, idx)
    figures: list[Any] = [None, None]
    if plot_costs:
        costs = [_on_host(cost, idx) for cost in matcher._last_cost]
        title = "Costs in WeightedSum"
        figures[0] = _tables(costs, title, names, "Oranges", rows, columns, background)
    if plot_matches:
        matchings = [_on_host(matching, idx) for matching in matcher._last_matchings]
        title = "Matches in WeightedSum"
        figures[1] = _tables(matchings, title, names, "Greys", rows, columns, background)
    if erase:
        matcher._forget()
    return tuple(figures)


def _check(matcher: Any, background: bool) -> bool:
    """Whether to draw the background; raises if there is nothing to draw."""
    assert matcher._last_match is not None, (
        "there is nothing to plot: call the matcher first, with save=True"
    )
    if background and not matcher.background:
        warnings.warn("the matcher has no background to plot", stacklevel=4)
    return background and matcher.background


def _real(matcher: Any, idx: int) -> Tensor:
    """(T,) bool: the targets of an image that are no padding."""
    mask = matcher._last_target.get("mask")
    if mask is None:
        targets = matcher._last_match.shape[2] - matcher.background
        return torch.ones(targets, dtype=torch.bool)
    return _on_host(mask, idx)


def _on_host(x: Tensor, idx: int) -> Tensor:
    return x[idx].cpu()


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install matplotlib") from error
    return matplotlib.pyplot


def _image(img: Any, predicted: Tensor, targets: Tensor, rows: Tensor, columns: Tensor) -> Any:
    """The image (H, W, 3) with the chosen of predicted (P, 4) and target boxes (T, 4)."""
    plt = _pyplot()
    img = img.cpu().numpy() if isinstance(img, Tensor) else img
    height, width = img.shape[:2]
    dpi = plt.rcParams["figure.dpi"]
    figure = plt.figure(frameon=False, figsize=(width / dpi, height / dpi))
    axes = figure.gca()
    axes.set_axis_off()
    axes.imshow(img)
    veil = {"facecolor": "white", "alpha": VEIL_ALPHA, "linewidth": 0}
    axes.add_patch(plt.Rectangle((0, 0), width, height, **veil))
    for j in columns.nonzero().flatten().tolist():
        style = {"facecolor": _colour(j), "alpha": FILL_ALPHA, "linewidth": 0}
        _box(plt, axes, targets[j], _letters(j), _colour(j), style)
    for i in rows.nonzero().flatten().tolist():
        style = {"facecolor": "none", "edgecolor": "black", "linewidth": 1}
        _box(plt, axes, predicted[i], str(i + 1), "black", style)
    figure.tight_layout(pad=0)
    return figure


def _box(plt: Any, axes: Any, box: Tensor, text: str, colour: Any, style: dict[str, Any]) -> None:
    x1, y1, x2, y2 = box.tolist()
    axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
    axes.annotate(text, (x1 + 7, y1 + 32), color=colour, fontsize=FONT_SIZE)


def _tables(
    tables: list[Tensor],  # (P, T + 1 or T) each
    title: str,
    names: list[str],
    cmap: str,
    rows: Tensor,  # (P,) bool
    columns: Tensor,  # (T,) bool
    background: bool,
) -> Any:
    """The chosen rows and columns of tables side by side, in one scale of colours."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(tables), frameon=False, squeeze=False)
    smallest, largest = (
        float(f(torch.stack([f(x) for x in tables]))) for f in (torch.min, torch.max)
    )
    chosen = columns.nonzero().flatten().tolist()
    labels = [(_letters(j), _colour(j)) for j in chosen] + [(BACKGROUND, "black")] * background
    numbers = [str(i + 1) for i in rows.nonzero().flatten().tolist()]
    for ax, table, name in zip(axes[0], tables, names):
        shown = table[rows][:, chosen + [-1] * background]
        image = ax.imshow(shown.float().numpy(), cmap=cmap, vmin=smallest, vmax=largest)
        ax.set_yticks(range(len(numbers)), numbers)
        ax.set_xticks(range(len(labels)), [text for text, _ in labels])
        for tick, (_, colour) in zip(ax.get_xticklabels(), labels):
            tick.set_color(colour)
        ax.tick_params(length=0)
        ax.set_title(name)
    axes[0, 0].set_ylabel("Predictions")
    figure.colorbar(image, ax=axes.ravel().tolist())
    figure.suptitle(title)
    return figure


def _letters(j: int) -> str:
    """A to Z, then AA, BB and so on."""
    return string.ascii_uppercase[j % 26] * (j // 26 + 1)


def _colour(j: int) -> tuple[float, float, float]:
    """Full colours in turn, three tenths of the circle of hues apart."""
    hue = 6 * (0.3 * j % 1.0)
    return tuple(min(max(abs((hue - s) % 6 - 3) - 1, 0.0), 1.0) for s in (0, 2, 4))
