"""Files of negative labels: multi-label bitmaps, one bit for each class of each pixel, lossless.

A file (see ``atp.data.arrays``) holds uint8, (C, H, ceil(W / 8)): planes of the classes, rows padded to whole bytes, a
byte's lowest bit leftmost. Other containers were measured: docs/explanation/pseudo-labels.md.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atp.data.arrays import damaged, read_arrays


def pack(labels: Tensor) -> Tensor:
    """Eight pixels of a row to a byte, on the tensor's device: bool, (C, H, W), to uint8, (C, H, ceil(W / 8))."""
    octets = F.pad(labels, (0, -labels.shape[-1] % 8)).contiguous().view(torch.int64)
    # Eight bools are eight bytes of 0 or 1; the product gathers them as the bits of its highest byte, and no two of its
    # other terms meet, so nothing carries over.
    return (octets * 0x0102040810204080).bitwise_right_shift_(56).byte()


def read_bitmaps(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """The labels in a file, bool, of ``shape``: (C, H, W).

    Raises:
        InputError: the file is missing, damaged, or of another shape.
    """
    (packed,) = read_arrays(path, "dump")
    classes, height, width = shape
    if packed.dtype != np.uint8 or packed.shape != (classes, height, -(-width // 8)):
        raise damaged(path, "dump")
    bits = np.unpackbits(packed, axis=-1, count=width, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
