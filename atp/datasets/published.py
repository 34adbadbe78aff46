"""Data sets as they are published: where images and labels lie, and what the ids in the labels are called.

Each data set is one or more ``DataSet`` in a file of this folder, and the listing of the folder is the only list of
them. ``atp.datasets.pairs`` makes a pair of domains of two; sources and terms: docs/how-to/datasets.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atp.data.folder import SUFFIXES, Sample, list_samples
from atp.data.labels import LabelSpace
from atp.errors import InputError


def read_ids_as_published(path: Path) -> NDArray[np.uint8]:
    """A greyscale or palette PNG of ids, uint8 (H, W).

    Raises:
        InputError: unreadable, or of colours instead of ids.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):
                raise InputError(f"{path}: labels must be 8-bit ids, this file's mode is {file.mode}; unpack it anew")
            ids: NDArray[np.uint8] = np.array(file)
            return ids
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as a label ({error}); unpack it anew") from error


@dataclass(frozen=True)
class LabelFiles:
    """One kind of label file.

    Attributes:
        ending: follows the image's stem.
        names: of the ids in it, from 0; 255 is always no label.
        read: the ids, (H, W).
    """

    ending: str
    names: tuple[str, ...]
    read: Callable[[Path], NDArray[np.integer[Any]]] = read_ids_as_published


@dataclass(frozen=True)
class Part:
    """One split of a data set as published.

    Attributes:
        images, labels: folders; ``labels`` is None where there are none.
        count: of images, as published; fewer are reported, not refused.
        more: further folders of images and of labels, which may be absent.
        chosen: which of the images below these folders belong to the split, by their sorted names; None takes all.
    """

    images: str
    labels: str | None
    count: int
    more: tuple[tuple[str, str], ...] = ()
    chosen: Callable[[Sequence[str]], Iterable[str]] | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set as published; one download may hold several, each with parts of its own.

    Attributes:
        name: on the command line.
        parts: ``source``, if it can be one; ``target`` and ``test``, if it can be the target.
        files: of its labels; the first kind that is there counts.
        classes: that papers report on it. A pair of domains has those of its source that its target has too.
        size: (width, height) at which the field trains on it.
        origin: what to download from where.
        stem_ending: ends the stem of its image files.
        protocols: smaller sets of classes by which papers also measure models that were trained on it.
    """

    name: str
    parts: Mapping[str, Part]
    files: tuple[LabelFiles, ...]
    classes: LabelSpace
    size: tuple[int, int]
    origin: str
    stem_ending: str = ""
    protocols: tuple[tuple[str, ...], ...] = ()


@cache
def data_sets() -> Mapping[str, DataSet]:
    """Every data set by its name: what the files of this folder define."""
    modules = [import_module(f"{__package__}.{path.stem}") for path in sorted(Path(__file__).parent.glob("[!_]*.py"))]
    found = (value for module in modules for value in vars(module).values() if isinstance(value, DataSet))
    return {data_set.name: data_set for data_set in found}


def named(name: str) -> DataSet:
    """Raises InputError if there is none of that name."""
    if name not in data_sets():
        raise InputError(f"{name}: no such data set; there are {', '.join(data_sets())}")
    return data_sets()[name]


@dataclass(frozen=True)
class Pair:
    """An image and its label as published, and the name that they get; ``names`` and ``read`` as in ``LabelFiles``."""

    name: str
    image: Path
    label: Path | None
    files: LabelFiles


def missing(data_set: DataSet, root: Path, splits: Iterable[str]) -> list[str]:
    """What of a data set is not where it is published to be: a line for each folder, and what belongs there.

    One line where it is all somewhere else.
    """
    parts = [data_set.parts[split] for split in splits]
    astray = _astray(data_set, root, parts)
    if astray:
        return [astray]
    lines = []
    endings = tuple(files.ending for files in data_set.files)
    for part in parts:
        for what, name, wanted in (("images", part.images, tuple(SUFFIXES)), ("labels", part.labels, endings)):
            if name is None or any(path.name.endswith(wanted) for path in (root / name).rglob("*")):
                continue
            why = f"no {what} in it" if (root / name).is_dir() else "no such folder"
            named = f" *{wanted[0]}" if what == "labels" else ""
            lines.append(
                f"{root / name}: {why}; the {what}{named} of {data_set.name} belong there, {part.count} as published: "
                f"{data_set.origin}"
            )
    return list(dict.fromkeys(lines))


def _folders(parts: Iterable[Part]) -> set[str]:
    return {name for part in parts for name in (part.images, part.labels) if name is not None}


def _astray(data_set: DataSet, root: Path, parts: Sequence[Part]) -> str | None:
    """Why none of the folders is there, if one can tell."""
    if not root.exists():
        return f"{root}: no such folder"
    if not root.is_dir():
        return f"{root}: not a folder; give the one into which {data_set.name} was unpacked"
    folders = _folders(parts)

    def holds(folder: Path, wanted: set[str] = folders) -> bool:
        return all((folder / name).is_dir() for name in wanted)

    if any((root / name).is_dir() for name in folders):
        return None
    for other in data_sets().values():
        if other is not data_set and holds(root, _folders(other.parts.values())):
            return (
                f"{root}: has the folders of {other.name}, not those of {data_set.name}; name that data set, or give "
                "another folder"
            )
    near = [*sorted(root.glob("*/")), *sorted(root.glob("*/*/")), *root.absolute().parents[:2]]
    found = [str(folder) for folder in near if holds(folder)]
    if found:
        which = "that one" if len(found) == 1 else "one of them"
        return f"{root}: the folders of {data_set.name} are not in it but in {' and in '.join(found)}; give {which}"
    return None


def list_pairs(data_set: DataSet, root: Path, split: str) -> list[Pair]:
    """All images of a split with their labels, sorted by name.

    Raises:
        InputError: no images, two of one name, or an image without its label.
    """
    pairs: dict[str, Pair] = {}
    bare: list[tuple[Path, Path]] = []
    samples = _samples(data_set, root, split)
    for sample, labels in samples:
        stem = sample.name.removesuffix(data_set.stem_ending)
        name = Path(stem).name
        if name in pairs:
            raise InputError(f"{sample.image}: a second image named {name!r} beside {pairs[name].image}; remove one")
        if labels is None:
            pairs[name] = Pair(name, sample.image, None, data_set.files[0])
            continue
        places = [(files, root / labels / f"{stem}{files.ending}") for files in data_set.files]
        files, label = next((place for place in places if place[1].is_file()), places[0])
        pairs[name] = Pair(name, sample.image, label, files)
        if not label.is_file():
            bare.append((sample.image, label))
    if bare:
        image, label = bare[0]
        raise InputError(
            f"{image}: no label for this image at {label}; {len(bare)} of {len(samples)} images have none; unpack the "
            f"labels too: {data_set.origin}"
        )
    return [pairs[name] for name in sorted(pairs)]


def _samples(data_set: DataSet, root: Path, split: str) -> list[tuple[Sample, str | None]]:
    """The images of a split, each with the folder of its label."""
    part = data_set.parts[split]
    folders = [(part.images, part.labels), *(more for more in part.more if (root / more[0]).is_dir())]
    samples = [(sample, labels) for images, labels in folders for sample in list_samples(root / images)]
    if part.chosen is None:
        return samples
    chosen = set(part.chosen(sorted(sample.name for sample, _ in samples)))
    if not chosen:
        raise InputError(f"{root}: none of its {len(samples)} images is one of {data_set.name}; {data_set.origin}")
    return [(sample, labels) for sample, labels in samples if sample.name in chosen]
