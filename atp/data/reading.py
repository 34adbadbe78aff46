"""The size at which a model reads images, and the windows in which it predicts them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from atp.errors import InputError

Size = tuple[int, int]
"""(width, height) in pixels."""

Native = Literal["native"]

Inference = Literal["whole", "sliding"]


@dataclass(frozen=True)
class Reading:
    """How a model reads an image for prediction.

    Attributes:
        size: size to which every image is resized; None keeps each image's own.
        window: size of the overlapping windows in which the resized image is predicted; None predicts it as a whole.

    Raises:
        InputError: if a size is not positive, or smaller than the windows.
    """

    size: Size | None = None
    window: Size | None = None

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("window", self.window)):
            sides = value if isinstance(value, tuple | list) else (value,)
            if value is not None and not (len(sides) == 2 and all(type(side) is int and side >= 1 for side in sides)):
                raise InputError(f"{name} {by(sides)}: must be a width and a height of at least 1, as in 1024x512")
        if self.size is not None:
            check_window(self.window, self.size, f"size {by(self.size)}")

    def __str__(self) -> str:
        size = "each image's own" if self.size is None else by(self.size)
        return size if self.window is None else f"{size}, in windows of {by(self.window)}"

    def changed(self, size: Size | Native | None = None, inference: Inference | None = None) -> Self:
        """Choose another size or another way for one prediction.

        Args:
            size: ``native`` is each image's own; None is the model's.
            inference: ``sliding`` predicts in windows of the size at which the model was adapted, or of the window
                that its file states, and needs ``size``; None is the model's.

        Raises:
            InputError: if a value is invalid, or the windows' size is unknown or larger than ``size``.
        """
        if inference not in (None, "whole", "sliding"):
            raise InputError(f"inference {inference}: must be whole or sliding")
        if isinstance(size, str) and size != "native":
            raise InputError(f"size {size}: must be a width and a height, or native")
        chosen = self.size if size is None else None if isinstance(size, str) else size
        window = None if inference == "whole" else self.window
        if inference == "sliding" and window is None:
            if self.size is None:
                raise InputError("inference sliding: the model's file states no size, which would be the windows'")
            if size is None:
                raise InputError(
                    f"inference sliding: also give the size at which images are read in windows of {by(self.size)}: "
                    "native, or a width and a height"
                )
            window = self.size
        return type(self)(chosen, window)


def parse_size(text: str, name: str) -> Size | Native | None:
    """A size as it is given on a command line or in a request; None for an empty text.

    Args:
        name: names it in the error message.

    Raises:
        InputError: if it is neither ``WIDTHxHEIGHT`` nor ``native``.
    """
    if text in ("", "native"):
        return "native" if text else None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"{name} {text}: must be WIDTHxHEIGHT, as in 1024x512, or native")
    return int(width), int(height)


def check_window(window: Size | None, size: Size, what: str) -> None:
    """Check that windows fit into an image.

    Args:
        what: names the image, for the error message.

    Raises:
        InputError: if they do not.
    """
    if window is not None and (window[0] > size[0] or window[1] > size[1]):
        raise InputError(f"{what}: smaller than the windows of {by(window)}; read it larger, or predict it as a whole")


def by(size: Sequence[object]) -> str:
    """A size as ``WIDTHxHEIGHT``."""
    return "x".join(map(str, size))
