"""Prepare two data sets as a pair of domains in the ``folder`` layout.

Images are linked, not copied, with hard links or, across file systems, symbolic links. Labels are written as class ids.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from atp.data.folder import image_size
from atp.data.labels import IGNORE, LabelSpace
from atp.data.masks import write_classes, write_mask
from atp.datasets.label_maps import mapped
from atp.datasets.published import DataSet, Pair, data_sets, list_pairs
from atp.errors import InputError


@dataclass
class Prepared:
    """Result of ``prepare``.

    Attributes:
        counts: number of images by split.
        size: (width, height) of target images in training, as in the literature.
        source_size: (width, height) of source images in training.
        space: the classes.
        labelled: whether the target's images have labels.
        protocols: smaller sets of classes for which papers also report mIoU.
        notes: differences from the published data and other remarks, one line each.
    """

    counts: dict[str, int]
    size: tuple[int, int]
    source_size: tuple[int, int]
    space: LabelSpace
    labelled: bool
    protocols: dict[str, tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def prepare(
    source: DataSet, source_root: Path, target: DataSet, target_root: Path, out: Path, classes: LabelSpace | None = None
) -> Prepared:
    """Write the ``folder`` layout: links to the images, and class ids for labels.

    Args:
        source, target: the data sets.
        source_root, target_root: folders into which they were unpacked.
        out: must be empty, or not exist.
        classes: if None, the classes that papers report for both.

    Raises:
        InputError: if a data set cannot take this part, a label is missing or differs from the published format, or
            ``out`` is not empty.
    """
    check(source, target, out)
    source, target = source.in_terms_of(target), target.in_terms_of(source)
    space = classes or common_classes(source, target)
    pairs = {"source": list_pairs(source, source_root, "source")}
    pairs |= {split: list_pairs(target, target_root, split) for split in target.target_parts}
    parts = {**target.parts, "source": source.parts["source"]}
    result = Prepared(
        {split: len(chosen) for split, chosen in pairs.items()},
        target.size,
        source.size,
        space,
        parts["target"].labels is not None,
        {f"classes_{len(names)}": names for names in source.protocols if len(names) < space.num_classes},
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


def common_classes(source: DataSet, target: DataSet) -> LabelSpace:
    """Classes of the source that the target also has."""
    both = [
        (name, color)
        for name, color in zip(source.classes.names, source.classes.colors, strict=True)
        if name in target.classes.names
    ]
    if not both:
        raise InputError(f"{source.name} and {target.name}: have no common class; choose another pair")
    names, colors = zip(*both, strict=True)
    return LabelSpace(names, colors)


def check(source: DataSet, target: DataSet, out: Path) -> None:
    if "source" not in source.parts:
        known = ", ".join(name for name, each in data_sets().items() if "source" in each.parts)
        raise InputError(f"{source.name}: its training images have no labels; a source can be {known}")
    if "target" not in target.parts:
        known = ", ".join(name for name, each in data_sets().items() if "target" in each.parts)
        raise InputError(f"{target.name}: has no test images; use one of these as target: {known}")
    if source is target:
        raise InputError(f"{source.name}: source and target are the same data set; choose two different ones")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: not an empty folder; choose a new one")
    dvc_file = out.with_name(f"{out.name}.dvc")
    if dvc_file.exists():
        raise InputError(f"{dvc_file}: imports other data to {out}; run: dvc remove {dvc_file}")


def _write_split(
    pairs: Sequence[Pair], folder: Path, space: LabelSpace, split: str, progress: "tqdm[None]"
) -> list[str]:
    """Link the images and convert the labels in parallel; returns notes."""
    for kind in ("images", "labels") if pairs[0].label else ("images",):
        (folder / kind).mkdir(parents=True)
    pixels = np.zeros(IGNORE + 1, np.int64)
    resized: list[Path] = []
    # Decoding and encoding release the GIL.
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for pair, counts, fitted in pool.map(lambda pair: _write(pair, folder, space), pairs):
            pixels += counts
            if fitted and pair.label:
                resized.append(pair.label)
            progress.update()
    finally:
        # After an error, do not wait for the remaining images.
        pool.shutdown(cancel_futures=True)
    return _remarks(pixels, resized, split, space)


def _write(pair: Pair, folder: Path, space: LabelSpace) -> tuple[Pair, NDArray[np.int64], bool]:
    """Write one image and its label; returns pixels by class, and whether the label was resized to its image."""
    _link(pair.image, folder / "images" / f"{pair.name}{pair.image.suffix}")
    size = image_size(pair.image)
    if pair.label is None:
        return pair, np.zeros(IGNORE + 1, np.int64), False
    ids = mapped(pair.files.read(pair.label), pair.files.names, space, pair.label)
    fitted = (ids.shape[1], ids.shape[0]) != size
    if fitted:
        ids = np.array(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    write_mask(folder / "labels" / f"{pair.name}.png", ids, space)
    return pair, np.bincount(ids.ravel(), minlength=IGNORE + 1), fitted


def _link(path: Path, link: Path) -> None:
    try:
        # Link to the file itself, in case the download consists of links.
        link.hardlink_to(path.resolve())
    except OSError:
        # Another file system, or one without hard links.
        link.symlink_to(path.resolve())


def _remarks(pixels: NDArray[np.int64], resized: Sequence[Path], split: str, space: LabelSpace) -> list[str]:
    notes = []
    if resized:
        notes.append(
            f"{split}: {len(resized)} labels differed in size from their images and were resized to them: "
            f"{', '.join(path.name for path in resized[:3])}{', ...' if len(resized) > 3 else ''}"
        )
    total = int(pixels.sum())
    if not total:
        return notes
    absent = [name for name, count in zip(space.names, pixels.tolist(), strict=False) if not count]
    if absent:
        notes.append(f"{split}: no pixels of {', '.join(absent)}")
    unlabelled = pixels[IGNORE] / total
    if unlabelled > 0.5:
        notes.append(f"{split}: {unlabelled:.0%} of the pixels have no class; are these the published labels?")
    return notes


def settings(prepared: Prepared, out: Path) -> str:
    """Format the section ``data`` of params.yaml for a prepared folder."""
    lines = [
        "data:",
        f"  root: {out}",
        f"  source: {{root: {out}/source, size: {list(prepared.source_size)}}}",
        f"  target: {{images: {out}/target/images, labels: "
        + (f"{out}/target/labels}}" if prepared.labelled else "null}"),
        f"  test: {{images: {out}/test/images, labels: {out}/test/labels}}",
        "  validation: "
        + (
            f"{{images: {out}/validation/images, labels: {out}/validation/labels}}"
            if "validation" in prepared.counts
            else "null"
        ),
        f"  classes: {out}/source/classes.yaml",
        "  class_map: null",
        f"  size: {list(prepared.size)}",
        "  crop: null",
        "  window: null",
    ]
    lines.append("  protocols:" if prepared.protocols else "  protocols: {}")
    lines += [f"    {name}: [{', '.join(names)}]" for name, names in prepared.protocols.items()]
    return "\n".join(lines)
