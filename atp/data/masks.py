"""Class ids as files that any viewer shows in the classes' colours."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from atp.data.labels import LabelSpace
from atp.files import atomic_path


def write_mask(path: Path, ids: Tensor, label_space: LabelSpace) -> None:
    """Class ids, uint8 (H, W), as an 8-bit palette PNG."""
    image = Image.fromarray(ids.numpy())
    image.putpalette([channel for color in label_space.colors for channel in color])
    with atomic_path(path) as temporary:
        image.save(temporary)
