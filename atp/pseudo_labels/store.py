"""Pseudo labels on disk: written in one pass over the images, read one image at a time.

    FOLDER/table.json              thresholds, coverage and counts per class, images, parameters
    FOLDER/positives/NAME.png      8-bit palette PNG of class ids in the classes' colours, 255 = none
    FOLDER/negatives/NAME.npy.zst  one bit for each class of each pixel (see ``bitmaps``)

The thresholds are known only after the last image. Until then a pending file for each image holds its classes,
confidences and negatives, in little more than a byte a pixel. Whatever the order, the processes and the interruptions
in which they were added, the result has the same bytes.
"""

import errno
import io
import json
import logging
import math
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from atp.data.arrays import SUFFIX, arrays_to_bytes, damaged, read_arrays
from atp.data.folder import Sample
from atp.data.labels import IGNORE, LabelSpace
from atp.data.loading import Labels
from atp.data.tables import read_table
from atp.data.tensors import read_label
from atp.errors import InputError
from atp.files import atomic_path
from atp.pseudo_labels.bitmaps import pack, read_bitmaps
from atp.pseudo_labels.negatives import negative_labels
from atp.pseudo_labels.thresholds import ConfidenceHistogram, confidence_codes, least_confidence

logger = logging.getLogger(__name__)

_FORMAT, _VERSION = "atp pseudo labels", 2
_BAND_PIXELS = 2**17
"""Predictions are worked through in bands of about so many pixels: at 2048x1024 that halves the time, nearly all of
which the kernel would spend on fresh pages for whole-image intermediate results."""


