"""Pseudo labels on disk, written in one pass over the images and read one image at a time.

    FOLDER/table.json              thresholds, coverage and counts per class, images, parameters
    FOLDER/positives/NAME.png      8-bit palette PNG of class ids in the classes' colours, 255 = none
    FOLDER/negatives/NAME.npy.zst  one bit per class and pixel (see ``bitmaps``)

The thresholds are known only after the last image. Until then, a pending file per image stores its classes, confidences
and negatives, in little more than a byte per pixel. The result has the same bytes regardless of order, number of
processes and interruptions.
"""

import errno
import io
import json
import logging
import math
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NotRequired

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
from atp.data.passes import ahead, threads
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
"""Predictions are processed in bands of about this many pixels. At 2048x1024 this halves the time, most of which the
kernel would spend on memory pages for whole-image intermediate results."""


class ClassRow(TypedDict):
    """One class in the table; counts are of pixels.

    Attributes:
        threshold: lambda_c, the minimum confidence of a kept label; None for a class that was never predicted.
        predicted: pixels for which the class is the most probable one.
        kept: pixels with this positive label.
        coverage: kept / predicted, 0-1; 0 for a class that was never predicted.
        negative: pixels with this negative label.
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
        entropy: mean normalised entropy of its prediction, 0-1 (Eq. 9), by which ``split`` ranks images.
    """

    name: str
    height: int
    width: int
    coverage: float
    entropy: float


class Table(TypedDict):
    """Contents of table.json.

    Attributes:
        coverage: share of all pixels with a positive label, 0-1.
        negative_cap: whether ``negative_threshold`` was limited to 1/C; tables without it are older, and were limited.
        negatives_per_pixel: mean number of classes marked absent, 0 - C-1.
        extra: entries added by the caller, such as the model's digest.
    """

    format: str
    version: int
    keep_ratio: float
    negative_threshold: float
    negative_cap: NotRequired[bool]
    pixels: int
    coverage: float
    negatives_per_pixel: float
    classes: list[ClassRow]
    images: list[ImageRow]
    extra: dict[str, Any]


_TABLE = TypeAdapter(Table)


