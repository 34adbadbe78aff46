"""Images decoded and resized once, in files that all processes and stages map into their memory.

A list of images has a folder, named after the images' digests and after how they are read:

    FOLDER/KEY/pixels   the images' bytes, one after another, each from the start of a page; holes before they are made
    FOLDER/KEY/checks   for each image 0 before it is made, then 2**32 + the CRC-32 of its bytes, uint64

Whoever needs an image first makes it. Two processes that make the same one write the same bytes, and its check comes
last, so that neither locks nor renaming are needed. A process compares the check when it first maps an image, since
after a power failure it can be there without the bytes.
"""

import hashlib
import json
import mmap
import os
import shutil
import sys
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from atp.data.folder import Sample, image_size
from atp.data.reading import Size
from atp.data.tensors import read_image
from atp.files import digest

Shape = tuple[int, ...]

_THERE = 2**32


class Prepared:
    """A list of images; without files, an empty one."""

    def __init__(self, folder: Path | None = None, shapes: Mapping[Path, Shape] | None = None) -> None:
        """Open the files, or create them; if that is not possible, no image is kept.

        Args:
            shapes: of each file's image, in the order of their bytes.
        """
        shapes = shapes or {}
        self._shapes = shapes
        pages = [-(-prod(shape) // mmap.ALLOCATIONGRANULARITY) for shape in shapes.values()]
        ends = np.cumsum([0, *pages], dtype=np.int64) * mmap.ALLOCATIONGRANULARITY
        self._places = {path: index for index, path in enumerate(shapes)}
        self._starts = ends[:-1]
        self._compared = bytearray(len(shapes))
        self._files: _Files | None = None
        if folder is not None and shapes:
            try:
                self._files = _Files(folder, int(ends[-1]), len(shapes))
            except OSError:
                # Such as a full disk, or a sealed stage.
                self._files = None

    def image(self, sample: Sample, size: Size | None) -> Tensor:
        """A sample's image as ``read_image`` reads it, uint8, (3, H, W); the list must be of this size."""
        return self.get(sample.image, lambda: read_image(sample.image, size))

    def get(self, path: Path, read: Callable[[], Tensor]) -> Tensor:
        """The image of a file, uint8, mapped from the disk if it is there, and otherwise read and kept."""
        place = self._places.get(path)
        if place is None or self._files is None:
            return read()
        start, shape = int(self._starts[place]), self._shapes[path]
        check = int(self._files.checks[place])
        if check:
            pixels = self._files.mapped(start, prod(shape))
            if self._compared[place] or check == _check(pixels):
                self._compared[place] = 1
                return torch.frombuffer(pixels, dtype=torch.uint8, count=prod(shape)).view(shape)
        image = read()
        if image.shape == shape:
            self._files.keep(place, start, image)
        return image


UNPREPARED = Prepared()
"""Every image is read at every use."""


class _Files:
    """The open files of a list; in a process that was not forked from this one, they are opened anew."""

    def __init__(self, folder: Path, size: int, count: int) -> None:
        self._arguments = folder, size, count
        folder.mkdir(parents=True, exist_ok=True)
        # The list that was used last is deleted last.
        os.utime(folder)
        with (folder / "pixels").open("ab") as pixels, (folder / "checks").open("ab") as checks:
            if pixels.tell() < size:
                pixels.truncate(size)
            # Not a hole, which on a full disk cannot be mapped everywhere.
            checks.write(bytes(max(0, 8 * count - checks.tell())))
        self.checks: NDArray[np.uint64] = np.memmap(folder / "checks", np.uint64, "r", shape=(count,))
        self._pixels, self._written = (os.open(folder / name, os.O_RDWR) for name in ("pixels", "checks"))
        for descriptor in (self._pixels, self._written):
            weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Files, self._arguments

    def mapped(self, start: int, length: int) -> mmap.mmap:
        # Copied on write, so that nobody changes the file by way of a tensor.
        return mmap.mmap(self._pixels, length, access=mmap.ACCESS_COPY, offset=start)

    def keep(self, place: int, start: int, image: Tensor) -> None:
        data = image.contiguous().numpy().data.cast("B")
        # Not by the maps, where a full disk would kill the process.
        with suppress(OSError):
            if os.pwrite(self._pixels, data, start) == len(data):
                os.pwrite(self._written, _check(data).to_bytes(8, sys.byteorder), 8 * place)


def _check(pixels: "memoryview | mmap.mmap") -> int:
    return _THERE + zlib.crc32(pixels)


def digests_of(files: Iterable[Path]) -> dict[Path, str]:
    return {file: digest(file) for file in files}


@dataclass(frozen=True)
class Store:
    """A folder of prepared lists.

    Attributes:
        limit: bytes that all lists together may take. Of a list that does not fit, the first images are kept; a new one
            replaces those that were not used for longest.
        digests: SHA-256 of files.
    """

    folder: Path
    limit: int
    digests: Callable[[Iterable[Path]], Mapping[Path, str]] = digests_of

    def images(self, files: Sequence[Path], size: Size | None) -> Prepared:
        """RGB images, (3, H, W), as ``read_image`` reads them at this size."""
        return self._opened(files, size, 3, ["image", "bicubic"])

    def labels(self, files: Sequence[Path], size: Size | None, num_classes: int) -> Prepared:
        """Class ids, (H, W), as ``read_label`` reads them at this size."""
        return self._opened(files, size, 0, ["labels", "nearest", num_classes])

    def _opened(self, files: Sequence[Path], size: Size | None, channels: int, how: list[Any]) -> Prepared:
        if not self.limit or not files:
            return UNPREPARED
        known = self.digests(files)
        what = [*how, size, PIL.__version__, [known[file] for file in files]]
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
        shapes: dict[Path, Shape] = {}
        total = 0
        for file in files:
            width, height = size or image_size(file)
            shape = (channels, height, width) if channels else (height, width)
            # Each begins a page.
            total += prod(shape) + mmap.ALLOCATIONGRANULARITY
            if total > self.limit:
                break
            shapes[file] = shape
        folder = self.folder / key
        if not folder.exists():
            self._make_room(total)
        return Prepared(folder, shapes)

    def _make_room(self, needed: int) -> None:
        """Delete the lists that were not used for longest; processes that use them have them open."""
        try:
            lists = sorted(self.folder.iterdir(), key=lambda folder: folder.stat().st_mtime)
            taken = {folder: sum(file.stat().st_blocks * 512 for file in folder.iterdir()) for folder in lists}
        except OSError:
            return
        left = sum(taken.values())
        for folder in lists:
            if left + needed <= self.limit:
                return
            left -= taken[folder]
            shutil.rmtree(folder, ignore_errors=True)