class ClassRow(TypedDict):
    """One class in the table; counts are of pixels.

    Attributes:
        threshold: lambda_c, the least confidence that keeps a label; None for a class that was never predicted.
        predicted: where the class is the most probable one.
        kept: positive labels.
        coverage: kept / predicted, 0-1; 0 for a class that was never predicted.
        negative: negative labels.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    threshold: float | None
    predicted: int
    kept: int
    coverage: float
    negative: int


class ImageRow(TypedDict):
    """One image in the table.

    Attributes:
        coverage: share of its pixels with a positive label, 0-1.
        entropy: of its prediction, normalised, mean over its pixels, 0-1 (Eq. 9); what ``split`` ranks by.
    """

    name: str
    height: int
    width: int
    coverage: float
    entropy: float


class Table(TypedDict):
    """What table.json says about a folder of pseudo labels.

    Attributes:
        coverage: share of all pixels with a positive label, 0-1.
        negatives_per_pixel: mean number of classes marked absent, 0 - C-1.
        extra: whatever the writer's caller adds: digest of the model, and so on.
    """

    format: str
    version: int
    keep_ratio: float
    negative_threshold: float
    pixels: int
    coverage: float
    negatives_per_pixel: float
    classes: list[ClassRow]
    images: list[ImageRow]
    extra: dict[str, Any]


_TABLE = TypeAdapter(Table)


class PseudoLabelWriter:
    """Collects predictions, from one process or several, and writes the pseudo labels once all are there.

    Every process under ``torchrun`` has its own writer on the same pending folder and adds its own images; one of them
    finishes. A killed pass continues: images in ``done()`` need not be predicted again.
    """

    def __init__(self, pending: Path, num_classes: int, *, negative_threshold: float, keep_ratio: float) -> None:
        """Take up the pending folder, or begin one.

        Args:
            pending: belongs to this model, these images and parameters alone; the caller names it after them.
            num_classes: C, 2-255.
            negative_threshold: lambda_neg of Eq. 6.
            keep_ratio: K of Eq. 4.

        Raises:
            InputError: more classes than an 8-bit mask with 255 for "none" can hold, or fewer than two.
        """
        if not 2 <= num_classes <= IGNORE:
            raise InputError(f"{num_classes} classes: masks hold 2 to {IGNORE}, since {IGNORE} means none")
        self._pending = pending
        self._num_classes = num_classes
        self._negative_threshold = negative_threshold
        self._keep_ratio = keep_ratio

    def done(self) -> set[str]:
        """Names of the images already added, by whichever process."""
        return {
            path.relative_to(self._pending).as_posix().removesuffix(".pending")
            for path in self._pending.rglob("*.pending")
            if not path.name.startswith(".")
        }

    def add(self, name: str, probabilities: Tensor) -> None:
        """Add one image's prediction; all that is large is computed on the tensor's device.

        Args:
            name: of the image, ``/`` between folders.
            probabilities: softmax output, (C, H, W), any float dtype and device; H and W may differ between images.

        Raises:
            InputError: probabilities that are not finite, a name that is no path, or a full disk; the images already
                added stay.
        """
        path = self._pending_path(name)
        if len(probabilities) != self._num_classes:
            raise ValueError(f"{name}: {len(probabilities)} classes instead of {self._num_classes}")
        pending = _Pending.of(probabilities.float(), self._negative_threshold)
        if not math.isfinite(pending.entropy):
            raise InputError(f"{name}: the model's predictions are not finite; train it again, with a lower rate")
        data = pending.to_bytes()
        with _full_disk_named(self._pending, f"about {_mb(len(data))} an image"), atomic_path(path) as temporary:
            temporary.write_bytes(data)

    def finish(self, folder: Path, label_space: LabelSpace, names: Iterable[str], extra: Mapping[str, Any]) -> Table:
        """Write the pseudo labels of all images as ``folder``, in one step, and remove the pending files.

        Args:
            folder: replaced if it exists.
            label_space: names and colours of the classes.
            names: of all images.
            extra: goes into the table as it is; JSON values.

        Returns:
            What is in table.json.

        Raises:
            InputError: an image that was not added, a damaged pending file, or a full disk; the pending files stay.
        """
        names = sorted(set(names))
        missing = sorted(set(names) - self.done())
        if missing:
            raise InputError(f"{self._pending}: {len(missing)} images missing, {missing[0]} first; run the stage again")
        # One name, unlike a process's own, so that what a killed process left behind is found.
        temporary = folder.with_name(f".{folder.name}.partial.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        thresholds = self._thresholds(names, label_space)
        size = sum(self._pending_path(name).stat().st_size for name in names)
        try:
            # The final files hold what the pending ones do, less the confidences.
            with _full_disk_named(folder.parent, f"less than {_mb(size)}"):
                table = self._write(temporary, label_space, names, extra, thresholds)
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self._pending)
        return table

    def _thresholds(self, names: Iterable[str], label_space: LabelSpace) -> NDArray[np.int64]:
        histogram = ConfidenceHistogram(self._num_classes)
        for name in names:
            pending = self._read(name)
            histogram.update(pending.classes, pending.codes)
        never = [label for label, count in zip(label_space.names, histogram.counts.sum(1), strict=True) if not count]
        if never:
            logger.warning("never predicted, so without positive labels: %s", ", ".join(never))
        return histogram.thresholds(self._keep_ratio)

    def _write(
        self,
        folder: Path,
        label_space: LabelSpace,
        names: Iterable[str],
        extra: Mapping[str, Any],
        thresholds: NDArray[np.int64],
    ) -> Table:
        predicted, kept, negative = np.zeros((3, self._num_classes), np.int64)
        images: list[ImageRow] = []
        for name in names:
            pending = self._read(name)
            keep = pending.codes >= thresholds[pending.classes]
            positives = np.where(keep, pending.classes, np.uint8(IGNORE))
            _write_new(folder / "positives" / f"{name}.png", _png(positives, label_space.palette))
            _write_new(folder / "negatives" / f"{name}{SUFFIX}", arrays_to_bytes(pending.packed))
            predicted += np.bincount(pending.classes.ravel(), minlength=self._num_classes)
            kept += np.bincount(positives.ravel(), minlength=IGNORE + 1)[: self._num_classes]
            negative += np.bitwise_count(pending.packed).sum((1, 2), dtype=np.int64)
            height, width = positives.shape
            images.append(
                ImageRow(name=name, height=height, width=width, coverage=float(keep.mean()), entropy=pending.entropy)
            )
        pixels = int(predicted.sum())
        classes = [
            ClassRow(
                id=index,
                name=label_space.names[index],
                color=label_space.colors[index],
                threshold=least_confidence(int(thresholds[index])) if predicted[index] else None,
                predicted=int(predicted[index]),
                kept=int(kept[index]),
                coverage=float(kept[index] / max(predicted[index], 1)),
                negative=int(negative[index]),
            )
            for index in range(self._num_classes)
        ]
        table = Table(
            format=_FORMAT,
            version=_VERSION,
            keep_ratio=self._keep_ratio,
            negative_threshold=self._negative_threshold,
            pixels=pixels,
            coverage=float(kept.sum() / pixels),
            negatives_per_pixel=float(negative.sum() / pixels),
            classes=classes,
            images=images,
            extra=dict(extra),
        )
        # Last: a folder with a table is a whole one.
        _write_new(folder / "table.json", json.dumps(table, indent=1).encode() + b"\n")
        return table

    def _pending_path(self, name: str) -> Path:
        path = PurePosixPath(name)
        # A dot in front marks files that are still being written.
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name or path.name[:1] in ("", "."):
            raise InputError(f"{name!r}: no name for files below a folder; rename the image")
        return self._pending / f"{name}.pending"

    def _read(self, name: str) -> "_Pending":
        return _Pending.read(self._pending_path(name))


class PseudoLabelStore:
    """Pseudo labels in a folder that ``PseudoLabelWriter`` finished; one image at a time, from any process."""

    def __init__(self, folder: Path) -> None:
        """Read the table alone.

        Raises:
            InputError: no such folder, an unfinished one, or one of another version.
        """
        self.folder = folder
        self.table: Table = read_table(folder, _TABLE, (_FORMAT, _VERSION), "dump", "pseudo labels")
        self._shapes = {row["name"]: (row["height"], row["width"]) for row in self.table["images"]}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images, sorted."""
        return tuple(self._shapes)

    @property
    def entropies(self) -> dict[str, float]:
        """By image, the mean normalised entropy of its prediction, in [0, 1] (Eq. 9)."""
        return {row["name"]: row["entropy"] for row in self.table["images"]}

    @property
    def label_space(self) -> LabelSpace:
        """The classes as they were when the labels were written."""
        rows = self.table["classes"]
        return LabelSpace(tuple(row["name"] for row in rows), tuple(row["color"] for row in rows))

    def positive(self, name: str) -> Tensor:
        """Class ids, uint8, (H, W), 255 where there is no positive label.

        Raises:
            InputError: no such image, or its file is damaged.
        """
        shape = self._shape(name)
        path = self.folder / "positives" / f"{name}.png"
        labels = read_label(path, len(self.table["classes"]))
        if labels.shape != shape:
            raise damaged(path, "dump")
        return labels

    def negatives(self, name: str) -> Tensor:
        """True where a class is absent, bool, (C, H, W).

        Raises:
            InputError: no such image, or its file is damaged.
        """
        shape = (len(self.table["classes"]), *self._shape(name))
        return read_bitmaps(self.folder / "negatives" / f"{name}{SUFFIX}", shape)

    def _shape(self, name: str) -> tuple[int, int]:
        if name not in self._shapes:
            raise InputError(f"{self.folder}: no pseudo labels for the image {name}; run the dump stage again")
        return self._shapes[name]


