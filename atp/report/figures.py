"""Charts of a run. Every function draws one and returns it; none knows where it goes."""

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
from atp.evaluation.evidence.record import Evidence
from atp.report.pictures import fitted
from atp.report.results import LabelRound, Ranking, Results
from atp.report.style import (
    ACCENT,
    FAINT,
    INK,
    MANY_CLASSES,
    MODELS,
    OTHER_MODEL,
    class_names,
    display_name,
    image_names,
    shortened,
)

WIDTH = 9.0
"""Of every chart, inches."""
_BLUES = LinearSegmentedColormap.from_list("atp", ["#ffffff", MODELS["align"], MODELS["teach"], MODELS["propagate"]])
_BETTER, _WORSE = "#1a7f4b", "#b3361f"
_FEW_CLASSES = 16
"""Up to so many, a confusion matrix has room for figures, and two of them stand side by side."""


def to_png(figure: Figure) -> bytes:
    """PNG bytes, the same for the same figure: without a time and without matplotlib's version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()


def iou_bars(results: Results) -> Figure:
    """IoU of every class before adaptation and after each stage; of many classes those that changed most."""
    models = [name for name in results.shown if name in results.iou]
    names = list(results.space.names)
    first, last = results.iou[models[0]], results.iou[models[-1]]
    change = {name: (last[name] or 0.0) - (first[name] or 0.0) for name in names}
    shown = names
    if len(names) > MANY_CLASSES:
        most = sorted(names, key=lambda name: -abs(change[name]))[:MANY_CLASSES]
        shown = sorted(most, key=lambda name: -change[name])
    short = dict(zip(names, class_names(results.space), strict=True))
    step = max(0.28, min(0.52, 8 / len(shown)))
    figure = Figure(figsize=(WIDTH, 0.9 + step * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    thick = 0.8 / len(models)
    places = np.arange(len(shown))
    for index, model in enumerate(models):
        values = [results.iou[model][name] or 0.0 for name in shown]
        offsets = places + (index - (len(models) - 1) / 2) * thick
        axes.barh(offsets, values, thick * 0.94, label=display_name(model), color=MODELS.get(model, OTHER_MODEL))
    head = f"{display_name(models[0])} → {display_name(models[-1])}"
    axes.text(122, -0.62, head, ha="right", va="bottom", fontsize=8, color=FAINT)
    for place, name in enumerate(shown):
        _write_change(axes, place, first[name], last[name])
    axes.set_yticks(places, [short[name] for name in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU, %")
    axes.grid(axis="y", visible=False)
    title = "IoU per class"
    if len(shown) < len(names):
        title += f": the {len(shown)} of {len(names)} that changed most"
    _titled(axes, title, len(models))
    return figure


def _write_change(axes: Axes, place: float, before: float | None, after: float | None) -> None:
    """Right of a class's bars: how it came out."""
    place_of: dict[str, Any] = {"va": "center", "clip_on": False, "fontsize": 8}
    if before is None or after is None:
        axes.text(101.5, place, "not in the test labels", color=FAINT, **place_of)
        return
    color = FAINT if round(after - before, 1) == 0 else _BETTER if after > before else _WORSE
    axes.text(101.5, place, f"{before:.1f} → {after:.1f}", color=INK, **place_of)
    axes.text(122, place, signed(after - before), color=color, ha="right", weight="bold", **place_of)


