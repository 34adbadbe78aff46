"""Folders of images and optional labels: the format that every stage reads.

An image and its label have the same relative path except for the suffix: ``images/a/0001.jpg`` belongs to
``labels/a/0001.png``. Labels are 8-bit PNGs of class ids (greyscale or palette), 255 = unlabelled.

This module does not import PyTorch, which takes seconds and is not needed for the report; for tensors, see
``atp.data.tensors``.
"""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atp.data.labels import IGNORE
from atp.errors import InputError, alike

Listed = TypeVar("Listed")

COLOURS = ("RGB", "RGBA", "CMYK", "YCbCr")
"""Modes of images whose pixels are colours."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Sample:
    """One image on disk.

    Attributes:
        name: path below the images folder without suffix, ``/`` between folders; unique in its data set.
        image: the image file.
        label: the label file; None without labels.
    """

    name: str
    image: Path
    label: Path | None


def list_samples(images: Path, labels: Path | None = None, *, optional: bool = False) -> list[Sample]:
    """List all images below ``images``, sorted by name, each with its label from ``labels`` if given.

    Args:
        optional: the labels are optional in params.yaml; errors about missing labels mention it.

    Raises:
        InputError: if a folder does not exist, there are no images, two images have one name, or a label is missing.
    """
    advice = "; without labels, set labels: null in params.yaml" if optional else ""
    if not images.is_dir():
        raise InputError(f"{images}: no such folder; set its path under data in params.yaml, or fetch it with dvc")
    if labels is not None and not labels.is_dir():
        raise InputError(f"{labels}: no such folder of labels; set its path under data in params.yaml{advice}")
    files, others = _files(images)
    unnamable = [printable(path) for path in files if printable(path) != str(path)]
    if unnamable:
        raise InputError(f"{unnamable[0]}: its name is not UTF-8; rename the file{alike(unnamable[1:])}")
    samples: dict[str, Sample] = {}
    missing: list[Sample] = []
    for path in files:
        name = path.relative_to(images).with_suffix("").as_posix()
        if name in samples:
            raise InputError(f"{path}: has the same name {name!r} as {samples[name].image}; rename one of them")
        label = None if labels is None else labels / f"{name}.png"
        samples[name] = Sample(name, path, label)
        if label is not None and not label.is_file():
            missing.append(samples[name])
    if missing:
        first, *more = missing
        assert first.label is not None
        line = f"{first.image}: its label {first.label} does not exist{_near(first.label)}{advice}"
        raise InputError(line + alike([sample.image.name for sample in more]))
    if not samples:
        there = f"; {unread(others[0])}{alike([path.name for path in others[1:]])}" if others else ""
        raise InputError(f"{images}: no images here ({', '.join(sorted(SUFFIXES))}){there or '; check the path'}")
    return list(samples.values())


def _files(images: Path) -> tuple[list[Path], list[Path]]:
    """Image files below a folder, and files that are none."""
    there = sorted(path for path in images.rglob("*") if not path.name.startswith("."))
    files = [path for path in there if path.suffix.lower() in SUFFIXES]
    return files, [path for path in there if path.suffix.lower() not in SUFFIXES and path.is_file()]


def unread_files(images: Path) -> list[Path]:
    """Files below a folder of images that no stage reads."""
    return _files(images)[1]


def unread(path: Path) -> str:
    """The line about a file that is not read."""
    kind = path.suffix.removeprefix(".").upper()
    return f"{printable(path)}: {f'{kind} files are' if kind else 'is'} not read; save an image as PNG"


def printable(path: Path) -> str:
    """A path whose name may have bytes that are not UTF-8, which nothing could print."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _near(label: Path) -> str:
    """A hint at a file in a missing label's folder."""
    there = sorted(path.name for path in label.parent.iterdir()) if label.parent.is_dir() else []
    other = [name for name in there if Path(name).stem == label.stem]
    if other:
        return f"; {other[0]} is there, save it as PNG"
    # Rather 01_gt.png than 02.png, another image's.
    longer = [name for name in there if re.match(rf"{re.escape(label.stem)}[^0-9a-zA-Z]", name)]
    near = longer or difflib.get_close_matches(label.name, there, n=1)
    return f"; is it {near[0]}?" if near else ""


def evenly_spread(samples: Sequence[Listed], count: int) -> list[Listed]:
    """Select ``count`` samples at even intervals; all for 0, or if there are not more than that."""
    if not 0 < count < len(samples):
        return list(samples)
    return [samples[(2 * index + 1) * len(samples) // (2 * count)] for index in range(count)]


def open_image(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image as RGB, resized to ``size`` = (width, height) if given.

    Raises:
        InputError: if the file is missing, not an image, truncated, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path) as file:
            image = as_rgb(file, path)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove it") from error
    return resized(image, size)


def as_rgb(image: Image.Image, name: object) -> Image.Image:
    """Convert an image of any mode to RGB.

    Raises:
        InputError: if it has more than 8 bits per channel.
    """
    if image.mode.startswith(("I", "F")):
        # Pillow would clip all values at 255.
        raise InputError(f"{name}: has mode {image.mode}; convert the image to 8 bits per channel")
    return image.convert("RGB")


def resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """Resize an image to ``size`` = (width, height); None leaves it unchanged."""
    if size is None or image.size == size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=None)


def read_ids(path: Path, num_classes: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read class ids, uint8, (H, W), 255 = unlabelled, resized by nearest neighbour to ``size`` if given.

    Raises:
        InputError: if the file is unreadable or not 8-bit single-channel, or an id is neither a class nor 255.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):
                how = " with atp labels convert FOLDER OUT --classes FILE" if file.mode in COLOURS else ""
                raise InputError(f"{path}: has mode {file.mode}; convert the label to 8-bit class ids{how}")
            # The raw indices of a palette image, not their colours.
            ids: NDArray[np.uint8] = np.array(file)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a label ({_reason(error)}); replace or remove it") from error
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    wrong = present[(present >= num_classes) & (present != IGNORE)]
    if wrong.size:
        known = f"0..{num_classes - 1} or {IGNORE}"
        raise InputError(f"{path}: label value {wrong[0]} out of range ({known}); fix it or add a class to the data")
    if size is not None and (ids.shape[1], ids.shape[0]) != size:
        ids = np.array(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    return ids


def image_size(path: Path) -> tuple[int, int]:
    """Read (width, height) from the file's header.

    Raises:
        InputError: if the file is not an image.
    """
    try:
        with Image.open(path) as file:
            return file.size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove it") from error


def check_sizes(samples: Sequence[Sample]) -> None:
    """Check that each label has the size of its image; reads headers only.

    Raises:
        InputError: if a size differs; the message names both files and both sizes.
    """
    for sample in samples:
        if sample.label is None:
            continue
        image, label = image_size(sample.image), image_size(sample.label)
        if image != label:
            raise InputError(
                f"{sample.label}: label is {label[0]}x{label[1]} but its image {sample.image} is "
                f"{image[0]}x{image[1]}; make their sizes equal"
            )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "unknown image format"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
