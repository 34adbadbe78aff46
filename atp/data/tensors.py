"""Read images and labels from disk as tensors."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from atp.data.folder import open_image, read_ids


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read an image as RGB, uint8, (3, H, W), resized to ``size`` = (width, height) if given.

    Raises:
        InputError: if the file is missing, not an image, truncated, or has more than 8 bits per channel.
    """
    return image_tensor(open_image(path, size))


def image_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to uint8, (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def read_label(path: Path, num_classes: int, size: tuple[int, int] | None = None) -> Tensor:
    """Read class ids, uint8, (H, W), 255 = unlabelled, resized by nearest neighbour to ``size`` if given.

    Raises:
        InputError: if the file is unreadable or not 8-bit single-channel, or an id is neither a class nor 255.
    """
    return torch.from_numpy(read_ids(path, num_classes, size))
