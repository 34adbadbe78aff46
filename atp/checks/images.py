"""Checks of the images and labels of both domains."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from atp.checks.finding import Finding, kind_of
from atp.data.folder import Sample, check_sizes, evenly_spread, image_size, list_samples, unread, unread_files
from atp.data.labels import IGNORE, LabelSpace
from atp.data.reading import Size, by, check_window
from atp.data.tensors import read_image, read_label
from atp.errors import InputError, grouped
from atp.files import digest
from atp.params import Params

CHECKPOINTS = (".pth", ".pt", ".safetensors", ".ckpt", ".bin")
"""Suffixes of files that may be a given model."""

LOOKED_AT = 10
"""Number of files that show whether they are images or labels."""

MOST_CLASSES = 60
"""Images of one channel, even dark ones, have higher values than this."""


def _folders(params: Params) -> dict[str, tuple[Path, Path | None]]:
    data = params.data
    folders: dict[str, tuple[Path, Path | None]] = {}
    if params.source and (params.source.checkpoint is None or data.source.images.is_dir()):
        folders["source"] = (data.source.images, data.source.labels)
    folders["target"] = (data.target.images, data.target.labels)
    folders["test"] = (data.test.images, data.test.labels)
    if data.validation is not None:
        folders["validation"] = (data.validation.images, data.validation.labels)
    return folders


def check_images(params: Params, space: LabelSpace, sample: int) -> Iterator[Finding]:
    """Check for missing, unreadable and mismatched files, label values, absent classes, sizes and image modes."""
    for split, (images, labels) in _folders(params).items():
        if split == "validation" and not images.is_dir():
            # No stage needs it.
            text = f"data.validation: {images}: no such folder; without validation images, set data.validation: null"
            yield Finding("warning", f"params.yaml: {text}")
            continue
        try:
            samples = list_samples(images, labels, optional=split != "source")
        except InputError as error:
            yield Finding("error", f"{error}{_given_model(params) if split == 'source' else ''}")
            continue
        chosen = evenly_spread(samples, sample)
        pixels = torch.zeros(256, dtype=torch.int64)
        sizes: set[tuple[int, int]] = set()
        modes: dict[str, Path] = {}
        errors: list[tuple[str, str, str]] = []
        for one in tqdm(chosen, desc=split, unit="image", disable=None, leave=False):
            try:
                check_sizes([one])
                sizes.add(image_size(one.image))
                read_image(one.image)
                with Image.open(one.image) as file:
                    modes.setdefault(file.mode, one.image)
                if one.label:
                    pixels += torch.bincount(read_label(one.label, space.num_classes).flatten(), minlength=256)
            except InputError as error:
                name = Path(str(error).partition(": ")[0]).name
                errors.append((kind_of(str(error), one.image, one.label), name, str(error)))
        yield from (Finding("error", line) for line in grouped(errors))
        yield Finding("ok", f"{images}: {len(samples)} images, {len(chosen)} read, {len(errors)} with errors")
        if is_labels(samples):
            yield Finding("warning", f"{images}: look like labels, class ids alone; are these the images?")
        unused = [(path.suffix.lower(), path.name, unread(path)) for path in unread_files(images)]
        yield from (Finding("warning", line) for line in grouped(unused))
        for mode in sorted(modes.keys() - {"RGB", "P", "L"}):
            yield Finding(
                "warning", f"{modes[mode]}: mode {mode} will be converted to 8-bit RGB; convert it yourself to be sure"
            )
        if len(sizes) > 1 and params.data.size is None and params.data.crop is None:
            yield Finding("error", f"{images}: {len(sizes)} image sizes; set data.size or data.crop in params.yaml")
        if split != "source" and params.data.size is None:
            yield from _check_window(images, sizes, params.data.window)
        absent = [name for name, count in zip(space.names, pixels.tolist(), strict=False) if not count]
        if labels is not None and absent:
            yield Finding("warning", f"{labels}: classes that never occur: {', '.join(absent)}; check the class order")


def is_labels(samples: Sequence[Sample]) -> bool:
    """Whether what should be images are labels: one channel, and ids alone."""
    chosen = evenly_spread(samples, LOOKED_AT)
    return bool(chosen) and all(_highest_id(sample.image) <= MOST_CLASSES for sample in chosen)


def _highest_id(path: Path) -> int:
    """The highest value but 255 in a file of one channel; more than any id if it has several, or cannot be read."""
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):
                return IGNORE
            ids = np.array(file)
    except (OSError, ValueError, SyntaxError):
        return IGNORE
    return int(ids[ids != IGNORE].max(initial=0))


def _check_window(images: Path, sizes: Collection[Size], window: Size | None) -> Iterator[Finding]:
    """Check that windows fit into the images, if these keep their own sizes."""
    for size in sorted(sizes):
        try:
            check_window(window, size, f"{images}: {by(size)}")
        except InputError as error:
            yield Finding("error", f"{error}: set data.size, or a smaller data.window")
            return


def _given_model(params: Params) -> str:
    """The advice if there is a checkpoint in place of source images."""
    root = params.data.source.root
    found = sorted(path for path in root.rglob("*") if path.suffix in CHECKPOINTS) if root.is_dir() else []
    if params.source is None or params.source.checkpoint is not None or not found:
        return ""
    others = f" (or another of {len(found)})" if len(found) > 1 else ""
    return f"; to start from the model there, set source.checkpoint: {found[0]}{others}"


def check_domains(params: Params) -> Iterator[Finding]:
    """Check for the same files in two folders, which would make the metrics misleading."""
    held: dict[str, dict[str, Path]] = {}
    for split, (images, _) in _folders(params).items():
        if images.is_dir():
            held[split] = {digest(sample.image): sample.image for sample in list_samples(images)}
    for one, other in itertools.combinations(_folders(params), 2):
        both = held.get(one, {}).keys() & held.get(other, {}).keys()
        if both:
            example = held[one][min(both)]
            yield Finding(
                "warning",
                f"{example}: one of {len(both)} images in both {one} and {other}, so figures on these are not of "
                f"held-out images; name others, or remove them from {one}",
            )


def check_colours(params: Params) -> Iterator[Finding]:
    """Check for swapped red and blue: the sky is bluer than the ground in one domain, redder in the other."""
    blueness: dict[str, float] = {}
    for split, (images, _) in _folders(params).items():
        if images.is_dir():
            tilts = []
            for sample in evenly_spread(list_samples(images), 50):
                try:
                    image = read_image(sample.image).float()
                except InputError:  # reported with all images
                    continue
                blue = (image[2] - image[0]).mean(1)  # per row
                third = max(1, len(blue) // 3)
                tilts.append(float(blue[:third].mean() - blue[-third:].mean()))
            blueness[split] = sum(tilts) / max(1, len(tilts))
    # In grey levels; a grey sky or a colour cast over the whole image stays below this.
    if blueness.get("source", 0) * blueness.get("target", 0) < 0 and min(map(abs, blueness.values())) > 8:
        swapped = min(blueness, key=lambda split: blueness[split])
        yield Finding(
            "warning",
            f"{_folders(params)[swapped][0]}: the upper thirds are redder than the lower ones, elsewhere bluer; "
            "check for images written as BGR (OpenCV)",
        )
