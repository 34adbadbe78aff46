"""Shared style of all pictures: colours, fonts, and shortened names."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib import style
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from atp.data.labels import LabelSpace

INK, FAINT, PAPER = "#1f2933", "#6b7680", "#ffffff"
ACCENT = "#d9822b"
MODELS = {
    "source": "#a9b1ba",
    "align": "#86c5ea",
    "distill": "#86c5ea",
    "teach": "#2f86c5",
    "propagate": "#114b8c",
}
"""Grey for the source model, then darker with each stage: readable in print and by colour-blind readers."""
OTHER_MODEL = "#8a6fb0"
SHADES = ("#0b2f57", "#1f6fb2", "#56a8dc", "#d9822b", "#8c3b1f", "#6b7680")
"""Curves of one panel, in order of their parameter."""
MANY_CLASSES = 40
"""With more classes than this, pictures show only some."""

_CHARTS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": "#b8c0c8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e8ebee",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.facecolor": PAPER,
    "figure.dpi": 144,
    "savefig.dpi": 144,
}


def charts() -> AbstractContextManager[None]:
    """The charts' style, independent of the machine's matplotlibrc."""
    return style.context(["default", _CHARTS])


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The charts' font for Pillow, with basic layout, which is the same on all machines."""
    return ImageFont.truetype(_font_file(bold), size, layout_engine=ImageFont.Layout.BASIC)


def model_color(model: str) -> str:
    """The stage's colour, shared by all its rounds."""
    return MODELS.get(model.partition("_")[0], OTHER_MODEL)


def display_name(model: str) -> str:
    """Human-readable form of a name such as ``teach_r01``."""
    return {"batchnorm_only": "BatchNorm only"}.get(model, model.replace("_", " "))


def class_names(space: LabelSpace, length: int = 24) -> list[str]:
    """The classes' names, shortened, in letters that the font has."""
    return [shortened(drawable(name, f"class {index}"), length) for index, name in enumerate(space.names)]


def foremost(scores: Sequence[float], most: int = MANY_CLASSES) -> list[int]:
    """Indices of the ``most`` highest scores, in ascending order."""
    return sorted(sorted(range(len(scores)), key=lambda index: -scores[index])[:most])


def image_names(names: Sequence[str], length: int = 28) -> list[str]:
    """Image names for captions, without their common part if they are too long."""
    if any(len(name) > length for name in names):
        start = _shared(names)
        end = _shared([name[start:][::-1] for name in names])
        parts = [name[start : len(name) - end] for name in names]
        names = [f"{'…' if start else ''}{part}{'…' if end else ''}" for part in parts]
    return [shortened(drawable(name, ""), length) for name in names]


def _shared(names: Sequence[str]) -> int:
    """Length of the common prefix, up to its last character that is neither letter nor digit."""
    alike = next((i for i, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)
    while alike and names[0][alike - 1].isalnum():
        alike -= 1
    return alike


def shortened(text: str, length: int) -> str:
    """Shorten to ``length`` characters by cutting the middle, since names tend to differ at their ends."""
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1].rstrip()}…{text[-tail:].lstrip()}"


def drawable(text: str, otherwise: str) -> str:
    """The text, or ``otherwise`` if the font lacks a glyph for it."""
    return text if all(ord(letter) in _glyphs() for letter in text) else otherwise


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(_font_file(False)).get_charmap())


def _font_file(bold: bool) -> str:
    return str(Path(mpl.get_data_path()) / "fonts/ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf")
