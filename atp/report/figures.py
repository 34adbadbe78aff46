"""Pictures of a run. Every function draws one and returns it; none knows where it goes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from atp.data.labels import IGNORE, LabelSpace

# Okabe and Ito's colours, which colour-blind readers tell apart; grey for where the run began.
PALETTE = ("#9aa0a6", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#0072b2", "#cc79a7")
UNLABELLED = (0, 0, 0)
MANY_CLASSES = 40

mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e6e6",
        "figure.dpi": 110,
        "svg.hashsalt": "atp",
    }
)


@dataclass(frozen=True)
class Strip:
    """One row of the picture of predictions.

    Attributes:
        title: left of the row.
        image: RGB, (H, W, 3).
        masks: column title to class ids, (H, W); 255 = unlabelled.
        captions: column title to what stands below the picture.
    """

    title: str
    image: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.uint8]]
    captions: Mapping[str, str]


def to_png(figure: Figure) -> bytes:
    """PNG bytes; the same figure gives the same bytes, whatever the time and matplotlib's version string."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def colored(ids: NDArray[np.uint8], space: LabelSpace) -> NDArray[np.uint8]:
    """Class ids in their colours, (H, W, 3)."""
    table = np.full((256, 3), UNLABELLED, np.uint8)
    table[: space.num_classes] = space.colors
    assert space.num_classes <= IGNORE, "255 stays unlabelled"
    return table[ids]


