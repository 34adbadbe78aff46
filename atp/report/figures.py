"""Charts of a run. Each function draws and returns one chart; none writes files."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from atp.data.folder import open_image
from atp.evaluation.evidence.record import Figures
from atp.report.pictures import fitted
from atp.report.results import LabelRound, Ranking, Results
from atp.report.style import (
    ACCENT,
    FAINT,
    INK,
    MANY_CLASSES,
    MODELS,
    class_names,
    display_name,
    foremost,
    image_names,
    model_color,
    shortened,
)

WIDTH = 9.0
"""Width of every chart, inches."""
_BLUES = LinearSegmentedColormap.from_list("atp", ["#ffffff", MODELS["align"], MODELS["teach"], MODELS["propagate"]])
_BETTER, _WORSE = "#1a7f4b", "#b3361f"
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
BETTER = {
    "augmentation_iou": UP,
    "flip_iou": UP,
    "scale_iou": UP,
    "photometric_iou": UP,
    "marginal_kl": DOWN,
}
"""Which way is better, of the evidence's indicators of which docs/explanation/evidence.md shows that one way is."""
MEANINGS = {
    "scale, flip, photometric iou": "agreement, as mean IoU, of the predictions on an image and on the same image "
    "scaled to 0.75 and 1.25, mirrored, darkened and brightened",
    "augmentation iou": "mean of these three",
    "density": "how many predictions are similar to each other (soft neighbourhood density, nats)",
    "entropy": "mean uncertainty of a pixel: 0 is certain, 1 is every class alike",
    "marginal kl": "how far the shares of the classes are from the source model's (Kullback-Leibler divergence, nats)",
    "classes": "how many classes are predicted, counted by their shares: 2.0 is two classes of half the pixels each",
    "stability, stability iou": "agreement with the model before the stage, over pixels and over classes",
}
"""The indicators in a reader's words; docs/explanation/evidence.md has their definitions."""
_FEW_CLASSES = 16
"""Largest number of classes for which confusion matrices show numbers and stand side by side."""
_THUMBNAIL = 1.6
"""Maximum width, inches; one or two images would otherwise fill the page."""


