"""What a user need not say: the classes, from the network and the labels, and the size at which images are read."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from atp.data.folder import Sample, evenly_spread, image_size, read_ids
from atp.data.labels import IGNORE
from atp.data.settings import read_classes
from atp.errors import InputError, some
from atp.models.named import NamedNetwork

LOOKED_AT = 50
"""Number of images and labels that are read, at even intervals."""

LONGER_SIDE = 512
"""Largest width or height that is guessed: a training step on a CPU takes seconds there."""

MULTIPLE = 32
"""Of the guessed width and height: the stride of most encoders."""


def guess_classes(
    given: Path | None, network: NamedNetwork | None, labelled: Sequence[Sample], *, mapped: bool
) -> tuple[list[str] | None, str]:
    """The names of the classes, in the order of their ids.

    Args:
        given: file of the classes.
        network: the source model's network; None for one of ATP's own.
        labelled: labelled images of the target.
        mapped: the source model's classes are mapped to the target's, so that their numbers may differ.

    Returns:
        None if they are in ``given``; and one line that says where they come from.

    Raises:
        InputError: nothing says how many there are, or what says so differs.
    """
    count = network.num_classes if network else None
    if given is not None:
        space = read_classes(given)
        if count not in (None, space.num_classes) and not mapped:
            raise InputError(
                f"{given}: {space.num_classes} classes, but the network has {count}; list those of the network, or map "
                "them: --set data.class_map=..., see docs/how-to/own-model.md"
            )
        return None, f"classes: {space.num_classes}, as {given} lists them"
    highest, path = _highest_id(labelled)
    if network is not None and network.classes is not None:
        names, why = list(network.classes), "as the network names them"
    elif count is not None:
        names, why = _numbered(count), "a guess from the size of the network's output"
    elif highest >= 0:
        names, why = _numbered(highest + 1), f"a guess from the highest id in {LOOKED_AT} labels"
    else:
        raise InputError("--classes: missing; give a file that lists the names of the classes, one a line: - road")
    if highest >= len(names):
        raise InputError(
            f"{path}: label value {highest}, but the network has only {len(names)} classes (0..{len(names) - 1}); "
            "correct the labels, or give --classes and --set data.class_map=..."
        )
    remedy = "name them by --classes FILE, or later" if names == _numbered(len(names)) else "correct them"
    return names, f"classes: {len(names)} ({some(names)}), {why}; {remedy} as data.classes in params.yaml"


def _numbered(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


def _highest_id(labelled: Sequence[Sample]) -> tuple[int, Path | None]:
    """The highest class id in some of the labels, and the file that has it; -1 without any."""
    highest: tuple[int, Path | None] = (-1, None)
    for sample in evenly_spread(labelled, LOOKED_AT):
        if sample.label is not None:
            ids = read_ids(sample.label, 255)
            known = ids[ids != IGNORE]
            if known.size and known.max() > highest[0]:
                highest = (int(known.max()), sample.label)
    return highest


def guess_size(samples: Sequence[Sample], network: NamedNetwork | None) -> tuple[tuple[int, int], str]:
    """The (width, height) at which images are read: the network's own, or from the images.

    Returns:
        The size, and one line that says where it comes from.
    """
    if network is not None and network.size is not None:
        width, height = network.size
        return network.size, f"size: {width}x{height}, at which the network was trained; --size sets another"
    sizes = [image_size(sample.image) for sample in evenly_spread(samples, LOOKED_AT)]
    width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
    shorter = network.shorter_side if network else None
    scale = shorter / min(width, height) if shorter else min(1.0, LONGER_SIDE / max(width, height))
    size = (_rounded(width * scale), _rounded(height * scale))
    why = f"for which the network was trained on a shorter side of {shorter}" if shorter else "a guess"
    middle = f"the images' median size is {width:g}x{height:g}"
    return size, f"size: {size[0]}x{size[1]}, {why}: {middle}; --size sets another"


def _rounded(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
