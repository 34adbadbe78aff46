"""Data sets as published: locations of images and labels, and names of the label ids.

Each data set is defined as one or more ``DataSet`` in a file in this folder; there is no other list of them.
``atp.datasets.pairs`` combines two into a pair of domains; for sources and licences, see docs/how-to/datasets.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """Read a greyscale or palette PNG of ids, uint8 (H, W).

    Raises:
        InputError: if the file is unreadable, or contains colours instead of ids.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):
                raise InputError(f"{path}: has mode {file.mode}, not 8-bit ids; unpack the labels again")
            ids: NDArray[np.uint8] = np.array(file)
            return ids
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as a label ({error}); unpack it again") from error


@dataclass(frozen=True)
class LabelFiles:
    """One kind of label file.

    Attributes:
        ending: what follows the image's stem.
        names: names of the ids, from 0; 255 always means no label.
        read: function that reads the ids, (H, W).
    """

    ending: str
    names: tuple[str, ...]
    read: Callable[[Path], NDArray[np.integer[Any]]] = read_ids_as_published


@dataclass(frozen=True)
class Part:
    """One split of a data set as published.

    Attributes:
        images, labels: folders; ``labels`` is None without labels.
        count: published number of images; fewer are noted, but allowed.
        more: additional, optional folders of images and labels.
        chosen: selects the images of the split from the sorted names; None selects all.
        instead: folders of images and labels in another layout of the same files, used if ``images`` does not exist.
    """

    images: str
    labels: str | None
    count: int
    more: tuple[tuple[str, str], ...] = ()
    chosen: Callable[[Sequence[str]], Iterable[str]] | None = None
    instead: tuple[str, str] | None = None

    def at(self, root: Path) -> "Part":
        """The part with the folders that it has in this place."""
        if self.instead is None or (root / self.images).is_dir() or not (root / self.instead[0]).is_dir():
            return self
        return replace(self, images=self.instead[0], labels=self.instead[1])


@dataclass(frozen=True)
class DataSet:
    """A data set as published; one download may contain several, each with its own parts.

    Attributes:
        name: name on the command line.
        parts: ``source`` if it can be a source; ``target`` and ``test`` if it can be a target, with ``validation`` if
            more labelled images are held out, to choose settings on.
        files: kinds of label files; the first that exists is used.
        classes: classes that papers report. A pair of domains has those of the source that the target also has.
        size: (width, height) of images in training, as in the literature.
        origin: what to download, and from where.
        stem_ending: suffix of the stem of its image files.
        repeats: whether folders repeat file names, so that an image's name must include its folder.
        as_classes: for the classes of other data sets, by the data set's name: the class of each of its own names that
            has one.
        protocols: smaller sets of classes for which papers also report the mIoU of models trained on it.
    """

    name: str
    parts: Mapping[str, Part]
    files: tuple[LabelFiles, ...]
    classes: LabelSpace
    size: tuple[int, int]
    origin: str
    stem_ending: str = ""
    repeats: bool = False
    as_classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    protocols: tuple[tuple[str, ...], ...] = ()

    @property
    def target_parts(self) -> tuple[str, ...]:
        """Names of its parts if it is the target."""
        return tuple(name for name in ("target", "test", "validation") if name in self.parts)

    def in_terms_of(self, other: "DataSet") -> "DataSet":
        """This data set with the other's classes, if it knows them; otherwise itself."""
        if other.name not in self.as_classes:
            return self
        called = self.as_classes[other.name]
        files = (replace(each, names=tuple(called.get(name, name) for name in each.names)) for each in self.files)
        return replace(self, classes=other.classes, files=tuple(files))


@cache
def data_sets() -> Mapping[str, DataSet]:
    """All data sets defined in this folder, by name."""
    modules = [import_module(f"{__package__}.{path.stem}") for path in sorted(Path(__file__).parent.glob("[!_]*.py"))]
    found = (value for module in modules for value in vars(module).values() if isinstance(value, DataSet))
    return {data_set.name: data_set for data_set in found}