@dataclass(frozen=True)
class StoredLabels:
    """An image's pseudo labels from the store; a class for the same reason as ``FolderLabels``."""

    store: PseudoLabelStore
    negatives: bool

    def __call__(self, sample: Sample) -> Labels:
        return Labels(self.store.positive(sample.name), self.store.negatives(sample.name) if self.negatives else None)


@dataclass(frozen=True)
class _Pending:
    """One image until the thresholds are known.

    Attributes:
        classes: the most probable ones, uint8, (H, W).
        codes: their confidences' codes, int16, (H, W).
        packed: negative labels, uint8, (C, H, ceil(W / 8)).
        entropy: see ``ImageRow``.
    """

    classes: NDArray[np.uint8]
    codes: NDArray[np.int16]
    packed: NDArray[np.uint8]
    entropy: float

    @classmethod
    def of(cls, probabilities: Tensor, negative_threshold: float) -> "_Pending":
        """What is kept of float32 probabilities, (C, H, W), computed on their device."""
        num_classes, height, width = probabilities.shape
        bands = torch.split(probabilities, max(1, _BAND_PIXELS // width), 1)
        parts = [_label_band(band, negative_threshold) for band in bands]
        classes, codes, packed, nats = zip(*parts, strict=True)
        entropy = torch.cat(nats).cpu().double().sum() / (height * width * math.log(num_classes))
        return cls(
            torch.cat(classes).cpu().numpy(),
            torch.cat(codes).cpu().numpy(),
            torch.cat(packed, 1).cpu().numpy(),
            float(entropy.clamp(0, 1)),
        )

    def to_bytes(self) -> bytes:
        # Low and high bytes apart: the high ones hardly change from pixel to pixel.
        low, high = (self.codes & 0xFF).astype(np.uint8), (self.codes >> 8).astype(np.uint8)
        return arrays_to_bytes(np.array(self.entropy), self.classes, low, high, self.packed)

    @classmethod
    def read(cls, path: Path) -> "_Pending":
        entropy, classes, low, high, packed = read_arrays(path, "dump", 5)
        return cls(classes, low | high.astype(np.int16) << 8, packed, float(entropy))


def _label_band(probabilities: Tensor, negative_threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes, confidence codes and packed negatives as ``_Pending`` keeps them, and each row's entropy in nats, (H,).

    Class by class: on a CPU that takes half the time of ``max`` and ``log`` on the whole, and hardly any memory.
    """
    confidences = probabilities[0].clone()
    classes = torch.zeros_like(confidences, dtype=torch.uint8)
    nats = confidences.new_zeros(confidences.shape[0])
    for index, plane in enumerate(probabilities):
        # Of equal classes the first one wins, as in argmax; a later one, being higher, replaces by maximum.
        classes = torch.maximum(classes, (plane > confidences).byte().mul_(index))
        confidences = torch.maximum(confidences, plane)
        # 0 log 0 = 0. Summed by rows, so that the number of threads does not change the last bits.
        nats -= plane.clamp(min=torch.finfo(plane.dtype).tiny).log_().mul_(plane).sum(1)
    negatives = negative_labels(probabilities[None], negative_threshold, classes[None].long())[0]
    return classes, confidence_codes(confidences), pack(negatives), nats


def _png(labels: NDArray[np.uint8], palette: bytes) -> bytes:
    image = Image.fromarray(labels)
    image.putpalette(palette)
    buffer = io.BytesIO()
    # Run lengths alone: a quarter of the time of Pillow's default for a tenth more bytes.
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file below a folder that nobody reads yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@contextmanager
def _full_disk_named(folder: Path, needed: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = _mb(shutil.disk_usage(there).free)
        raise InputError(
            f"{folder}: the disk is full: {free} free, {needed} needed; free some space and run again, "
            "which continues after the images already done"
        ) from error


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
