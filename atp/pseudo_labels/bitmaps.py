"""Files of negative labels: lossless multi-label bitmaps with one bit per class and pixel.

A file (see ``atp.data.arrays``) contains uint8, (C, H, ceil(W / 8)): one plane per class, rows padded to whole bytes,
with the lowest bit leftmost. For measurements of other formats, see docs/explanation/pseudo-labels.md.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atp.data.arrays import damaged, read_arrays


def pack(labels: Tensor) -> Tensor:
    """Pack eight pixels of a row into a byte, on the tensor's device: bool (C, H, W) to uint8 (C, H, ceil(W / 8))."""
    if labels.device.type == "cpu":  # numpy takes a tenth of the time
        return torch.from_numpy(np.packbits(labels.numpy(), axis=-1, bitorder="little"))
    return pack_with_torch(labels)


def pack_with_torch(labels: Tensor) -> Tensor:
    """``pack`` on any device."""
    octets = F.pad(labels, (0, -labels.shape[-1] % 8)).contiguous().view(torch.int64)
    # Eight bools are eight bytes of 0 or 1. The product collects them as the bits of its highest byte; its other terms
    # do not overlap, so there is no carry.
    return (octets * 0x0102040810204080).bitwise_right_shift_(56).byte()


def read_bitmaps(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read the labels in a file, bool, with ``shape`` (C, H, W).

    Raises:
        InputError: if the file is missing or damaged, or has another shape.
    """
    (packed,) = read_arrays(path, "dump")
    classes, height, width = shape
    if packed.dtype != np.uint8 or packed.shape != (classes, height, -(-width // 8)):
        raise damaged(path, "dump")
    bits = np.unpackbits(packed, axis=-1, count=width, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