def named(name: str) -> DataSet:
    """Return the data set of that name; raises InputError if it does not exist."""
    if name not in data_sets():
        raise InputError(f"{name}: no such data set; choose from {', '.join(data_sets())}")
    return data_sets()[name]


@dataclass(frozen=True)
class Pair:
    """An image and its label as published, and their name in the prepared folder."""

    name: str
    image: Path
    label: Path | None
    files: LabelFiles


def missing(data_set: DataSet, root: Path, splits: Iterable[str]) -> list[str]:
    """Describe the missing parts of a data set, one line per folder, or one line if it is in another folder."""
    parts = [data_set.parts[split].at(root) for split in splits]
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
                f"{root / name}: {why}; put the {part.count} {what}{named} of {data_set.name} there: {data_set.origin}"
            )
    return list(dict.fromkeys(lines))


def _folders(parts: Iterable[Part]) -> set[str]:
    return {name for part in parts for name in (part.images, part.labels) if name is not None}


def _astray(data_set: DataSet, root: Path, parts: Sequence[Part]) -> str | None:
    """Explain why none of the folders exists, if the reason can be found."""
    if not root.exists():
        return f"{root}: no such folder"
    if not root.is_dir():
        return f"{root}: not a folder; use the folder into which {data_set.name} was unpacked"
    folders = _folders(parts)

    def holds(folder: Path, wanted: set[str] = folders) -> bool:
        return all((folder / name).is_dir() for name in wanted)

    if any((root / name).is_dir() for name in folders):
        return None
    for other in data_sets().values():
        if other is not data_set and holds(root, _folders(other.parts.values())):
            return (
                f"{root}: has the folders of {other.name}, not those of {data_set.name}; choose that data set, or "
                "another folder"
            )
    near = [*sorted(root.glob("*/")), *sorted(root.glob("*/*/")), *root.absolute().parents[:2]]
    found = [str(folder) for folder in near if holds(folder)]
    if found:
        which = "that folder" if len(found) == 1 else "one of them"
        return f"{root}: {data_set.name} is not in this folder but in {' and '.join(found)}; use {which}"
    return None


def list_pairs(data_set: DataSet, root: Path, split: str) -> list[Pair]:
    """List the images of a split with their labels, sorted by name.

    Raises:
        InputError: if there are no images, two images have one name, or a label is missing.
    """
    pairs: dict[str, Pair] = {}
    bare: list[tuple[Path, Path]] = []
    samples = _samples(data_set, root, split)
    for sample, labels in samples:
        stem = sample.name.removesuffix(data_set.stem_ending)
        name = stem.replace("/", "_") if data_set.repeats else Path(stem).name
        if name in pairs:
            raise InputError(f"{sample.image}: has the same name {name!r} as {pairs[name].image}; remove one of them")
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
            f"{image}: its label {label} does not exist; {len(bare)} of {len(samples)} images have none; unpack the "
            f"labels too: {data_set.origin}"
        )
    return [pairs[name] for name in sorted(pairs)]


def _samples(data_set: DataSet, root: Path, split: str) -> list[tuple[Sample, str | None]]:
    """List the images of a split, each with the folder of its label."""
    part = data_set.parts[split]
    first = part.at(root)
    folders = [(first.images, first.labels), *(more for more in part.more if (root / more[0]).is_dir())]
    samples = [(sample, labels) for images, labels in folders for sample in list_samples(root / images)]
    if part.chosen is None:
        return samples
    chosen = set(part.chosen(sorted(sample.name for sample, _ in samples)))
    if not chosen:
        raise InputError(f"{root}: none of its {len(samples)} images belongs to {data_set.name}; {data_set.origin}")
    return [(sample, labels) for sample, labels in samples if sample.name in chosen]