def to_png(figure: Figure) -> bytes:
    """Deterministic PNG bytes, without a timestamp or matplotlib's version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()


def signed(value: float) -> str:
    """Format with sign, a true minus, and one decimal; no negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def iou_bars(results: Results) -> Figure:
    """IoU per class before adaptation and after each stage; with many classes, those that changed most."""
    models = [name for name in results.shown if name in results.iou]
    names, labels, changes = results.space.names, class_names(results.space), results.changes
    shown = foremost([abs(changes.get(name, 0.0)) for name in names])
    title = f"IoU per class {UP}"
    if len(shown) < len(names):
        shown.sort(key=lambda index: -changes.get(names[index], 0.0))
        title += f": the {len(shown)} of {len(names)} that changed most"
    step = max(0.28, min(0.52, 8 / len(shown)))
    figure = Figure(figsize=(WIDTH, 0.9 + step * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    thick = 0.8 / len(models)
    for index, model in enumerate(models):
        values = [results.iou[model][names[i]] or 0.0 for i in shown]
        places = _beside(len(shown), index, len(models), thick)
        axes.barh(places, values, thick * 0.94, label=display_name(model), color=model_color(model))
    # The final change, to the right of a class's bars.
    look: dict[str, Any] = {"va": "center", "clip_on": False, "fontsize": 8}
    heading = f"{display_name(models[0])} → {display_name(results.adapted)}"
    axes.text(122, -0.62, heading, ha="right", va="bottom", fontsize=8, color=FAINT)
    for place, name in enumerate(names[i] for i in shown):
        if name not in changes:
            axes.text(101.5, place, "not in the test labels", color=FAINT, **look)
            continue
        change = changes[name]
        color = FAINT if round(change, 1) == 0 else _BETTER if change > 0 else _WORSE
        both = f"{results.iou[models[0]][name]:.1f} → {results.iou[results.adapted][name]:.1f}"
        axes.text(101.5, place, both, color=INK, **look)
        axes.text(122, place, signed(change), color=color, ha="right", weight="bold", **look)
    axes.set_yticks(range(len(shown)), [labels[i] for i in shown])
    axes.set(xlim=(0, 100), ylim=(len(shown) - 0.5, -0.5), xlabel="IoU, %")
    axes.grid(axis="y", visible=False)
    _titled(axes, title)
    return figure


def label_quality(rounds: Mapping[str, LabelRound], names: Sequence[str]) -> Figure:
    """Pseudo labels: coverage, accuracy if ground truth is available, and class thresholds.

    Args:
        names: the classes' display names.
    """
    accuracies = {key: row.accuracy_per_class for key, row in rounds.items()}
    panels = {"least confidence that keeps a label": ({key: row.thresholds for key, row in rounds.items()}, 1.0)}
    worst = "lowest thresholds"
    if any(value is not None for row in accuracies.values() for value in row):
        panels[f"labels of the class that are right, % {UP}"] = (accuracies, 100.0)
        worst = "least accurate"
    # With many classes, those with the least accurate or else least confident labels in the last round.
    last = list(list(panels.values())[-1][0].values())[-1]
    shown = foremost([-math.inf if value is None else -value for value in last])
    heights = (3.2, 0.9 + len(shown) * max(0.17, min(0.24, 5 / len(shown))))
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _overall(top.add_subplot(), rounds)
    grid = bottom.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, (values, highest)) in zip(grid, panels.items(), strict=True):
        # One row per class, one dot per round, darker with each round.
        for index, (key, row) in enumerate(values.items()):
            dots = np.array([row[i] for i in shown], float)
            look: dict[str, Any] = {"ms": 5.5, "mec": "white", "mew": 0.6, "color": _shade(index, len(rounds))}
            axes.plot(dots, range(len(shown)), "o", label=_round_name(key), zorder=3 + index, clip_on=False, **look)
        axes.set(xlim=(0, highest), ylim=(len(shown) - 0.5, -0.5), title=title)
    grid[0].set_yticks(range(len(shown)), [names[i] for i in shown])
    bottom.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(rounds))
    if len(shown) < len(names):
        bottom.supylabel(f"{len(shown)} of {len(names)} classes: {worst}", fontsize=9, color=FAINT)
    return figure


def _overall(axes: Axes, rounds: Mapping[str, LabelRound]) -> None:
    bars: dict[str, tuple[str, list[float | None]]] = {
        "pixels with a label": (MODELS["align"], [row.coverage for row in rounds.values()]),
        f"labels that are right {UP}": (MODELS["propagate"], [row.accuracy for row in rounds.values()]),
        f"negative labels that are right {UP}": (ACCENT, [row.negative_accuracy for row in rounds.values()]),
    }
    known = {name: (color, row) for name, (color, row) in bars.items() if any(value is not None for value in row)}
    width = min(0.8 / len(known), 0.26)
    for index, (name, (color, values)) in enumerate(known.items()):
        places = _beside(len(rounds), index, len(known), width)
        drawn = axes.bar(places, [value or 0.0 for value in values], width * 0.94, label=name, color=color)
        labels = ["" if value is None else f"{value:.1f}" for value in values]
        axes.bar_label(drawn, labels, fontsize=8, padding=1, color=INK)
    axes.set_xticks(range(len(rounds)), [_round_name(key) for key in rounds])
    axes.set(xlim=(-0.6, len(rounds) - 0.4), ylim=(0, 108), yticks=range(0, 101, 20), ylabel="%")
    axes.grid(axis="x", visible=False)
    _titled(axes, "Pseudo labels, round by round")


def _round_name(key: str) -> str:
    return "split, for propagate" if key == "split" else shortened(key, 16)


