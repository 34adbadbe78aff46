"""The predicted images in the order in which people are to correct them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atp.data.folder import read_ids
from atp.data.labels import LabelSpace
from atp.errors import InputError
from atp.media.record import Record, Row, mask_of


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        file: its name in the new folder of images, which begins with its place, so that tools sort it there.
        row: its entry in the record.
        mask: the file of its mask.
    """

    file: str
    row: Row
    mask: Path
    space: LabelSpace

    @property
    def stem(self) -> str:
        return Path(self.file).stem

    def ids(self) -> NDArray[np.uint8]:
        """Class ids, (H, W), 255 = none.

        Raises:
            InputError: if the mask is missing, damaged, or of another image.
        """
        ids = read_ids(self.mask, self.space.num_classes)
        if ids.shape != (self.row.height, self.row.width):
            size = f"{self.row.width}x{self.row.height}"
            raise InputError(f"{self.mask}: is not {size} as its image; run atp predict again")
        return ids


def items_of(folder: Path, record: Record, most: int) -> list[Item]:
    """The images of a record, the least certain first; ``most`` of them unless it is 0."""
    rows = record.images[: most or None]
    digits = len(str(len(rows)))
    return [
        Item(
            f"{number:0{digits}}_{row.name.replace('/', '_')}{Path(row.image).suffix.lower()}",
            row,
            mask_of(folder, row),
            record.classes,
        )
        for number, row in enumerate(rows, 1)
    ]


def place_images(items: Sequence[Item], folder: Path) -> None:
    """Put the images into a folder under their new names: as hard links where that is possible, else as copies.

    Raises:
        InputError: if an image is no longer there.
    """
    folder.mkdir(parents=True)
    for item in items:
        source, target = Path(item.row.image), folder / item.file
        if not source.is_file():
            raise InputError(f"{source}: no such file any more; run atp predict again")
        try:
            os.link(source, target)
        except OSError:  # Another disk, for example.
            # Not by shutil, which blames the source for a full disk.
            target.write_bytes(source.read_bytes())