def signed(value: float) -> str:
    """With its sign, a true minus, and one decimal; no negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def label_quality(rounds: Mapping[str, LabelRound], names: Sequence[str]) -> Figure:
    """Pseudo labels: how many, how many of them right where the truth is known, and the thresholds of the classes.

    Args:
        names: of the classes, as they are to be written.
    """
    shown = _most_telling(rounds, len(names))
    right = any(value is not None for row in rounds.values() for value in row.accuracy_per_class)
    step = max(0.17, min(0.24, 5 / len(shown)))
    heights = (3.2, 0.9 + step * len(shown))
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _overall(top.add_subplot(), rounds)
    panels = bottom.subplots(1, 2 if right else 1, sharey=True, squeeze=False)[0]
    _dots(panels[0], {key: [row.thresholds[i] for i in shown] for key, row in rounds.items()}, 1.0)
    panels[0].set_title("least confidence that keeps a label")
    panels[0].set_yticks(range(len(shown)), [names[i] for i in shown])
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    if right:
        _dots(panels[1], {key: [row.accuracy_per_class[i] for i in shown] for key, row in rounds.items()}, 100.0)
        panels[1].set_title("labels of the class that are right, %")
    handles, labels = panels[0].get_legend_handles_labels()
    bottom.legend(handles, labels, loc="outside lower center", ncol=len(rounds))
    if len(shown) < len(names):
        what = "least accurate" if right else "lowest thresholds"
        bottom.supylabel(f"{len(shown)} of {len(names)} classes: {what}", fontsize=9, color=FAINT)
    return figure


def _most_telling(rounds: Mapping[str, LabelRound], count: int) -> list[int]:
    """All classes; of many those whose labels in the last round are worst, or else least sure."""
    if count <= MANY_CLASSES:
        return list(range(count))
    last = list(rounds.values())[-1]
    right = any(value is not None for value in last.accuracy_per_class)
    values = last.accuracy_per_class if right else last.thresholds
    order = sorted(range(count), key=lambda i: math.inf if (value := values[i]) is None else value)
    return sorted(order[:MANY_CLASSES])


def _overall(axes: Axes, rounds: Mapping[str, LabelRound]) -> None:
    bars: dict[str, tuple[str, list[float | None]]] = {
        "pixels with a label": (MODELS["align"], [row.coverage for row in rounds.values()]),
        "labels that are right": (MODELS["propagate"], [row.accuracy for row in rounds.values()]),
        "negative labels that are right": (ACCENT, [row.negative_accuracy for row in rounds.values()]),
    }
    known = {name: (color, row) for name, (color, row) in bars.items() if any(value is not None for value in row)}
    width = min(0.8 / len(known), 0.26)
    for index, (name, (color, values)) in enumerate(known.items()):
        places = np.arange(len(rounds)) + (index - (len(known) - 1) / 2) * width
        drawn = axes.bar(places, [value or 0.0 for value in values], width * 0.94, label=name, color=color)
        labels = ["" if value is None else f"{value:.1f}" for value in values]
        axes.bar_label(drawn, labels, fontsize=8, padding=1, color=INK)
    axes.set_xticks(range(len(rounds)), [_round_name(key) for key in rounds])
    axes.set_xlim(-0.6, len(rounds) - 0.4)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("%")
    axes.grid(axis="x", visible=False)
    _titled(axes, "Pseudo labels, round by round", len(known))


def _dots(axes: Axes, values: Mapping[str, Sequence[float | None]], highest: float) -> None:
    """A row a class, a dot a round, darker from round to round."""
    for index, (key, row) in enumerate(values.items()):
        places = [place for place, value in enumerate(row) if value is not None]
        shade = _BLUES(0.35 + 0.65 * (index + 1) / len(values))
        axes.plot(
            [row[place] for place in places],  # type: ignore[arg-type]
            places,
            "o",
            ms=5.5,
            mec="white",
            mew=0.6,
            color=shade,
            label=_round_name(key),
            zorder=3 + index,
            clip_on=False,
        )
    axes.set_xlim(0, highest)


def _round_name(key: str) -> str:
    return "split, for propagate" if key == "split" else shortened(key, 16)


def ranking_curve(ranking: Ranking, each: int = 4) -> Figure:
    """Entropy of the target images in rising order, where easy ones end, and both ends in pictures."""
    count, easy = len(ranking.samples), ranking.easy
    each = min(each, easy, count - easy)
    ends = [*range(each), *range(count - each, count)]
    pictures = [np.asarray(fitted(open_image(ranking.samples[i].image), 320, 1.2)) for i in ends]
    names = image_names([ranking.samples[i].name for i in ends], 18)
    # Inches; thumbnails of one or two images would otherwise fill the page.
    left, right, inset, width = 0.7, 0.15, 0.08, min(1.6, (WIDTH - 1.2) / (2 * each))
    tall = max((width - inset) * picture.shape[0] / 320 for picture in pictures)
    curve, below = 2.2, 0.3 + tall + 0.75
    total = 0.4 + curve + below
    figure = Figure(figsize=(WIDTH, total))
    _curve(_axes(figure, (left, below, WIDTH - left - right, curve)), ranking)
    for place, (index, picture, name) in enumerate(zip(ends, pictures, names, strict=True)):
        x = left + place * width if place < each else WIDTH - right - (2 * each - place) * width + inset
        box = _axes(figure, (x, 0.3, width - inset, tall))
        box.imshow(picture, interpolation="antialiased")
        box.set_anchor("S")
        box.axis("off")
        box.set_title(f"{ranking.entropy[index]:.3f}", loc="center", fontsize=8, weight="normal", pad=3)
        figure.text(
            (x + (width - inset) / 2) / WIDTH, 0.25 / total, name, ha="center", va="top", fontsize=7, color=FAINT
        )
    for x, side, which in ((left, "left", "lowest"), (WIDTH - right, "right", "highest")):
        figure.text(x / WIDTH, (below - 0.42) / total, f"{each} of {which} entropy", ha=side, weight="bold")
    return figure


def _axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Axes at left, bottom, width and height in inches."""
    width, height = figure.get_size_inches()
    left, bottom, wide, high = place
    return figure.add_axes((left / width, bottom / height, wide / width, high / height))


