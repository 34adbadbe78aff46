"""The papers' street data sets, as they are published, become a pair of domains in the ``folder`` layout.

    python -m atp.datasets.urban --source gta5 GTA5 --target cityscapes CITYSCAPES OUT
    python -m atp.datasets.urban --source synthia RAND_CITYSCAPES --target cityscapes CITYSCAPES OUT
    python -m atp.datasets.urban --source cityscapes CITYSCAPES --target cross-city NTHU_Datasets/Rome OUT

Images are linked, not copied: hard links, or symbolic ones from one file system to another. Only labels are written
anew, as class ids. Where each data set is from, and under which terms: docs/datasets.md.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from atp.data.folder import SUFFIXES, image_size, list_samples
from atp.data.labels import IGNORE, LabelSpace
from atp.data.masks import write_classes, write_mask
from atp.datasets.label_maps import CITYSCAPES, CITYSCAPES_IDS, GTA5_IDS, SYNTHIA_IDS, label_space, mapped, smaller_sets
from atp.errors import InputError, exit_codes


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


def read_first_channel(path: Path) -> NDArray[np.integer[Any]]:
    """The first channel of a PNG of 8 or 16 bits a channel, uint16 (H, W).

    Of 16 bits Pillow keeps the upper 8, in which every id is 0. They are stored upper byte first, so that an unpacker
    told that the lower one is first hands over the lower 8.

    Raises:
        InputError: unreadable, or not of three channels.
    """
    try:
        with Image.open(path) as upper, Image.open(path) as lower:
            high: NDArray[np.uint8] = np.array(upper)
            if upper.mode == "L":
                return high
            tiles = [tile for tile in lower.tile if tile.args in ("RGB", "RGB;16B")]
            if len(tiles) != 1:
                raise InputError(f"{path}: labels must be three channels of 16 bits; unpack it anew")
            if tiles[0].args == "RGB":
                return high[..., 0]
            lower.tile = [tiles[0]._replace(args="RGB;16L")]
            low: NDArray[np.uint8] = np.array(lower)
            return high[..., 0].astype(np.uint16) << 8 | low[..., 0]
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
        images, labels: folders; None where there are no labels.
        count: of images, as published; fewer are told, not refused.
    """

    images: str
    labels: str | None
    count: int


@dataclass(frozen=True)
class DataSet:
    """A data set as published.

    Attributes:
        name: on the command line.
        parts: ``source``, if it can be one; ``target`` and ``test``, if it can be the target.
        files: of its labels; the first kind that is there counts.
        stem_ending: ends the stem of its image files.
        size: (width, height) at which the field trains on it.
        origin: what to download from where.
        classes: that papers report on it.
    """

    name: str
    parts: Mapping[str, Part]
    files: tuple[LabelFiles, ...]
    size: tuple[int, int]
    origin: str
    stem_ending: str = ""
    classes: int = 19


GTA5 = DataSet(
    name="gta5",
    parts={"source": Part("images", "labels", 24966)},
    files=(LabelFiles(".png", GTA5_IDS),),
    size=(1280, 720),
    origin="01_images.zip to 10_images.zip and 01_labels.zip to 10_labels.zip of download.visinf.tu-darmstadt.de",
)
SYNTHIA = DataSet(
    name="synthia",
    parts={"source": Part("RGB", "GT/LABELS", 9400)},
    files=(LabelFiles(".png", SYNTHIA_IDS, read_first_channel),),
    size=(1280, 760),
    origin="SYNTHIA-RAND-CITYSCAPES of synthia-dataset.net",
    classes=16,
)
CITYSCAPES_SET = DataSet(
    name="cityscapes",
    parts={
        "source": Part("leftImg8bit/train", "gtFine/train", 2975),
        "target": Part("leftImg8bit/train", "gtFine/train", 2975),
        "test": Part("leftImg8bit/val", "gtFine/val", 500),
    },
    files=(
        LabelFiles("_gtFine_labelIds.png", CITYSCAPES_IDS),
        LabelFiles("_gtFine_labelTrainIds.png", CITYSCAPES.names),
    ),
    size=(1024, 512),
    origin="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of www.cityscapes-dataset.com",
    stem_ending="_leftImg8bit",
)
CROSS_CITY = DataSet(
    name="cross-city",
    parts={"target": Part("Images/Train", None, 3200), "test": Part("Images/Test", "Labels/Test", 100)},
    files=(LabelFiles("_eval.png", CITYSCAPES_IDS),),
    size=(1024, 512),
    origin="one city's folder of NTHU's, by request at yihsinchen.github.io/segmentation_adaptation_dataset",
    classes=13,
)
DATA_SETS = {data_set.name: data_set for data_set in (GTA5, SYNTHIA, CITYSCAPES_SET, CROSS_CITY)}