def ranking_curve(ranking: Ranking, each: int = 4) -> Figure:
    """Entropy of the target images in ascending order, the easy/hard split, and thumbnails of both ends."""
    count, easy = len(ranking.samples), ranking.easy
    each = min(each, easy, count - easy)
    ends = [*range(each), *range(count - each, count)]
    pictures = [np.asarray(fitted(open_image(ranking.samples[i].image), 320, 1.2)) for i in ends]
    names = image_names([ranking.samples[i].name for i in ends], 18)
    # In thumbnail widths; the gap takes the space between the two ends.
    between = max(0.35, (WIDTH - 0.8) / _THUMBNAIL - 2 * each)
    tall = (WIDTH - 0.8) / (2 * each + between) * max(picture.shape[0] / 320 for picture in pictures)
    figure = Figure(figsize=(WIDTH, 3.6 + tall), layout="constrained")
    widths = [*[1.0] * each, between, *[1.0] * each]
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths, height_ratios=(2.2, tall))
    _curve(figure.add_subplot(grid[0, :]), ranking)
    for place, (index, picture, name) in enumerate(zip(ends, pictures, names, strict=True)):
        axes = figure.add_subplot(grid[1, place + (place >= each)])
        axes.imshow(picture, interpolation="antialiased")
        axes.set(xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"{ranking.entropy[index]:.3f}\n{name}", fontsize=7.5)
    figure.axes[1].set_title(f"{each} of lowest entropy", loc="left", fontsize=9)
    figure.axes[-1].set_title(f"{each} of highest entropy", loc="right", fontsize=9)
    return figure


def _curve(axes: Axes, ranking: Ranking) -> None:
    count, easy = len(ranking.samples), ranking.easy
    ranks = np.arange(1, count + 1)
    top = 1.12 * max(*ranking.entropy, 1e-3)
    for part, color, side, x, text in (
        (slice(0, easy), MODELS["teach"], "right", -0.01, f"{easy} easy"),
        (slice(easy, count), ACCENT, "left", 0.01, f"{count - easy} hard"),
    ):
        axes.fill_between(ranks[part], ranking.entropy[part], color=color, alpha=0.16, lw=0)
        axes.plot(ranks[part], ranking.entropy[part], color=color, lw=2, marker="o", ms=3 if count <= 100 else 0)
        axes.text(easy + 0.5 + x * count, top * 0.97, text, ha=side, va="top", color=color, weight="bold")
    axes.axvline(easy + 0.5, color=FAINT, ls=(0, (4, 3)), lw=1)
    axes.set(xlim=(0.5, count + 0.5), ylim=(0, top), title="Easy and hard target images")
    axes.set(xlabel="target images, from low to high entropy", ylabel="mean entropy, 0 to 1")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)


def confusion(results: Results) -> Figure:
    """For each true class, the share predicted as each class, by the first and by the adapted model."""
    models = list(dict.fromkeys((results.shown[0], results.adapted)))
    counts, names = [results.confusion[model] for model in models], class_names(results.space)
    if len(names) > MANY_CLASSES:
        counts, names = _largest_classes(counts, names)
    few = len(names) <= _FEW_CLASSES
    side = max(1.8, min(3.6, 0.33 * len(names))) if few else max(5.0, 0.17 * len(names))
    rows, columns = (1, len(models)) if few else (len(models), 1)
    figure = Figure(figsize=(WIDTH, rows * (side + 1.4)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=few).ravel()
    for axes, model, matrix in zip(panels, models, counts, strict=True):
        picture = _matrix(axes, matrix, names, numbers=few)
        axes.set(title=display_name(model), xlabel="predicted class")
        axes.set_ylabel("true class" if axes is panels[0] or not few else "")
    shrink, label = 0.7 if few else 0.25, "% of the true class"
    bar = figure.colorbar(picture, ax=list(panels), label=label, fraction=0.03, pad=0.015, shrink=shrink)
    bar.outline.set_visible(False)
    return figure


def _matrix(axes: Axes, counts: NDArray[np.int64], names: Sequence[str], *, numbers: bool) -> mpl.image.AxesImage:
    totals = counts.sum(1, keepdims=True)
    shares = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    axes.set_facecolor("#eef0f2")
    picture = axes.imshow(shares, cmap=_BLUES, vmin=0, vmax=100, interpolation="nearest")
    small = 8 if numbers else 7
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=small)
    axes.set_yticks(range(len(names)), names, fontsize=small)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    borders = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(borders, minor=True)
    axes.set_yticks(borders, minor=True)
    axes.grid(which="minor", color="#f2f4f6", lw=0.5)
    axes.tick_params(which="minor", length=0)
    if numbers:
        for row, column in zip(*np.nonzero(np.nan_to_num(shares) > 0.5), strict=True):
            share = shares[row, column]
            color = "white" if share > 45 else INK
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    return picture


