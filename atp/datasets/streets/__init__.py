"""Streets: an embedded pair of domains, drawn by us, so that the whole method runs without a download.

A scene is painted from far to near at twice its size on three canvases, colour, class and depth, through a pinhole
camera over flat ground; the colour canvas is then photographed: texture, haze, lens and sensor. What is in a scene and
how it looks is a `Style`; the source domain is `SIMULATOR`, the target lies `shift` of the way from there to `REAL`.
The two differ in palette, texture, haze and composition, not in brightness and contrast alone: those would be undone by
re-estimating the statistics of BatchNorm.

    python -m atp.datasets.streets OUT --source 400 --target 400 --test 100 --validation 60 --size 160x80 --seed 0
"""

from atp.datasets.streets.classes import CLASSES
from atp.datasets.streets.files import SPLITS, draw_image, write_streets
from atp.datasets.streets.scene import draw_scene
from atp.datasets.streets.style import REAL, SIMULATOR, Style, interpolate

__all__ = [
    "CLASSES",
    "REAL",
    "SIMULATOR",
    "SPLITS",
    "Style",
    "draw_image",
    "draw_scene",
    "interpolate",
    "write_streets",
]
