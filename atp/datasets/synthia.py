"""SYNTHIA-RAND-CITYSCAPES: Ros et al., The SYNTHIA Dataset (2016)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atp.datasets.label_maps import SIXTEEN, THIRTEEN, label_space
from atp.datasets.published import DataSet, LabelFiles, Part
from atp.errors import InputError

IDS = (
    "void",
    "sky",
    "building",
    "road",
    "sidewalk",
    "fence",
    "vegetation",
    "pole",
    "car",
    "traffic sign",
    "person",
    "bicycle",
    "motorcycle",
    "parking-slot",
    "road-work",
    "traffic light",
    "terrain",
    "rider",
    "truck",
    "bus",
    "train",
    "wall",
    "lanemarking",
)
"""Names of the ids 0 to 22 in the first channel of ``GT/LABELS``, from the README of its archive, with Cityscapes'
class names (SYNTHIA says pedestrian)."""


def read_first_channel(path: Path) -> NDArray[np.integer[Any]]:
    """Read the first channel of a PNG with 8 or 16 bits per channel, uint16 (H, W).

    Pillow keeps only the upper 8 of 16 bits, where every id is 0. Bytes are stored in big-endian order, so reading the
    file as little-endian gives the lower 8.

    Raises:
        InputError: if the file is unreadable, or does not have three channels.
    """
    try:
        with Image.open(path) as upper, Image.open(path) as lower:
            high: NDArray[np.uint8] = np.array(upper)
            if upper.mode == "L":
                return high
            tiles = [tile for tile in lower.tile if tile.args in ("RGB", "RGB;16B")]
            if len(tiles) != 1:
                raise InputError(f"{path}: does not have three channels of 16 bits; unpack the labels again")
            if tiles[0].args == "RGB":
                return high[..., 0]
            lower.tile = [tiles[0]._replace(args="RGB;16L")]
            low: NDArray[np.uint8] = np.array(lower)
            return high[..., 0].astype(np.uint16) << 8 | low[..., 0]
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as a label ({error}); unpack it again") from error


SYNTHIA = DataSet(
    name="synthia",
    parts={"source": Part("RGB", "GT/LABELS", 9400)},
    files=(LabelFiles(".png", IDS, read_first_channel),),
    classes=label_space(16),
    size=(1280, 760),
    origin="SYNTHIA-RAND-CITYSCAPES of synthia-dataset.net",
    protocols=(SIXTEEN, THIRTEEN),
)
