"""Images and predictions side by side, pixel by pixel; charts are in ``figures``."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from atp.data.folder import open_image, read_ids
from atp.data.labels import IGNORE, LabelSpace
from atp.report.results import Results
from atp.report.style import FAINT, INK, MANY_CLASSES, PAPER, class_names, display_name, font, image_names

UNLABELLED = (255, 255, 255)
CELL = 256
"""Width of a picture in the sheet, pixels."""
TALLEST = 1.2
"""Height of a picture at most, in widths; a portrait image becomes narrower than its column."""
_GAP, _BAND, _LINE = 12, 40, 26
_FRAME = "#c9d0d6"
_FONT, _BOLD, _SMALL = font(18), font(18, bold=True), font(15)

Entry = tuple[str, tuple[int, int, int] | None]
"""A name and its colour in the legend; a remark has none."""


@dataclass(frozen=True)
class Row:
    """One test image in the sheet.

    Attributes:
        group: what it is an example of; stands once beside rows that follow each other.
        pictures: one a column, all of one shape; None leaves the place empty.
        captions: what stands below them.
    """

    group: str
    pictures: Sequence[Image.Image | None]
    captions: Sequence[str]


def predictions(results: Results) -> Image.Image:
    """Target image | ground truth if any | prediction of each stage, for the best, median and worst images."""
    space, models = results.space, results.shown
    truth = any(sample.label for sample in results.test_samples.values())
    titles = ["target image", *(["ground truth"] if truth else []), *(display_name(name) for name in models)]
    # What every other one is compared with.
    titles = ["source only" if title == "source" else title for title in titles]
    examples = list(chosen(results))
    names = image_names([name for _, name in examples])
    rows, pixels = [], np.zeros(256, np.int64)
    for (group, name), short in zip(examples, names, strict=True):
        sample = results.test_samples[name]
        masks = [sample.label] if sample.label else []
        masks += [results.prediction(model, name) for model in models]
        image = fitted(open_image(sample.image), CELL, TALLEST)
        drawn = []
        for mask in masks:
            ids = read_ids(mask, space.num_classes)
            pixels += np.bincount(ids.ravel(), minlength=256)
            drawn.append(mask_picture(ids, space, image.size))
        scores = [_score(results, model, name) for model in models]
        captions = [short, *([""] if truth else []), *scores]
        rows.append(Row(group, [image, *drawn], captions))
    return sheet(titles, rows, legend(space, pixels))


def chosen(results: Results, each: int = 2) -> Iterator[tuple[str, str]]:
    """Images from the two ends and the middle of the order by the last model's mIoU, or by its entropy without labels.

    Yields:
        What the image is an example of, and its name. None comes twice, so a handful of images gives fewer.
    """
    last = results.shown[-1]
    if results.labelled:
        groups, score = ("best", "median", "worst"), {n: -value for n, value in results.image_miou[last].items()}
    else:
        groups, score = ("surest", "median", "least sure"), dict(results.image_entropy[last])
    order = sorted(score, key=lambda name: (score[name], name))
    each = max(1, min(each, len(order) // 3))
    middle = (len(order) - each) // 2
    ends: dict[str, str] = dict.fromkeys(order[:each], groups[0])
    for group, names in ((groups[2], order[-each:]), (groups[1], order[middle : middle + each])):
        ends = {**dict.fromkeys(names, group), **ends}
    yield from sorted(((group, name) for name, group in ends.items()), key=lambda pair: order.index(pair[1]))


def _score(results: Results, model: str, name: str) -> str:
    if not results.labelled:
        return f"entropy {results.image_entropy[model][name]:.3f}"
    value = results.image_miou[model].get(name)
    return "" if value is None else f"mIoU {value:.1f}"


def legend(space: LabelSpace, pixels: NDArray[np.int64]) -> list[Entry]:
    """Names and colours to explain: all of a few classes, of many those with the most pixels.

    Args:
        pixels: how often each id is in the pictures, (256,).
    """
    names, shown = class_names(space), list(range(space.num_classes))
    if space.num_classes > MANY_CLASSES:
        present = [index for index in shown if pixels[index]]
        shown = sorted(sorted(present, key=lambda index: -pixels[index])[:MANY_CLASSES])
    entries: list[Entry] = [(names[index], space.colors[index]) for index in shown]
    if pixels[IGNORE]:
        entries.append(("unlabelled", UNLABELLED))
    left_out = int(np.count_nonzero(pixels[: space.num_classes])) - len(shown)
    return [*entries, (f"and {left_out} more on fewer pixels", None)] if left_out > 0 else entries


def sheet(titles: Sequence[str], rows: Sequence[Row], entries: Sequence[Entry]) -> Image.Image:
    """Titled columns of pictures with captions, and an explanation of colours below."""
    width = _BAND + len(titles) * (CELL + _GAP)
    heights = [max(p.height for p in row.pictures if p) + _LINE + _GAP for row in rows]
    places = _flow([_FONT.getlength(name) + 44 for name, _ in entries], width - _BAND - _GAP)
    top = 40
    foot = top + sum(heights) + 8
    canvas = Image.new("RGB", (width, foot + (places[-1][1] + 1 if places else 0) * 30 + 10), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((_BAND + column * (CELL + _GAP) + CELL / 2, 20), title, INK, _BOLD, "mm")
    y, group, since = top, rows[0].group, top
    for row, height in zip(rows, heights, strict=True):
        if row.group != group:
            _beside(canvas, group, since, y - _GAP)
            group, since = row.group, y
        _draw_row(canvas, draw, row, y, height)
        y += height
    _beside(canvas, group, since, y - _GAP)
    for (name, color), (x, line) in zip(entries, places, strict=True):
        left, up = _BAND + x, foot + 30 * line
        if color is not None:
            draw.rectangle((left, up + 4, left + 24, up + 22), color, _FRAME)
        draw.text((left + 32, up + 13), name, INK, _FONT, "lm")
    return canvas


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, y: int, height: int) -> None:
    bottom = y + height - _LINE - _GAP
    for column, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
        left = _BAND + column * (CELL + _GAP)
        if picture:
            x, up = left + (CELL - picture.width) // 2, y + (bottom - y - picture.height) // 2
            canvas.paste(picture, (x, up))
            draw.rectangle((x - 1, up - 1, x + picture.width, up + picture.height), outline=_FRAME)
        draw.text((left + CELL / 2, bottom + _LINE / 2 + 1), caption, FAINT if column == 0 else INK, _SMALL, "mm")


def _beside(canvas: Image.Image, text: str, top: int, bottom: int) -> None:
    """A group's name, upwards, left of its rows, with a line along them."""
    box = Image.new("RGB", (max(1, bottom - top), _BAND - 14), PAPER)
    ImageDraw.Draw(box).text((box.width / 2, box.height / 2), text, INK, _BOLD, "mm")
    canvas.paste(box.rotate(90, expand=True), (2, top))
    ImageDraw.Draw(canvas).line((_BAND - 8, top, _BAND - 8, bottom - 1), _FRAME, 2)


def _flow(widths: Sequence[float], room: float) -> list[tuple[float, int]]:
    """Where things of these widths go, in columns as wide as the widest: offset and number of the line."""
    if not widths:
        return []
    columns = max(1, min(len(widths), int(room // max(widths))))
    return [(index % columns * (room / columns), index // columns) for index in range(len(widths))]


def fitted(image: Image.Image, width: int, tallest: float) -> Image.Image:
    """The whole image, as large as ``width`` and ``tallest`` widths of height allow."""
    scale = min(width / image.width, width * tallest / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def mask_picture(ids: NDArray[np.uint8], space: LabelSpace, size: tuple[int, int]) -> Image.Image:
    """Class ids, (H, W), in their colours at ``size`` = (width, height), with sharp edges and no new colours inside."""
    table = np.full((256, 3), UNLABELLED, np.uint8)
    table[: space.num_classes] = space.colors
    picture = Image.fromarray(table[ids])
    # Enlarged in whole steps and averaged down: a box filter alone makes pixels of unequal width.
    steps = math.ceil(4 * size[0] / picture.width)
    if steps > 1:
        picture = picture.resize((picture.width * steps, picture.height * steps), Image.Resampling.NEAREST)
    return picture.resize(size, Image.Resampling.BOX)