def predictions(strips: Sequence[Strip], space: LabelSpace) -> Figure:
    """Target image | ground truth | each model's prediction, a row an image, and the classes' colours below."""
    columns = ["target image", *strips[0].masks]
    height, width = strips[0].image.shape[:2]
    cell = 2.4
    rows_in = len(strips) * (cell * height / width + 0.28)
    shown = _shown(strips, space)
    per_line = max(1, int(len(columns) * cell / 1.25))
    legend_in = 0.3 * (-(-len(shown) // per_line)) + 0.2
    figure = Figure(figsize=(len(columns) * cell, rows_in + legend_in))
    grid = figure.add_gridspec(
        len(strips), len(columns), left=0.03, right=1, top=1, bottom=legend_in / (rows_in + legend_in), wspace=0.03
    )
    for row, strip in enumerate(strips):
        pictures = {"target image": strip.image} | {name: colored(ids, space) for name, ids in strip.masks.items()}
        for column, name in enumerate(columns):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(pictures[name], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.set_xlabel(strip.captions.get(name, ""), labelpad=2)
            if row == 0:
                axes.set_title(name)
            if column == 0:
                axes.set_ylabel(strip.title)
    handles = [Patch(color=f"#{bytes(space.colors[i]).hex()}", label=space.names[i]) for i in shown]
    figure.legend(handles=handles, loc="lower center", ncol=per_line, frameon=False, fontsize=8)
    return figure


def _shown(strips: Sequence[Strip], space: LabelSpace) -> list[int]:
    """The classes of the legend: all of a few, of many only those in the pictures."""
    if space.num_classes <= MANY_CLASSES:
        return list(range(space.num_classes))
    ids = np.unique(np.concatenate([np.unique(mask) for strip in strips for mask in strip.masks.values()]))
    return [int(i) for i in ids if i < space.num_classes]


def iou_bars(iou: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """IoU of every class, a bar a stage; of many classes those that changed most."""
    stages = list(iou)
    names = list(iou[stages[0]])
    if len(names) > MANY_CLASSES:
        change = {name: abs((iou[stages[-1]][name] or 0) - (iou[stages[0]][name] or 0)) for name in names}
        names = sorted(names, key=lambda name: -change[name])[:MANY_CLASSES]
    figure = Figure(figsize=(max(7, 0.75 * len(names)), 3.4))
    axes = figure.add_subplot()
    width = 0.8 / len(stages)
    for index, stage in enumerate(stages):
        values = [iou[stage][name] or 0 for name in names]
        places = np.arange(len(names)) + (index - (len(stages) - 1) / 2) * width
        axes.bar(places, values, width, label=stage, color=PALETTE[index % len(PALETTE)])
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_ylabel("IoU, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, ncol=len(stages), loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def label_quality(rounds: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Coverage of every round's pseudo labels and, where the truth is known, how many are right; shares in percent."""
    bars = {"coverage": "pixels labelled", "accuracy": "labels right", "negative_accuracy": "negative labels right"}
    known = {key: title for key, title in bars.items() if any(row.get(key) is not None for row in rounds.values())}
    figure = Figure(figsize=(max(5.0, 1.9 * len(rounds)), 3))
    axes = figure.add_subplot()
    width = 0.8 / len(known)
    for index, (key, title) in enumerate(known.items()):
        places = np.arange(len(rounds)) + (index - (len(known) - 1) / 2) * width
        values = [row.get(key) or 0 for row in rounds.values()]
        bar = axes.bar(places, values, width, label=title, color=PALETTE[index + 1])
        axes.bar_label(bar, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(rounds)), list(rounds))
    axes.set_ylabel("%")
    axes.set_ylim(0, 109)
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, ncol=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def ranking(
    entropy: Sequence[float],
    easy: int,
    easiest: Sequence[tuple[str, NDArray[np.uint8]]],
    hardest: Sequence[tuple[str, NDArray[np.uint8]]],
) -> Figure:
    """Mean entropy of the target images in rising order, where it is split, and the two ends in pictures."""
    count = max(len(easiest), len(hardest))
    figure = Figure(figsize=(max(7.0, 2.0 * count), 5.2))
    grid = figure.add_gridspec(3, count, height_ratios=(1.5, 1, 1), hspace=0.5, wspace=0.05)
    axes = figure.add_subplot(grid[0, :])
    axes.plot(range(1, easy + 1), entropy[:easy], color=PALETTE[2], lw=2, label=f"easy ({easy})")
    hard = range(easy + 1, len(entropy) + 1)
    axes.plot(hard, entropy[easy:], color=PALETTE[4], lw=2, label=f"hard ({len(entropy) - easy})")
    axes.axvline(easy + 0.5, color="#666666", ls="--", lw=1)
    axes.set_xlabel("target image, by rank")
    axes.set_ylabel("mean entropy")
    axes.legend(frameon=False)
    for row, (title, pictures) in enumerate((("easiest", easiest), ("hardest", hardest)), start=1):
        for column, (name, picture) in enumerate(pictures):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.set_xlabel(name, fontsize=8, labelpad=2)
            if column == 0:
                axes.set_ylabel(title)
    return figure


def confusion(matrices: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> Figure:
    """Row-normalised confusion matrices side by side: of each true class, the share predicted as each class."""
    size = min(9.0, max(3.6, 0.36 * len(names)))
    figure = Figure(figsize=(size * len(matrices) + 1, size))
    for index, (title, counts) in enumerate(matrices.items(), start=1):
        axes = figure.add_subplot(1, len(matrices), index)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        picture = axes.imshow(100 * shares, cmap="magma_r", vmin=0, vmax=100)
        axes.set_title(title)
        axes.grid(False)
        axes.set_xlabel("predicted")
        if len(names) <= MANY_CLASSES:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names if index == 1 else [""] * len(names))
        if index == 1:
            axes.set_ylabel("true")
    figure.colorbar(picture, ax=figure.axes, label="% of the true class", fraction=0.03, pad=0.02)
    return figure


def histories(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """The loss and its parts, stage by stage."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.2 * rows), layout="constrained")
    for index, (stage, curve) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, columns, index)
        for place, (name, values) in enumerate((n, v) for n, v in curve.items() if n != "step"):
            axes.plot(curve["step"], values, lw=1.2, color=PALETTE[(place + 5) % len(PALETTE)], label=name)
        axes.set_title(stage)
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize=7)
    return figure


def thumbnail(image: Image.Image, width: int = 320) -> NDArray[np.uint8]:
    """RGB, (H, W, 3), at most so wide."""
    image = image.convert("RGB")
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)
    return np.asarray(image)
