"""Images blended with their classes' colours, with a legend."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from atp.data.labels import LabelSpace
from atp.report.style import FAINT, INK, PAPER, class_names, font

NARROWEST = 480
"""Width of an overlay with a legend, pixels, to which narrower images are enlarged by a whole number."""


def overlay(
    image: Image.Image, ids: NDArray[np.uint8], space: LabelSpace, classes: Sequence[int] | None = None
) -> Image.Image:
    """Blend an image half and half with its classes' colours, and put a legend of ``classes`` below it.

    With a legend, small images are enlarged, so that its names can be read.

    Args:
        image: RGB.
        ids: class ids at the image's size, (H, W).
        classes: ids that the legend names; none adds no legend, None those that occur.
    """
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[: space.num_classes]).tolist()
    shown = present if classes is None else classes
    mask = Image.fromarray(np.frombuffer(space.palette, np.uint8).reshape(256, 3)[ids])
    if not shown:
        return Image.blend(image, mask, 0.5)
    times = math.ceil(NARROWEST / image.width)
    size = (times * image.width, times * image.height)
    enlarged = image.resize(size, Image.Resampling.BICUBIC), mask.resize(size, Image.Resampling.NEAREST)
    return _with_legend(Image.blend(*enlarged, 0.5), shown, space)


def _with_legend(image: Image.Image, shown: Sequence[int], space: LabelSpace) -> Image.Image:
    """Add rows of colours and names below an image."""
    letters = max(13, image.width // 70)
    line, swatch, gap = round(1.7 * letters), round(1.2 * letters), letters // 2
    names, written = class_names(space), font(letters)
    entry = math.ceil(max(written.getlength(names[index]) for index in shown)) + swatch + 4 * gap
    abreast = max(1, (image.width - gap) // entry)
    canvas = Image.new("RGB", (image.width, image.height + math.ceil(len(shown) / abreast) * line + 2 * gap), PAPER)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    for place, index in enumerate(shown):
        left = gap + place % abreast * entry
        top = image.height + gap + place // abreast * line
        box = (left, top + (line - swatch) // 2, left + swatch, top + (line + swatch) // 2)
        draw.rectangle(box, space.colors[index], FAINT)
        draw.text((left + swatch + gap, top + line / 2), names[index], INK, written, "lm")
    return canvas