class PseudoLabelWriter:
    """Collect predictions from one or several processes and write the pseudo labels once all are complete.

    Under ``torchrun``, every process has its own writer for the same pending folder and adds its own images; one
    process calls ``finish``. An interrupted pass can resume: images in ``done()`` need not be predicted again.
    """

    def __init__(
        self,
        pending: Path,
        num_classes: int,
        *,
        negative_threshold: float,
        keep_ratio: float,
        negative_cap: bool = True,
    ) -> None:
        """Resume from the pending folder, or create one.

        Args:
            pending: folder of unfinished work, unique to this model, these images and parameters.
            num_classes: C, 2-255.
            negative_threshold: lambda_neg of Eq. 6.
            keep_ratio: K of Eq. 4.
            negative_cap: limit the threshold to 1/C; see ``negative_labels``.

        Raises:
            InputError: if there are fewer than two classes, or more than an 8-bit mask with 255 for "none" allows.
        """
        if not 2 <= num_classes <= IGNORE:
            raise InputError(f"{num_classes} classes: masks support 2 to {IGNORE} classes, since {IGNORE} means none")
        self._pending = pending
        self._num_classes = num_classes
        self._negative_threshold = negative_threshold
        self._negative_cap = negative_cap
        self._keep_ratio = keep_ratio
        # Of the images that this process added; the others are counted when all are there.
        self._counted: set[str] = set()
        self._histogram = ConfidenceHistogram(num_classes)
        self._lock = Lock()

    def done(self) -> set[str]:
        """Names of the images already added by any process."""
        return {
            path.relative_to(self._pending).as_posix().removesuffix(".pending")
            for path in self._pending.rglob("*.pending")
            if not path.name.startswith(".")
        }

    def add(self, name: str, probabilities: Tensor) -> None:
        """Add one image's prediction, computing on the tensor's device.

        Args:
            name: name of the image, with ``/`` between folders.
            probabilities: softmax output, (C, H, W), any float dtype and device; H and W may differ between images.

        Raises:
            InputError: if probabilities are not finite, the name is not a valid path, or the disk is full; images
                already added are kept.
        """
        path = self._pending_path(name)
        if len(probabilities) != self._num_classes:
            raise ValueError(f"{name}: {len(probabilities)} classes instead of {self._num_classes}")
        pending = _Pending.of(probabilities.float(), self._negative_threshold, self._negative_cap)
        if not math.isfinite(pending.entropy):
            raise InputError(f"{name}: the model's predictions are not finite; train it with a lower learning rate")
        data = pending.to_bytes()
        with _full_disk_named(self._pending, f"about {_mb(len(data))} per image"), atomic_path(path) as temporary:
            temporary.write_bytes(data)
        histogram = self._of_image(pending)
        with self._lock:
            if name in self._counted:
                self._forget_counts()
            else:
                self._counted.add(name)
                self._histogram.add(histogram)

    def finish(
        self,
        folder: Path,
        label_space: LabelSpace,
        names: Iterable[str],
        extra: Mapping[str, Any],
        *,
        workers: int = 0,
    ) -> Table:
        """Write the pseudo labels of all images to ``folder`` atomically, and remove the pending files.

        Args:
            folder: replaced if it exists.
            label_space: names and colours of the classes.
            names: names of all images.
            extra: JSON values, stored in the table unchanged.
            workers: number of threads that read and write; 0 does both in this one.

        Returns:
            The contents of table.json.

        Raises:
            InputError: if an image was not added, a pending file is damaged, or the disk is full; pending files are
                kept.
        """
        names = sorted(set(names))
        missing = sorted(set(names) - self.done())
        if missing:
            raise InputError(
                f"{self._pending}: {len(missing)} images are missing, the first is {missing[0]}; run the stage again"
            )
        # A name common to all processes, so that the remains of a killed process are removed.
        temporary = folder.with_name(f".{folder.name}.partial.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        size = sum(self._pending_path(name).stat().st_size for name in names)
        try:
            # The final files contain the same as the pending ones, except for the confidences.
            with _full_disk_named(folder.parent, f"less than {_mb(size)}"):
                table = self._write(temporary, label_space, names, extra, workers)
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self._pending)
        return table

    def _write(
        self, folder: Path, label_space: LabelSpace, names: Sequence[str], extra: Mapping[str, Any], workers: int
    ) -> Table:
        if not self._counted.issubset(names):
            self._forget_counts()
        histogram = ConfidenceHistogram(self._num_classes)
        histogram.add(self._histogram)
        negative = np.zeros(self._num_classes, np.int64)
        images: list[ImageRow] = []
        with threads(workers) as pool:
            others = (name for name in names if name not in self._counted)
            for one in ahead(pool, lambda name: self._of_image(self._read(name)), others, 2 * workers):
                histogram.add(one)
            _warn_of_missing(histogram, label_space)
            thresholds = histogram.thresholds(self._keep_ratio)
            finish = partial(self._finish_image, folder, thresholds, label_space.palette)
            for row, absent in ahead(pool, finish, names, 2 * workers):
                images.append(row)
                negative += absent
        predicted, kept = histogram.counts.sum(1), histogram.at_least(thresholds)
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
            negative_cap=self._negative_cap,
            pixels=pixels,
            coverage=float(kept.sum() / pixels),
            negatives_per_pixel=float(negative.sum() / pixels),
            classes=classes,
            images=images,
            extra=dict(extra),
        )
        # Last, so that a folder with a table is complete.
        _write_new(folder / "table.json", json.dumps(table, indent=1).encode() + b"\n")
        return table

    def _of_image(self, pending: "_Pending") -> ConfidenceHistogram:
        histogram = ConfidenceHistogram(self._num_classes)
        histogram.update(pending.classes, pending.codes)
        return histogram

    def _forget_counts(self) -> None:
        self._counted, self._histogram = set(), ConfidenceHistogram(self._num_classes)

    def _finish_image(
        self, folder: Path, thresholds: NDArray[np.int64], palette: bytes, name: str
    ) -> tuple[ImageRow, NDArray[np.int64]]:
        """Write an image's labels; returns its row in the table, and its pixels with each negative label, (C,)."""
        pending = self._read(name)
        keep = pending.codes >= thresholds[pending.classes]
        positives = np.where(keep, pending.classes, np.uint8(IGNORE))
        _write_new(folder / "positives" / f"{name}.png", _png(positives, palette))
        _write_new(folder / "negatives" / f"{name}{SUFFIX}", pending.negatives)
        height, width = positives.shape
        row = ImageRow(name=name, height=height, width=width, coverage=float(keep.mean()), entropy=pending.entropy)
        return row, pending.absent

    def _pending_path(self, name: str) -> Path:
        path = PurePosixPath(name)
        # A leading dot marks files that are still being written.
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name or path.name[:1] in ("", "."):
            raise InputError(f"{name!r}: not a valid relative file name; rename the image")
        return self._pending / f"{name}.pending"

    def _read(self, name: str) -> "_Pending":
        return _Pending.read(self._pending_path(name))


class PseudoLabelStore:
    """Read pseudo labels from a folder finished by ``PseudoLabelWriter``, one image at a time, in any process."""

    def __init__(self, folder: Path) -> None:
        """Read the table only.

        Raises:
            InputError: if the folder does not exist, is unfinished, or has another version.
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
        """Mean normalised entropy of each image's prediction, by name, in [0, 1] (Eq. 9)."""
        return {row["name"]: row["entropy"] for row in self.table["images"]}

    @property
    def label_space(self) -> LabelSpace:
        """The classes for which the labels were written."""
        rows = self.table["classes"]
        return LabelSpace(tuple(row["name"] for row in rows), tuple(row["color"] for row in rows))

    def positive(self, name: str) -> Tensor:
        """Class ids, uint8, (H, W), 255 = no positive label.

        Raises:
            InputError: if the image is unknown, or its file is damaged.
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
            InputError: if the image is unknown, or its file is damaged.
        """
        shape = (len(self.table["classes"]), *self._shape(name))
        return read_bitmaps(self.folder / "negatives" / f"{name}{SUFFIX}", shape)

    def _shape(self, name: str) -> tuple[int, int]:
        if name not in self._shapes:
            raise InputError(f"{self.folder}: no pseudo labels for the image {name}; run the dump stage again")
        return self._shapes[name]


