"""Files of negative labels: multi-label bitmaps, one bit for each class of each pixel, lossless.

A file is a header (magic, version, C, H, W, checksum) and one zstd frame with the planes of the classes one after the
other, rows padded to whole bytes, a byte's lowest bit leftmost. Other containers were measured: docs/pseudo_labels.md.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from atp.errors import InputError

_HEADER = struct.Struct("<4sHHIII")
_VERSION = 1
_BITMAPS = b"ATPN"
# Level 3 makes larger files of these bitmaps in more time; level 9 saves a tenth and takes ten times as long.
_LEVEL = 1


@dataclass(frozen=True)
class Sealed:
    """What a file holds: per-pixel data of one image.

    Attributes:
        magic: four bytes that name the kind of file.
        shape: C, H, W; C at most 256.
        payload: the data themselves.
    """

    magic: bytes
    shape: tuple[int, int, int]
    payload: bytes

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.magic, _VERSION, *self.shape, zlib.crc32(self.payload)) + self.payload

    @classmethod
    def read(cls, path: Path, magic: bytes) -> "Sealed":
        """Read a file of this kind.

        Raises:
            InputError: it is missing, of another kind or version, or damaged.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; run the dump stage again") from error
        if len(data) < _HEADER.size or data[:4] != magic:
            raise damaged(path)
        _, version, classes, height, width, checksum = _HEADER.unpack_from(data)
        payload = data[_HEADER.size :]
        if version != _VERSION:
            raise InputError(f"{path}: version {version} where {_VERSION} is known; run the dump stage again")
        if zlib.crc32(payload) != checksum:
            raise damaged(path)
        return cls(magic, (classes, height, width), payload)


def damaged(path: Path) -> InputError:
    return InputError(f"{path}: damaged or cut short; delete it and run the dump stage again")


def compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def decompress(frame: bytes, size: int, path: Path) -> bytes:
    """The ``size`` bytes in a frame.

    Raises:
        InputError: the frame does not hold as many.
    """
    try:
        # Asked first, so that a wrong file cannot claim all memory.
        if zstandard.frame_content_size(frame) != size:
            raise damaged(path)
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise damaged(path) from error


def pack(labels: Tensor) -> Tensor:
    """Eight pixels of a row to a byte, on the tensor's device: bool, (C, H, W), to uint8, (C, H, ceil(W / 8))."""
    octets = F.pad(labels, (0, -labels.shape[-1] % 8)).contiguous().view(torch.int64)
    # Eight bools are eight bytes of 0 or 1; the product gathers them as the bits of its highest byte, and no two of its
    # other terms meet, so nothing carries over.
    return (octets * 0x0102040810204080).bitwise_right_shift_(56).byte()


def bitmaps_to_bytes(packed: NDArray[np.uint8], width: int) -> bytes:
    """A file's bytes from what ``pack`` made of labels of this width."""
    classes, height, _ = packed.shape
    return Sealed(_BITMAPS, (classes, height, width), compress(packed.tobytes())).to_bytes()


def read_bitmaps(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """The labels in a file, bool, of ``shape``: (C, H, W).

    Raises:
        InputError: the file is missing, damaged, or of another shape.
    """
    sealed = Sealed.read(path, _BITMAPS)
    if sealed.shape != shape:
        raise damaged(path)
    classes, height, width = shape
    row = -(-width // 8)
    packed = np.frombuffer(decompress(sealed.payload, classes * height * row, path), np.uint8)
    bits = np.unpackbits(packed.reshape(classes, height, row), axis=-1, count=width, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