def _curve(axes: Axes, ranking: Ranking) -> None:
    count, easy = len(ranking.samples), ranking.easy
    ranks = np.arange(1, count + 1)
    parts = ((slice(0, easy), MODELS["teach"]), (slice(easy, count), ACCENT))
    for part, color in parts:
        axes.fill_between(ranks[part], ranking.entropy[part], color=color, alpha=0.16, lw=0)
        axes.plot(ranks[part], ranking.entropy[part], color=color, lw=2, marker="o", ms=3 if count <= 100 else 0)
    top = 1.12 * max(*ranking.entropy, 1e-3)
    axes.axvline(easy + 0.5, color=FAINT, ls=(0, (4, 3)), lw=1)
    for x, text, side, color in (
        (easy + 0.5 - 0.01 * count, f"{easy} easy", "right", MODELS["teach"]),
        (easy + 0.5 + 0.01 * count, f"{count - easy} hard", "left", ACCENT),
    ):
        axes.text(x, top * 0.97, text, ha=side, va="top", color=color, weight="bold")
    axes.set_xlim(0.5, count + 0.5)
    axes.set_ylim(0, top)
    axes.set_xlabel("target images, from low to high entropy")
    axes.set_ylabel("mean entropy, 0 to 1")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    axes.set_title("Easy and hard target images")


