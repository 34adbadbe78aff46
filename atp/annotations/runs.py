"""Run lengths of masks, as COCO and Label Studio write them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_BITS = np.array([3, 4, 8, 16])
"""Label Studio's sizes of a run's length, by the two bits that name them."""


@dataclass(frozen=True)
class Runs:
    """Runs of equal ids in a flat mask.

    Attributes:
        starts, ends: first position of each run, and the one after its last.
        ids: each run's id.
    """

    starts: Ints
    ends: Ints
    ids: NDArray[np.uint8]

    @classmethod
    def of(cls, flat: NDArray[np.uint8]) -> "Runs":
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        return cls(starts, np.append(starts[1:], len(flat)), flat[starts])

    def alternating(self, index: int) -> Ints:
        """Lengths of what is not, what is, what is not, ... class ``index``; the first may be 0."""
        mine = self.ids == index
        borders = np.stack([self.starts[mine], self.ends[mine]], 1).ravel()
        total = self.ends[-1:]
        lengths = np.diff(np.concatenate([[0], borders, total]))
        return lengths[:-1] if lengths[-1] == 0 else lengths


def brush(alternating: Ints) -> list[int]:
    """Label Studio's run lengths of a mask, bytes as numbers, from alternating lengths of its pixels row by row.

    The values are the four channels of each pixel, 0 or 255. A header of 32 bits for their number, 5 for the bits of a
    value less one and 4 times 4 for ``_BITS`` less one; then for each run a 1, two bits that name the size of its
    length, its length less one, and its value. Source: rle-pack of thi.ng/umbrella.
    """
    lengths = 4 * alternating
    most = 2 ** int(_BITS[-1])
    # Longer runs are split.
    parts = -(-lengths // most)
    values = np.repeat(np.where(np.arange(len(lengths)) % 2, 255, 0), parts)
    split = np.full(int(parts.sum()), most)
    filled = lengths > 0
    split[(np.cumsum(parts) - 1)[filled]] = (lengths - (parts - 1) * most)[filled]
    size = np.searchsorted(2**_BITS, split)
    codes = ((4 + size << _BITS[size]) + split - 1 << 8) + values
    header, header_bits = [int(lengths.sum()), 7, *(_BITS - 1).tolist()], [32, 5, 4, 4, 4, 4]
    return np.packbits(_bits(np.append(header, codes), np.append(header_bits, 11 + _BITS[size]))).tolist()


def _bits(numbers: Ints, widths: Ints) -> NDArray[np.uint8]:
    """The numbers' binary digits one after the other, each with its number of digits."""
    ends = np.cumsum(widths)
    place = np.repeat(ends, widths) - 1 - np.arange(ends[-1])
    return (np.repeat(numbers, widths) >> place & 1).astype(np.uint8)
