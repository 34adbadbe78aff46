"""Label ids of street scenes with Cityscapes' class names, and the sets of classes that papers report.

Classes are matched by name: a data set names its ids, a class set is a selection of names, and an id maps to the index
of its name in that set, or 255 if the set lacks it. Names, ids, train ids and colours are those of ``labels.py`` in the
official cityscapesScripts.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atp.data.labels import IGNORE, LabelSpace
from atp.errors import InputError

_CITYSCAPES: Mapping[str, tuple[int, int, int] | None] = {
    "unlabeled": None,
    "ego vehicle": None,
    "rectification border": None,
    "out of roi": None,
    "static": None,
    "dynamic": None,
    "ground": None,
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "parking": None,
    "rail track": None,
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "guard rail": None,
    "bridge": None,
    "tunnel": None,
    "pole": (153, 153, 153),
    "polegroup": None,
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "caravan": None,
    "trailer": None,
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""Colours of the evaluated classes by name, in the order of the ids 0 to 33 in ``*_gtFine_labelIds.png``."""

CITYSCAPES_IDS = tuple(_CITYSCAPES)

CITYSCAPES_CLASSES = LabelSpace(
    # The train ids of the 19 evaluated classes have the same order as their ids.
    names=tuple(name for name, color in _CITYSCAPES.items() if color),
    colors=tuple(color for color in _CITYSCAPES.values() if color),
)


def without(names: Iterable[str], *absent: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in absent)


# These three classes are very rare in SYNTHIA.
SIXTEEN = without(CITYSCAPES_CLASSES.names, "terrain", "truck", "train")
# Cross-City is labelled with the same classes: Chen et al., No More Discrimination (2017).
THIRTEEN = without(SIXTEEN, "wall", "fence", "pole")

CLASS_SETS = {19: CITYSCAPES_CLASSES.names, 16: SIXTEEN, 13: THIRTEEN}
"""Class names of each protocol, by the number of classes."""


def label_space(classes: int) -> LabelSpace:
    """Return one of ``CLASS_SETS`` with Cityscapes' colours."""
    colors = dict(zip(CITYSCAPES_CLASSES.names, CITYSCAPES_CLASSES.colors, strict=True))
    names = CLASS_SETS[classes]
    return LabelSpace(names, tuple(colors[name] for name in names))


def mapped(ids: NDArray[np.integer[Any]], names: Sequence[str], space: LabelSpace, path: Path) -> NDArray[np.uint8]:
    """Map published ids to those of a class set, uint8, with 255 for ids without a class and for 255.

    Args:
        ids: ids of any shape.
        names: names of the published ids, from 0.
        space: the class set.
        path: the file, for error messages.

    Raises:
        InputError: if an id is not a published one.
    """
    place = {name: index for index, name in enumerate(space.names)}
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    table[: len(names)] = [place.get(name, IGNORE) for name in names]
    wrong = ids[(ids >= len(names)) & (ids != IGNORE)]
    if wrong.size:
        raise InputError(
            f"{path}: label value {wrong.flat[0]} is not a published id, 0 to {len(names) - 1}; unpack the file again"
        )
    classes: NDArray[np.uint8] = table[ids]
    return classes
