"""Files of negative labels: multi-label bitmaps, one bit for each class of each pixel, lossless.

A file (see ``atp.data.sealed``) holds the planes of the classes one after the other, rows padded to whole bytes, a
byte's lowest bit leftmost. Other containers were measured: docs/pseudo_labels.md.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from atp.data.sealed import Kind, Sealed, compress

BITMAPS = Kind(b"ATPN", "dump")


def pack(labels: Tensor) -> Tensor:
    """Eight pixels of a row to a byte, on the tensor's device: bool, (C, H, W), to uint8, (C, H, ceil(W / 8))."""
    octets = F.pad(labels, (0, -labels.shape[-1] % 8)).contiguous().view(torch.int64)
    # Eight bools are eight bytes of 0 or 1; the product gathers them as the bits of its highest byte, and no two of its
    # other terms meet, so nothing carries over.
    return (octets * 0x0102040810204080).bitwise_right_shift_(56).byte()


def bitmaps_to_bytes(packed: NDArray[np.uint8], width: int) -> bytes:
    """A file's bytes from what ``pack`` made of labels of this width."""
    classes, height, _ = packed.shape
    return Sealed(BITMAPS, (classes, height, width), compress(packed.tobytes())).to_bytes()


def read_bitmaps(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """The labels in a file, bool, of ``shape``: (C, H, W).

    Raises:
        InputError: the file is missing, damaged, or of another shape.
    """
    sealed = Sealed.read(path, BITMAPS)
    if sealed.shape != shape:
        raise BITMAPS.damaged(path)
    classes, height, width = shape
    row = -(-width // 8)
    packed = np.frombuffer(sealed.data(classes * height * row, path), np.uint8)
    bits = np.unpackbits(packed.reshape(classes, height, row), axis=-1, count=width, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
