"""Label spaces: which class an id means, and in which colour it is drawn."""

from dataclasses import dataclass

IGNORE = 255
"""Label id of pixels without a label, and of padding; no loss and no metric counts them."""


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of the classes 0 .. C-1, C <= 255.

    Attributes:
        names: one per class, unique.
        colors: RGB, 0-255, one per class.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    @property
    def num_classes(self) -> int:
        return len(self.names)
