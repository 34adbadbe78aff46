"""Images and predictions side by side; charts are in ``figures``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from atp.data.folder import open_image, read_ids
from atp.data.labels import IGNORE, LabelSpace
from atp.report.results import Results
from atp.report.style import FAINT, INK, MANY_CLASSES, PAPER, class_names, display_name, font, foremost, image_names

UNLABELLED = (255, 255, 255)
CELL, TALLEST = 256, 1.2
"""Width of a picture in the sheet, pixels, and maximum height in widths; portraits are narrower than their column."""
LARGE = 384
"""The same in the sheet of overlays."""
_GAP, _BAND, _LINE, _TOP = 12, 40, 26, 40
_FRAME = "#c9d0d6"
_FONT, _BOLD, _SMALL = font(18), font(18, bold=True), font(15)

Entry = tuple[str, tuple[int, int, int] | None]
"""A name and its colour in the legend; a remark has no colour."""


@dataclass(frozen=True)
class Example:
    """One test image in the sheet.

    Attributes:
        group: what it is an example of; shown once for consecutive rows.
        name: the image's name.
        image: its file.
        masks: by column title, class ids, (H, W), and the caption below.
    """

    group: str
    name: str
    image: Path
    masks: Mapping[str, tuple[NDArray[np.uint8], str]]


def predictions(results: Results) -> Image.Image:
    """Target image | ground truth if any | prediction of each stage, for the best, median and worst images."""
    return sheet(examples(results, results.shown), results.space)


def overlays(results: Results) -> Image.Image:
    """One image of each group, large: as it is | under its ground truth if any | under the first and the adapted
    model's predictions."""
    first = results.shown[0]
    rows = {row.group: row for row in examples(results, [first, results.adapted])}
    return sheet(list(rows.values()), results.space, cell=LARGE, over=True)


def examples(results: Results, models: Sequence[str]) -> list[Example]:
    """Images selected by the adapted model's mIoU, or without labels by its entropy, with the models' predictions."""
    last, scores, groups = results.adapted, results.image_miou, ("best", "median", "worst")
    if not results.labelled:
        groups = ("surest", "median", "least sure")
        scores = {model: {name: -value for name, value in of.items()} for model, of in results.image_entropy.items()}
    rows = []
    for group, name in chosen(scores[last], 2, groups):
        sample = results.test_samples[name]
        masks = {"ground truth": (read_ids(sample.label, results.space.num_classes), "")} if sample.label else {}
        for model in models:
            # The reference for all other columns.
            title = "source only" if model == "source" else display_name(model)
            score, caption = scores[model].get(name), ""
            if score is not None:
                caption = f"mIoU {score:.1f}" if results.labelled else f"entropy {-score:.3f}"
            masks[title] = (read_ids(results.prediction(model, name), results.space.num_classes), caption)
        rows.append(Example(group, name, sample.image, masks))
    return rows


def chosen(scores: Mapping[str, float], each: int, groups: Sequence[str]) -> list[tuple[str, str]]:
    """Select images with the highest, median and lowest scores, highest first.

    Args:
        groups: names of the highest, median and lowest group.

    Returns:
        Group and name of each image. No image is repeated, so few images give fewer examples.
    """
    order = sorted(scores, key=lambda name: (-scores[name], name))
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    # A name in two groups belongs to the last of them.
    group = dict.fromkeys(order[middle : middle + each], groups[1])
    group |= dict.fromkeys(order[-each:], groups[2]) | dict.fromkeys(order[:each], groups[0])
    return [(group[name], name) for name in order if name in group]


def legend(space: LabelSpace, pixels: NDArray[np.int64]) -> list[Entry]:
    """Legend entries: all classes, or if there are many those with the most pixels.

    Args:
        pixels: pixel count of each id in the pictures, (256,).
    """
    names, counts = class_names(space), pixels[: space.num_classes].tolist()
    shown = [index for index in foremost(counts) if counts[index] or len(counts) <= MANY_CLASSES]
    entries: list[Entry] = [(names[index], space.colors[index]) for index in shown]
    if pixels[IGNORE]:
        entries.append(("unlabelled", UNLABELLED))
    left_out = sum(map(bool, counts)) - len(shown)
    return [*entries, (f"and {left_out} more on fewer pixels", None)] if left_out > 0 else entries