@dataclass(frozen=True)
class Pair:
    """An image and its label as published, and the name that they get; ``names`` and ``read`` as in ``LabelFiles``."""

    name: str
    image: Path
    label: Path | None
    files: LabelFiles


def named(name: str) -> DataSet:
    """Raises InputError if there is none of that name."""
    if name not in DATA_SETS:
        raise InputError(f"{name}: no such data set; there are {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


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
    for other in DATA_SETS.values():
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
    part = data_set.parts[split]
    pairs: dict[str, Pair] = {}
    bare: list[tuple[Path, Path]] = []
    samples = list_samples(root / part.images)
    for sample in samples:
        stem = sample.name.removesuffix(data_set.stem_ending)
        name = Path(stem).name
        if name in pairs:
            raise InputError(f"{sample.image}: a second image named {name!r} beside {pairs[name].image}; remove one")
        if part.labels is None:
            pairs[name] = Pair(name, sample.image, None, data_set.files[0])
            continue
        places = [(files, root / part.labels / f"{stem}{files.ending}") for files in data_set.files]
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


@dataclass
class Prepared:
    """What ``prepare`` made.

    Attributes:
        counts: images by split.
        size: (width, height) at which the field trains on the target.
        source_size: the same of the source.
        space: the classes.
        labelled: whether the target's images have labels.
        protocols: smaller sets of classes by which papers also measure the pair.
        notes: what is not as published, or worth a look; one line each.
    """

    counts: dict[str, int]
    size: tuple[int, int]
    source_size: tuple[int, int]
    space: LabelSpace
    labelled: bool
    protocols: dict[str, tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def prepare(
    source: DataSet, source_root: Path, target: DataSet, target_root: Path, out: Path, classes: int | None = None
) -> Prepared:
    """Write the ``folder`` layout: links to the images, and class ids for labels.

    Args:
        source, target: data sets, and the folders where they were unpacked.
        out: must not exist, or be empty.
        classes: of ``CLASS_SETS``; if None, those that papers report on both.

    Raises:
        InputError: a data set that cannot be used so, an image without its label, a label that is not as published, or
            an ``out`` that holds something.
    """
    _check(source, target, out)
    space = label_space(classes or min(source.classes, target.classes))
    pairs = {"source": list_pairs(source, source_root, "source")}
    pairs |= {split: list_pairs(target, target_root, split) for split in ("target", "test")}
    parts = {"source": source.parts["source"], "target": target.parts["target"], "test": target.parts["test"]}
    result = Prepared(
        {split: len(chosen) for split, chosen in pairs.items()},
        target.size,
        source.size,
        space,
        parts["target"].labels is not None,
        smaller_sets(space.num_classes) if source.classes < CITYSCAPES.num_classes else {},
    )
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with tqdm(total=sum(result.counts.values()), desc="prepare", unit="image", disable=None) as progress:
            for split, chosen in pairs.items():
                if len(chosen) < parts[split].count:
                    result.notes.append(f"{split}: {len(chosen)} of the {parts[split].count} images published")
                result.notes += _write_split(chosen, temporary / split, space, split, progress)
        write_classes(temporary / "source/classes.yaml", space)
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _check(source: DataSet, target: DataSet, out: Path) -> None:
    if "source" not in source.parts:
        known = ", ".join(name for name, each in DATA_SETS.items() if "source" in each.parts)
        raise InputError(f"{source.name}: its training images have no labels; a source can be {known}")
    if "target" not in target.parts:
        known = ", ".join(name for name, each in DATA_SETS.items() if "target" in each.parts)
        raise InputError(f"{target.name}: has no test images of its own; a target can be {known}")
    if source is target:
        raise InputError(f"{source.name}: source and target are the same data set; give two")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: not an empty folder; give a new one")
    dvc_file = out.with_name(f"{out.name}.dvc")
    if dvc_file.exists():
        raise InputError(f"{dvc_file}: brings in other data at {out}; run: dvc remove {dvc_file}")


def _write_split(
    pairs: Sequence[Pair], folder: Path, space: LabelSpace, split: str, progress: "tqdm[None]"
) -> list[str]:
    """Link the images and convert the labels, several at a time; returns what is worth telling."""
    for kind in ("images", "labels") if pairs[0].label else ("images",):
        (folder / kind).mkdir(parents=True)
    pixels = np.zeros(IGNORE + 1, np.int64)
    resized: list[Path] = []
    # Decoding and encoding leave Python's lock.
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for pair, counts, fitted in pool.map(lambda pair: _write(pair, folder, space), pairs):
            pixels += counts
            if fitted and pair.label:
                resized.append(pair.label)
            progress.update()
    finally:
        # After an error, not to go through all the others first.
        pool.shutdown(cancel_futures=True)
    return _remarks(pixels, resized, split, space)


def _write(pair: Pair, folder: Path, space: LabelSpace) -> tuple[Pair, NDArray[np.int64], bool]:
    """One image and its label; returns pixels by class, and whether the label had to be fitted to its image."""
    _link(pair.image, folder / "images" / f"{pair.name}{pair.image.suffix}")
    size = image_size(pair.image)
    if pair.label is None:
        return pair, np.zeros(IGNORE + 1, np.int64), False
    ids = mapped(pair.files.read(pair.label), pair.files.names, space, pair.label)
    fitted = (ids.shape[1], ids.shape[0]) != size
    if fitted:
        ids = np.array(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    write_mask(folder / "labels" / f"{pair.name}.png", torch.from_numpy(ids), space)
    return pair, np.bincount(ids.ravel(), minlength=IGNORE + 1), fitted


def _link(path: Path, link: Path) -> None:
    try:
        # The file itself, should the download consist of links.
        link.hardlink_to(path.resolve())
    except OSError:
        # Another file system, or one that knows no hard links.
        link.symlink_to(path.resolve())


def _remarks(pixels: NDArray[np.int64], resized: Sequence[Path], split: str, space: LabelSpace) -> list[str]:
    notes = []
    if resized:
        notes.append(
            f"{split}: {len(resized)} labels were not of their image's size and were fitted to it, as all code that "
            f"resizes both does: {', '.join(path.name for path in resized[:3])}{', ...' if len(resized) > 3 else ''}"
        )
    total = int(pixels.sum())
    if not total:
        return notes
    absent = [name for name, count in zip(space.names, pixels.tolist(), strict=False) if not count]
    if absent:
        notes.append(f"{split}: no pixel of {', '.join(absent)}")
    unlabelled = pixels[IGNORE] / total
    if unlabelled > 0.5:
        notes.append(f"{split}: {unlabelled:.0%} of the pixels have no class; are these the published labels?")
    return notes


def settings(prepared: Prepared, out: Path) -> str:
    """The section ``data`` of params.yaml for a prepared folder."""
    lines = [
        "data:",
        f"  root: {out}",
        f"  source: {{root: {out}/source, size: {list(prepared.source_size)}}}",
        f"  target: {{images: {out}/target/images, labels: "
        + (f"{out}/target/labels}}" if prepared.labelled else "null}"),
        f"  test: {{images: {out}/test/images, labels: {out}/test/labels}}",
        f"  classes: {out}/source/classes.yaml",
        "  class_map: null",
        f"  size: {list(prepared.size)}",
        "  crop: null",
    ]
    lines.append("  protocols:" if prepared.protocols else "  protocols: {}")
    lines += [f"    {name}: [{', '.join(names)}]" for name, names in prepared.protocols.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(DATA_SETS)
    parser.add_argument("--source", nargs=2, required=True, metavar=("NAME", "FOLDER"), help=names)
    parser.add_argument("--target", nargs=2, required=True, metavar=("NAME", "FOLDER"), help=names)
    parser.add_argument(
        "--classes", type=int, choices=(19, 16, 13), help="those that papers report on both, if not given"
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    with exit_codes():
        source, target = (named(name) for name, _ in (arguments.source, arguments.target))
        source_root, target_root = Path(arguments.source[1]), Path(arguments.target[1])
        _check(source, target, arguments.out)
        lines = missing(source, source_root, ["source"]) + missing(target, target_root, ["target", "test"])
        for line in lines[:-1]:
            print(f"error: {line}", file=sys.stderr)
        if lines:
            raise InputError(lines[-1])
        prepared = prepare(source, source_root, target, target_root, arguments.out, arguments.classes)
        for note in prepared.notes:
            print(f"note: {note}")
        counts = ", ".join(f"{count} {split}" for split, count in prepared.counts.items())
        print(f"{counts} images in {arguments.out}; for params.yaml:\n\n{settings(prepared, arguments.out)}")


if __name__ == "__main__":
    main()