def confusion(results: Results) -> Figure:
    """Of every true class, the share that is predicted as each class, by the source and by the last model."""
    models = list(dict.fromkeys((results.shown[0], results.shown[-1])))
    names = class_names(results.space)
    counts = {model: results.confusion[model] for model in models}
    if len(names) > MANY_CLASSES:
        counts, names = _largest_classes(counts, names)
    few = len(names) <= _FEW_CLASSES
    side = 0.33 * len(names) if few else max(5.0, 0.17 * len(names))
    side = max(1.8, min(3.6, side)) if few else side
    rows, columns = (1, len(models)) if few else (len(models), 1)
    figure = Figure(figsize=(WIDTH, rows * (side + 1.4)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=few).ravel()
    for index, (axes, model) in enumerate(zip(panels, models, strict=True)):
        picture = _matrix(axes, counts[model], names, numbers=few)
        axes.set_title(display_name(model))
        axes.set_xlabel("predicted class")
        if index == 0 or not few:
            axes.set_ylabel("true class")
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
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#f2f4f6", lw=0.5)
    axes.tick_params(which="minor", length=0)
    if numbers:
        for row, column in zip(*np.nonzero(np.nan_to_num(shares) > 0.5), strict=True):
            share = shares[row, column]
            color = "white" if share > 45 else INK
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    return picture


def _largest_classes(
    counts: Mapping[str, NDArray[np.int64]], names: Sequence[str]
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """The classes with the most labelled pixels, and all others as one, so that rows still add up."""
    totals = next(iter(counts.values())).sum(1)
    kept = np.sort(np.argsort(-totals, kind="stable")[: MANY_CLASSES - 1])
    groups = np.full(len(names), len(kept))
    groups[kept] = np.arange(len(kept))
    merged = {}
    for model, matrix in counts.items():
        result = np.zeros((len(kept) + 1, len(kept) + 1), np.int64)
        np.add.at(result, (groups[:, None], groups[None]), matrix)
        merged[model] = result
    return merged, [*(names[i] for i in kept), f"{len(names) - len(kept)} others"]


def evidence_lines(evidence: Mapping[str, Evidence]) -> Figure:
    """Agreement under changes and the distance of the class shares, from the source model on through the stages."""
    first = next(iter(evidence.values()))
    steps = {"source" if "align" in evidence else "start": first["source"]}
    steps |= {display_name(name): told["after"] for name, told in evidence.items()}
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = {"scale_iou": MODELS["propagate"], "flip_iou": MODELS["teach"], "photometric_iou": MODELS["align"]}
    for name, color in shown.items():
        values = [figures[name] for figures in steps.values()]
        left.plot(range(len(steps)), values, "o-", color=color, label=name.removesuffix("_iou"))
    left.set_ylim(0, 1)
    left.legend(title="class-IoU under", fontsize=8)
    left.set_title("agreement with itself")
    shares = [figures["marginal_kl"] for figures in steps.values()]
    right.bar(range(len(steps)), shares, 0.55, color=ACCENT)
    right.set_ylim(0, max(0.5, 1.1 * max(shares)))
    right.set_title("class shares' distance from the source's (KL, nats)")
    for axes in (left, right):
        axes.set_xticks(range(len(steps)), list(steps), rotation=20, ha="right")
        axes.grid(axis="x", visible=False)
    return figure


def histories(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Figure:
    """The loss and its parts during training: a row a stage, a panel a quantity, a line a round."""
    quantities = {stage: list(dict.fromkeys(q for c in rounds.values() for q in c)) for stage, rounds in curves.items()}
    quantities = {stage: [name for name in names if name != "step"] for stage, names in quantities.items()}
    columns = max(map(len, quantities.values()))
    figure = Figure(figsize=(WIDTH, 1.75 * len(curves)), layout="constrained")
    grid = figure.add_gridspec(len(curves), columns)
    first: list[Axes] = []
    for row, (stage, rounds) in enumerate(curves.items()):
        for column, quantity in enumerate(quantities[stage]):
            axes = figure.add_subplot(grid[row, column])
            for index, (key, curve) in enumerate(rounds.items()):
                shade = _BLUES(0.35 + 0.65 * (index + 1) / len(rounds)) if len(rounds) > 1 else MODELS["teach"]
                axes.plot(curve["step"], curve[quantity], lw=1.4, color=shade, label=key)
            axes.set_title(quantity.replace("_", " "), weight="normal", fontsize=9)
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=4)
            if column == 0:
                first.append(axes)
                axes.set_ylabel(stage, weight="bold", fontsize=10, color=INK)
                if len(rounds) > 1:
                    axes.legend(fontsize=7, handlelength=1.2, borderaxespad=0)
            if row == len(curves) - 1:
                axes.set_xlabel("step", fontsize=8)
    figure.align_ylabels(first)
    return figure


def _titled(axes: Axes, title: str, entries: int) -> None:
    """Title at the left and the explanation of colours at the right of one line above the axes."""
    axes.set_title(title, pad=22)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.008, 0.995),
        ncol=entries,
        borderaxespad=0.2,
        handlelength=1,
        handleheight=1,
        columnspacing=1.4,
    )