@dataclass(frozen=True)
class StoredLabels:
    """Read an image's pseudo labels from a store; a class for the same reason as ``FolderLabels``."""

    store: PseudoLabelStore
    negatives: bool

    def __call__(self, sample: Sample) -> Labels:
        return Labels(self.store.positive(sample.name), self.store.negatives(sample.name) if self.negatives else None)


@dataclass(frozen=True)
class _Pending:
    """Intermediate data of one image until the thresholds are known.

    Attributes:
        classes: the most probable classes, uint8, (H, W).
        codes: their confidence codes, int16, (H, W).
        negatives: the file of negative labels, which does not depend on the thresholds.
        absent: pixels with each negative label, int64, (C,).
        entropy: see ``ImageRow``.
    """

    classes: NDArray[np.uint8]
    codes: NDArray[np.int16]
    negatives: bytes
    absent: NDArray[np.int64]
    entropy: float

    @classmethod
    def of(cls, probabilities: Tensor, negative_threshold: float, negative_cap: bool) -> "_Pending":
        """Compute from float32 probabilities, (C, H, W), on their device."""
        num_classes, height, width = probabilities.shape
        bands = torch.split(probabilities, max(1, _BAND_PIXELS // width), 1)
        parts = [_label_band(band, negative_threshold, negative_cap) for band in bands]
        classes, codes, packed, nats = zip(*parts, strict=True)
        entropy = torch.cat(nats).cpu().double().sum() / (height * width * math.log(num_classes))
        planes = torch.cat(packed, 1).cpu().numpy()
        return cls(
            torch.cat(classes).cpu().numpy(),
            torch.cat(codes).cpu().numpy(),
            arrays_to_bytes(planes),
            np.bitwise_count(planes).sum((1, 2), dtype=np.int64),
            float(entropy.clamp(0, 1)),
        )

    def to_bytes(self) -> bytes:
        # Low and high bytes are stored separately, since the high ones compress well.
        low, high = (self.codes & 0xFF).astype(np.uint8), (self.codes >> 8).astype(np.uint8)
        negatives = np.frombuffer(self.negatives, np.uint8)
        return arrays_to_bytes(np.array(self.entropy), self.classes, low, high, negatives, self.absent)

    @classmethod
    def read(cls, path: Path) -> "_Pending":
        entropy, classes, low, high, negatives, absent = read_arrays(path, "dump", 6)
        return cls(classes, low | high.astype(np.int16) << 8, negatives.tobytes(), absent, float(entropy))


def _label_band(
    probabilities: Tensor, negative_threshold: float, negative_cap: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes, confidence codes and packed negatives as in ``_Pending``, and the entropy of each row in nats, (H,).

    Class by class, which on a CPU takes half the time of ``max`` and ``log`` on all classes, and little memory.
    """
    confidences = probabilities[0].clone()
    classes = torch.zeros_like(confidences, dtype=torch.uint8)
    nats = confidences.new_zeros(confidences.shape[0])
    for index, plane in enumerate(probabilities):
        # Ties go to the first class, as in argmax; a later class has a higher index and replaces it by maximum.
        classes = torch.maximum(classes, (plane > confidences).view(torch.uint8).mul_(index))
        confidences = torch.maximum(confidences, plane)
        # 0 log 0 = 0. Summed by rows, so that the number of threads does not change the last bits.
        nats -= plane.clamp(min=torch.finfo(plane.dtype).tiny).log_().mul_(plane).sum(1)
    negatives = negative_labels(probabilities[None], negative_threshold, classes[None].long(), cap=negative_cap)[0]
    return classes, confidence_codes(confidences), pack(negatives), nats


def _warn_of_missing(histogram: ConfidenceHistogram, label_space: LabelSpace) -> None:
    never = [label for label, count in zip(label_space.names, histogram.counts.sum(1), strict=True) if not count]
    if never:
        logger.warning("classes without positive labels, since they are never predicted: %s", ", ".join(never))


def _png(labels: NDArray[np.uint8], palette: bytes) -> bytes:
    image = Image.fromarray(labels)
    image.putpalette(palette)
    buffer = io.BytesIO()
    # Run-length encoding only: a quarter of the time of Pillow's default for a tenth more bytes.
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file into a folder that is not yet in use, so not atomically."""
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
            "which resumes after the finished images"
        ) from error


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
