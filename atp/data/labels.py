"""Label spaces: names and colours of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

IGNORE = 255
"""Label id of unlabelled pixels and padding, which losses and metrics ignore."""


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of the classes 0 .. C-1, C <= 255.

    Attributes:
        names: one per class, unique.
        colors: RGB, 0-255, one per class.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    @classmethod
    def named(cls, names: Sequence[str]) -> Self:
        """Classes with the colours of PASCAL VOC."""
        return cls(tuple(names), tuple(_voc_color(index) for index in range(len(names))))

    @classmethod
    def numbered(cls, count: int) -> Self:
        """Classes named by their ids."""
        return cls.named([str(index) for index in range(count)])

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> bytes:
        """RGB of all 256 ids, black for unused ones; with fewer entries, Pillow packs ids into fewer bits, and 255
        becomes another class."""
        return bytes(channel for color in self.colors for channel in color).ljust(3 * 256, b"\0")


def _voc_color(index: int) -> tuple[int, int, int]:
    """PASCAL VOC's colour: the bits of an id, three at a time, fill red, green and blue from their highest bit down."""
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)
    )
    return red, green, blue