def sheet(rows: Sequence[Example], space: LabelSpace, *, cell: int = CELL, over: bool = False) -> Image.Image:
    """Images with their masks in titled columns, captions below them, and a legend at the bottom.

    Args:
        cell: width of a picture, pixels.
        over: blend each mask with its image.
    """
    titles = ["target image", *rows[0].masks]
    images = [fitted(open_image(row.image), cell, TALLEST) for row in rows]
    pixels = sum(np.bincount(ids.ravel(), minlength=256) for row in rows for ids, _ in row.masks.values())
    entries = legend(space, np.asarray(pixels))
    width = _BAND + len(titles) * (cell + _GAP)
    # The legend's columns are as wide as the widest entry.
    room = width - _BAND - _GAP
    abreast = max(1, min(len(entries), int(room // max(_FONT.getlength(name) + 44 for name, _ in entries))))
    foot = _TOP + sum(image.height + _LINE + _GAP for image in images) + 8
    canvas = Image.new("RGB", (width, foot + math.ceil(len(entries) / abreast) * 30 + 10), PAPER)
    draw = ImageDraw.Draw(canvas)
    lefts = range(_BAND, width, cell + _GAP)
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left + cell / 2, 20), title, INK, _BOLD, "mm")
    top = _TOP
    groups: dict[str, tuple[int, int]] = {}
    for row, image, name in zip(rows, images, image_names([row.name for row in rows]), strict=True):
        bottom = top + image.height
        masks = [(mask_picture(ids, space, image.size), caption) for ids, caption in row.masks.values()]
        if over:
            masks = [(Image.blend(image, mask, 0.5), caption) for mask, caption in masks]
        for left, (picture, caption) in zip(lefts, [(image, name), *masks], strict=True):
            x = left + (cell - picture.width) // 2
            canvas.paste(picture, (x, top))
            draw.rectangle((x - 1, top - 1, x + picture.width, bottom), outline=_FRAME)
            color = FAINT if picture is image else INK
            draw.text((left + cell / 2, bottom + _LINE / 2 + 1), caption, color, _SMALL, "mm")
        first, _ = groups.get(row.group, (top, bottom))
        groups[row.group] = (first, bottom + _LINE)
        top = bottom + _LINE + _GAP
    for group, (top, bottom) in groups.items():
        # Vertical text left of the group's rows, with a line along them.
        box = Image.new("RGB", (bottom - top, _BAND - 14), PAPER)
        ImageDraw.Draw(box).text((box.width / 2, box.height / 2), group, INK, _BOLD, "mm")
        canvas.paste(box.rotate(90, expand=True), (2, top))
        draw.line((_BAND - 8, top, _BAND - 8, bottom - 1), _FRAME, 2)
    for index, (name, swatch) in enumerate(entries):
        across, down = _BAND + index % abreast * (room / abreast), foot + 30 * (index // abreast)
        if swatch is not None:
            draw.rectangle((across, down + 4, across + 24, down + 22), swatch, _FRAME)
        draw.text((across + 32, down + 13), name, INK, _FONT, "lm")
    return canvas


def fitted(image: Image.Image, width: int, tallest: float) -> Image.Image:
    """Scale an image to fit ``width`` and a height of ``tallest`` widths."""
    scale = min(width / image.width, width * tallest / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def mask_picture(ids: NDArray[np.uint8], space: LabelSpace, size: tuple[int, int]) -> Image.Image:
    """Class ids, (H, W), in their colours at ``size`` = (width, height), with sharp edges."""
    colors = np.frombuffer(space.palette, np.uint8).reshape(256, 3).copy()
    colors[space.num_classes :] = UNLABELLED
    picture = Image.fromarray(colors[ids])
    # Upscaled by an integer and averaged down: a box filter alone makes pixels of unequal width.
    steps = math.ceil(4 * size[0] / picture.width)
    if steps > 1:
        picture = picture.resize((picture.width * steps, picture.height * steps), Image.Resampling.NEAREST)
    return picture.resize(size, Image.Resampling.BOX)
