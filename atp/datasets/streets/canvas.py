"""The camera, and the three canvases on which a scene is painted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from atp.datasets.streets.classes import SKY, VEGETATION
from atp.datasets.streets.style import Color, Palette

Point = tuple[float, float]

OVERSAMPLING = 2
"""Pixels of the canvas per pixel of the image, in each direction."""

NEAR, FAR = 1.2, 80.0
"""Nearest and farthest drawn distance in metres."""


@dataclass(frozen=True)
class Camera:
    """A pinhole over flat ground, looking along z; x is right, y up, metres; pixels of the oversampled canvas.

    Attributes:
        eye: height above the ground, metres.
        focal: pixels.
        center, horizon: the vanishing point, pixels.
    """

    width: int
    height: int
    eye: float
    focal: float
    center: float
    horizon: float

    def project(self, x: float, y: float, z: float) -> Point:
        scale = self.focal / z
        return (self.center + scale * x, self.horizon + scale * (self.eye - y))


class Canvas:
    """Colour, class and depth of a scene, painted together so that what covers one covers all three."""

    def __init__(self, camera: Camera, sky: Palette, ground: Color) -> None:
        """Start with sky above and a meadow below the horizon."""
        self.camera = camera
        size = (camera.width, camera.height)
        rows = np.arange(camera.height) + 0.5
        below = rows > camera.horizon
        height = np.clip(rows / camera.horizon, 0, 1)[:, None]
        colors = np.where(below[:, None], ground, (1 - height) * np.array(sky[0]) + height * np.array(sky[1]))
        depth = np.where(below, camera.focal * camera.eye / np.maximum(rows - camera.horizon, 1e-3), FAR)
        label = np.where(below, VEGETATION, SKY)
        self.rgb = Image.fromarray(np.clip(colors, 0, 255).astype(np.uint8)[:, None]).resize(size, 0)
        self.label = Image.fromarray(label.astype(np.uint8)[:, None]).resize(size, 0)
        self.depth = Image.fromarray(np.minimum(depth, FAR).astype(np.float32)[:, None]).resize(size, 0)
        self._rgb, self._label, self._depth = (ImageDraw.Draw(i) for i in (self.rgb, self.label, self.depth))

    def polygon(self, points: Sequence[Point], color: Color, label: int | None = None, depth: float = FAR) -> None:
        """Fill a polygon of pixel positions; without a label it is paint on what is there already."""
        self._rgb.polygon(points, fill=_bytes(color))
        if label is not None:
            self._label.polygon(points, fill=label)
            self._depth.polygon(points, fill=depth)

    def ellipse(
        self, center: Point, rx: float, ry: float, color: Color, label: int | None = None, depth: float = FAR
    ) -> None:
        box = (center[0] - rx, center[1] - ry, center[0] + rx, center[1] + ry)
        self._rgb.ellipse(box, fill=_bytes(color))
        if label is not None:
            self._label.ellipse(box, fill=label)
            self._depth.ellipse(box, fill=depth)

    def ring(self, center: Point, rx: float, ry: float, width: float, color: Color, label: int, depth: float) -> None:
        """A wheel: a ring of colour, while its class fills the disc, as annotators draw it."""
        box = (center[0] - rx, center[1] - ry, center[0] + rx, center[1] + ry)
        self._rgb.ellipse(box, outline=_bytes(color), width=max(1, round(width)))
        self._label.ellipse(box, fill=label)
        self._depth.ellipse(box, fill=depth)

    def line(
        self, points: Sequence[Point], width: float, color: Color, label: int | None = None, depth: float = FAR
    ) -> None:
        thick = max(1, round(width))
        joint = "curve" if thick > 3 else None
        self._rgb.line(points, fill=_bytes(color), width=thick, joint=joint)
        if label is not None:
            self._label.line(points, fill=label, width=thick, joint=joint)
            self._depth.line(points, fill=depth, width=thick, joint=joint)

    def wall(
        self, x: float, near: float, far: float, low: float, high: float, color: Color, label: int | None = None
    ) -> None:
        """Fill an upright rectangle that follows the street, in metres; its depth is that of its middle."""
        a, b = self.camera.focal / near, self.camera.focal / far
        u, v = self.camera.center + a * x, self.camera.center + b * x
        top, bottom = self.camera.eye - high, self.camera.eye - low
        y = self.camera.horizon
        points = [(u, y + a * bottom), (v, y + b * bottom), (v, y + b * top), (u, y + a * top)]
        self.polygon(points, color, label, (near + far) / 2)

    def front(
        self, left: float, right: float, z: float, low: float, high: float, color: Color, label: int | None = None
    ) -> None:
        """Fill an upright rectangle that faces the camera, in metres."""
        (u, y), (v, top) = self.camera.project(left, low, z), self.camera.project(right, high, z)
        self.polygon([(u, y), (v, y), (v, top), (u, top)], color, label, z)

    def strip(self, left: float, right: float, near: float, far: float, color: Color, label: int | None = None) -> None:
        """Fill a rectangle on the ground, in metres; the ground's depth is there from the start."""
        near, far = max(near, NEAR), max(far, NEAR)
        project = self.camera.project
        points = [project(left, 0, near), project(left, 0, far), project(right, 0, far), project(right, 0, near)]
        self._rgb.polygon(points, fill=_bytes(color))
        if label is not None:
            self._label.polygon(points, fill=label)


def _bytes(color: Color) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, int(c))) for c in color)
    return red, green, blue


def shade(color: Color, factor: float) -> Color:
    """Brighter by a factor above 1, darker by one below; the canvas clips."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)