def _largest_classes(
    counts: Sequence[NDArray[np.int64]], names: Sequence[str]
) -> tuple[list[NDArray[np.int64]], list[str]]:
    """The classes with the most labelled pixels, and all others merged, so that rows still add up."""
    kept = foremost(counts[0].sum(1).tolist(), MANY_CLASSES - 1)
    groups = np.full(len(names), len(kept))
    groups[kept] = np.arange(len(kept))
    merged = [np.zeros((len(kept) + 1, len(kept) + 1), np.int64) for _ in counts]
    for result, matrix in zip(merged, counts, strict=True):
        np.add.at(result, (groups[:, None], groups[None]), matrix)
    return merged, [*(names[i] for i in kept), f"{len(names) - len(kept)} others"]


def evidence_lines(indicators: Mapping[str, Figures]) -> Figure:
    """Agreement on changed images and the distance of the class shares, from the source model through the stages."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, model in (("scale", "propagate"), ("flip", "teach"), ("photometric", "align")):
        values = [figures[f"{kind}_iou"] for figures in indicators.values()]
        left.plot(range(len(values)), values, "o-", color=MODELS[model], label=kind)
    left.legend(title="class-IoU under", fontsize=8)
    left.set(ylim=(0, 1), title=f"agreement with itself {UP}")
    shares = [figures["marginal_kl"] for figures in indicators.values()]
    right.bar(range(len(shares)), shares, 0.55, color=ACCENT)
    right.set(ylim=(0, max(0.5, 1.1 * max(shares))), title=f"distance of class shares from the source's (KL) {DOWN}")
    for axes in (left, right):
        axes.set_xticks(range(len(indicators)), map(display_name, indicators), rotation=20, ha="right")
        axes.grid(axis="x", visible=False)
    return figure


def histories(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Figure:
    """The loss and its parts during training: one row per stage, one panel per quantity, one line per round."""
    quantities = {stage: list(dict.fromkeys(q for c in rounds.values() for q in c)) for stage, rounds in curves.items()}
    quantities = {stage: [name for name in names if name != "step"] for stage, names in quantities.items()}
    figure = Figure(figsize=(WIDTH, 1.75 * len(curves)), layout="constrained")
    grid = figure.add_gridspec(len(curves), max(map(len, quantities.values())))
    for row, (stage, rounds) in enumerate(curves.items()):
        for column, quantity in enumerate(quantities[stage]):
            axes = figure.add_subplot(grid[row, column])
            for index, (key, curve) in enumerate(rounds.items()):
                shade = _shade(index, len(rounds)) if len(rounds) > 1 else MODELS["teach"]
                axes.plot(curve["step"], curve[quantity], lw=1.4, color=shade, label=key)
            # All others are losses.
            way = "" if quantity == "rising_entropy" else f" {DOWN}"
            axes.set_title(f"{stage}: {quantity.replace('_', ' ')}{way}", weight="normal", fontsize=9)
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=4)
            if column == 0 and len(rounds) > 1:
                axes.legend(fontsize=7, handlelength=1.2, borderaxespad=0)
            if row == len(curves) - 1:
                axes.set_xlabel("step", fontsize=8)
    return figure


def _beside(groups: int, index: int, bars: int, width: float) -> NDArray[np.floating[Any]]:
    """Positions of bar ``index`` in each group."""
    return np.arange(groups) + (index - (bars - 1) / 2) * width


def _shade(index: int, count: int) -> tuple[float, float, float, float]:
    """Colour of a round; later rounds are darker."""
    shade: tuple[float, float, float, float] = _BLUES(0.35 + 0.65 * (index + 1) / count)
    return shade


def _titled(axes: Axes, title: str) -> None:
    """Title at the left and legend at the right of one line above the axes."""
    axes.set_title(title, pad=22)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.008, 0.995),
        ncol=len(axes.get_legend_handles_labels()[0]),
        borderaxespad=0.2,
        handlelength=1,
        handleheight=1,
        columnspacing=1.4,
    )
