"""CVAT's "Segmentation mask 1.1": an archive of masks in colours, and the labels of the task."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from atp.annotations.items import Item
from atp.data.labels import LabelSpace

FILE = "annotations.zip"
BACKGROUND = (0, 0, 0)
"""Of pixels without a label, by the format."""


def write_cvat(items: Sequence[Item], space: LabelSpace, folder: Path, name: str) -> str:
    """Write ``annotations.zip`` to upload as annotations, and ``labels.json`` for the task's raw labels.

    Each class of an image is one object. The colours are the classes', unless two classes share one or a class has the
    background's: then all have those of PASCAL VOC.
    """
    voc = LabelSpace.numbered(space.num_classes + 1).colors
    colors = space.colors if len({*space.colors, BACKGROUND}) > space.num_classes else voc[1:]
    labels = [
        {"name": label, "color": "#{:02x}{:02x}{:02x}".format(*color), "attributes": []}
        for label, color in zip(space.names, colors, strict=True)
    ]
    (folder / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    lines = ["# label:color_rgb:parts:actions", f"background:{_text(BACKGROUND)}::"]
    lines += [f"{label}:{_text(color)}::" for label, color in zip(space.names, colors, strict=True)]
    # PNG is compressed already.
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        archive.writestr("labelmap.txt", "\n".join(lines) + "\n")
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{item.stem}\n" for item in items))
        for item in items:
            # 255, no class, becomes 0.
            ids = item.ids() + np.uint8(1)
            for kind, palette in (("SegmentationClass", (BACKGROUND, *colors)), ("SegmentationObject", voc)):
                buffer = io.BytesIO()
                Image.fromarray(np.array(palette, np.uint8)[ids]).save(buffer, "PNG")
                archive.writestr(f"{kind}/{item.stem}.png", buffer.getvalue())
    return f"{FILE}, labels.json and images/"


def _text(color: tuple[int, int, int]) -> str:
    return ",".join(map(str, color))
