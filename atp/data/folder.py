"""Images, and labels where there are any, in folders: the one format that every stage reads.

An image and its label share their path below their folders but for the ending: ``images/a/0001.jpg`` belongs to
``labels/a/0001.png``. Labels are 8-bit PNGs of class ids (greyscale or palette), 255 = unlabelled.

Without PyTorch, whose import takes seconds that the report does not need; tensors are in ``atp.data.tensors``.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atp.data.labels import IGNORE
from atp.errors import InputError

Item = TypeVar("Item")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Sample:
    """One image on disk.

    Attributes:
        name: path below the images folder without its ending, ``/`` between folders; unique in its data set.
        image: the image file.
        label: the label file; None where there are no labels.
    """

    name: str
    image: Path
    label: Path | None


def list_samples(images: Path, labels: Path | None = None, *, optional: bool = False) -> list[Sample]:
    """All images below ``images``, sorted by name, each with its label from ``labels`` if that is given.

    Args:
        optional: params.yaml need not give these labels, which is told where they are missing.

    Raises:
        InputError: no such folder, no images in it, two images of one name, or an image without its label.
    """
    advice = "; if there are none, set labels: null beside it in params.yaml" if optional else ""
    if not images.is_dir():
        raise InputError(f"{images}: no such folder; set its path under data in params.yaml or fetch it with dvc")
    if labels is not None and not labels.is_dir():
        raise InputError(f"{labels}: no such folder of labels; set its path under data in params.yaml{advice}")
    samples: dict[str, Sample] = {}
    for path in sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")):
        name = path.relative_to(images).with_suffix("").as_posix()
        if name in samples:
            raise InputError(f"{path}: a second image named {name!r} beside {samples[name].image}; rename one")
        label = None if labels is None else labels / f"{name}.png"
        if label is not None and not label.is_file():
            near = difflib.get_close_matches(label.name, [p.name for p in _labels_near(label)], n=1)
            hint = f"; is it {near[0]}?" if near else ""
            raise InputError(f"{path}: no label for this image at {label}{hint}{advice}")
        samples[name] = Sample(name, path, label)
    if not samples:
        raise InputError(f"{images}: no images here ({', '.join(sorted(SUFFIXES))}); check the path under data")
    return list(samples.values())


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many of the items, evenly spread over their order; all for 0, or where there are no more."""
    if not 0 < count < len(items):
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]


def _labels_near(label: Path) -> list[Path]:
    """The files in a missing label's folder, for the hint what it may be called."""
    return sorted(label.parent.iterdir()) if label.parent.is_dir() else []


def open_image(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image as RGB, resized to ``size`` = (width, height) if given.

    Raises:
        InputError: the file is missing, no image, cut short, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as file:
            image = as_rgb(file, path)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove it") from error
    return resized(image, size)


def as_rgb(image: Image.Image, name: object) -> Image.Image:
    """An image of any mode as RGB.

    Raises:
        InputError: it has more than 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):
        # Pillow would cut all values off at 255.
        raise InputError(f"{name}: images must have 8 bits a channel, this one's mode is {image.mode}")
    return image.convert("RGB")


def resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """An image at ``size`` = (width, height); as it is for None."""
    if size is None or image.size == size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=None)


def read_ids(path: Path, num_classes: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read class ids, uint8, (H, W), 255 = unlabelled, resized by nearest neighbour to ``size`` if given.

    Raises:
        InputError: unreadable, not 8-bit single-channel, or an id that is neither a class nor 255.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):
                raise InputError(f"{path}: labels must be 8-bit class ids, this file's mode is {file.mode}")
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
    """(width, height) from the file's header alone.

    Raises:
        InputError: the file is no image.
    """
    try:
        with Image.open(path) as file:
            return file.size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({_reason(error)}); replace or remove it") from error


def check_sizes(samples: Sequence[Sample]) -> None:
    """Refuse a label whose size differs from its image's; reads headers only.

    Raises:
        InputError: names both files and both sizes.
    """
    for sample in samples:
        if sample.label is None:
            continue
        image, label = image_size(sample.image), image_size(sample.label)
        if image != label:
            raise InputError(
                f"{sample.label}: label is {label[0]}x{label[1]} but its image {sample.image} is "
                f"{image[0]}x{image[1]}; they must be of one size"
            )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
