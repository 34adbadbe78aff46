"""The container of what is stored for each pixel of an image: a header with a checksum, and one zstd frame.

The header is magic, version, three numbers for the shape, and CRC-32 of the rest; little-endian.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import zstandard

from atp.errors import InputError

_HEADER = struct.Struct("<4sHHIII")
_VERSION = 1
# Level 3 makes larger files of what is stored here in more time; level 9 saves a tenth and takes several times as long.
_LEVEL = 1


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        magic: its first four bytes.
        stage: that makes such files, for the messages.
    """

    magic: bytes
    stage: str

    def damaged(self, path: Path) -> InputError:
        return InputError(f"{path}: damaged or cut short; delete it and run the {self.stage} stage again")


@dataclass(frozen=True)
class Sealed:
    """What a file holds.

    Attributes:
        kind: of the file.
        shape: planes, H, W; at most 65535 planes.
        payload: the data themselves.
    """

    kind: Kind
    shape: tuple[int, int, int]
    payload: bytes

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.kind.magic, _VERSION, *self.shape, zlib.crc32(self.payload)) + self.payload

    @classmethod
    def read(cls, path: Path, kind: Kind) -> "Sealed":
        """Read a file of this kind.

        Raises:
            InputError: it is missing, of another kind or version, or damaged.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; run the {kind.stage} stage again") from error
        if len(data) < _HEADER.size or data[:4] != kind.magic:
            raise kind.damaged(path)
        _, version, planes, height, width, checksum = _HEADER.unpack_from(data)
        payload = data[_HEADER.size :]
        if version != _VERSION:
            raise InputError(f"{path}: version {version} where {_VERSION} is known; run the {kind.stage} stage again")
        if zlib.crc32(payload) != checksum:
            raise kind.damaged(path)
        return cls(kind, (planes, height, width), payload)

    def data(self, size: int, path: Path) -> bytes:
        """The ``size`` bytes that were compressed to the payload.

        Raises:
            InputError: it does not hold as many.
        """
        try:
            # Asked first, so that a wrong file cannot claim all memory.
            if zstandard.frame_content_size(self.payload) != size:
                raise self.kind.damaged(path)
            return zstandard.ZstdDecompressor().decompress(self.payload)
        except zstandard.ZstdError as error:
            raise self.kind.damaged(path) from error


def compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)
