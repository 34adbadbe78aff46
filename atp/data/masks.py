"""Write class ids as files that image viewers show in the classes' colours."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atp.data.labels import LabelSpace
from atp.files import atomic_path


def write_mask(path: Path, ids: NDArray[np.uint8], label_space: LabelSpace) -> None:
    """Write class ids, uint8 (H, W), as an 8-bit palette PNG; 255 stays 255."""
    image = Image.fromarray(ids)
    image.putpalette(label_space.palette)
    with atomic_path(path) as temporary:
        image.save(temporary)


def write_classes(path: Path, label_space: LabelSpace) -> None:
    """Write the classes as the YAML list to which ``data.classes`` refers."""
    lines = (
        f"- {{name: {name}, color: {list(color)}}}\n"
        for name, color in zip(label_space.names, label_space.colors, strict=True)
    )
    path.write_text("".join(lines), encoding="utf-8")
