"""Labels whose pixels are the classes' colours, converted to class ids."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atp.data.folder import list_samples, open_image
from atp.data.labels import IGNORE, LabelSpace
from atp.data.masks import write_mask
from atp.errors import InputError, some
from atp.files import new_folder

Colour = tuple[int, int, int]


def convert_labels(folder: Path, out: Path, space: LabelSpace, unlabelled: Sequence[Colour] = ()) -> int:
    """Write a palette PNG of class ids for every image of colours below a folder, under the same name.

    Args:
        out: folder to create; it appears once all files are written.
        unlabelled: colours of pixels without a label, which become 255.

    Returns:
        Number of files.

    Raises:
        InputError: if there are no images, ``out`` is not new, two classes share a colour, or a colour is of no class.
    """
    ids = _ids(space, unlabelled)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of labels")
    images = list_samples(folder)
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out}: is below {folder}, whose images would then include it; name another folder")
    unknown: Counter[Colour] = Counter()
    with new_folder(out) as temporary:
        for sample in images:
            converted, strange = _converted(sample.image, ids)
            unknown += strange
            write_mask(temporary / f"{sample.name}.png", converted, space)
        if unknown:
            colours = [f"{','.join(map(str, colour))} ({count} pixels)" for colour, count in unknown.most_common()]
            raise InputError(
                f"{folder}: colours of no class: {some(colours)}; add them to the classes, or if these pixels have no "
                f"label, pass --unlabelled {colours[0].partition(' ')[0]}"
            )
    return len(images)


def colour(text: str) -> Colour:
    """Read a colour such as ``0,0,0``.

    Raises:
        InputError: if it is none.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) < 256 for part in parts):
        raise InputError(f"--unlabelled {text}: must be red, green and blue from 0 to 255, as in 0,0,0")
    red, green, blue = (int(part) for part in parts)
    return red, green, blue


def _ids(space: LabelSpace, unlabelled: Sequence[Colour]) -> dict[Colour, int]:
    ids: dict[Colour, int] = {}
    for index, (name, own) in enumerate(zip(space.names, space.colors, strict=True)):
        if own in ids:
            raise InputError(f"classes {space.names[ids[own]]} and {name} share the colour {list(own)}; change one")
        ids[own] = index
    for none in unlabelled:
        if none in ids:
            raise InputError(f"--unlabelled {','.join(map(str, none))}: is the colour of {space.names[ids[none]]}")
    return ids | dict.fromkeys(unlabelled, IGNORE)


def _converted(path: Path, ids: dict[Colour, int]) -> tuple[NDArray[np.uint8], "Counter[Colour]"]:
    """The class ids of an image of colours, and its colours of no class."""
    colours, places = np.unique(_packed(path), return_inverse=True)
    triples = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in colours]
    table = np.array([ids.get(triple, IGNORE) for triple in triples], np.uint8)
    counts = np.bincount(places.ravel(), minlength=len(triples)).tolist()
    strange = {triple: count for triple, count in zip(triples, counts, strict=True) if triple not in ids}
    return table[places], Counter(strange)


def _packed(path: Path) -> NDArray[np.uint32]:
    """Colours as numbers, red in the highest byte."""
    red, green, blue = np.moveaxis(np.array(open_image(path)), 2, 0).astype(np.uint32)
    packed: NDArray[np.uint32] = red << 16 | green << 8 | blue
    return packed
