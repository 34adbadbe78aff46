"""What stands on a street; each thing paints itself on a canvas. Positions and sizes are metres."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from atp.datasets.streets.canvas import Canvas, Point, shade
from atp.datasets.streets.classes import BICYCLE, BUILDING, CAR, FENCE, PERSON, POLE, SIGN, TRUCK, VEGETATION
from atp.datasets.streets.style import Color, Palette, Range

STOREY, HOUSE_DEPTH = 3.1, 9.0


class Thing(Protocol):
    """Anything that can be painted."""

    def paint(self, canvas: Canvas) -> None: ...


@dataclass(frozen=True)
class House:
    """A house beside the street.

    Attributes:
        side: of the street, -1 left, 1 right.
        x: where its long wall stands.
        near, far: where that wall starts and ends.
        light: brightness of that wall.
        roof: colour of a gable roof; None is a flat roof.
    """

    side: int
    x: float
    near: float
    far: float
    floors: int
    color: Color
    windows: Palette
    light: float
    roof: Color | None

    @property
    def height(self) -> float:
        return STOREY * self.floors + 0.6

    def paint(self, canvas: Canvas) -> None:
        """The long wall along the street, bay by bay for its depth, and the short wall that looks at the camera."""
        end = self.x + self.side * HOUSE_DEPTH
        if self.roof is not None:
            self._paint_roof(canvas, end, self.roof)
        canvas.front(self.x, end, self.near, 0, self.height, shade(self.color, 0.84), BUILDING)
        long = shade(self.color, self.light)
        bays = _pieces(self.near, self.far, 2.8)
        for near, far in bays[::-1]:
            canvas.wall(self.x, near, far, 0, self.height, long, BUILDING)
        canvas.wall(self.x, self.near, self.far, self.height - 0.5, self.height, shade(long, 0.8))
        self._paint_long_windows(canvas, bays)
        self._paint_short_windows(canvas)

    def _paint_roof(self, canvas: Canvas, end: float, color: Color) -> None:
        project, height = canvas.camera.project, self.height
        ridge, top = (self.x + end) / 2, height + 3.0
        slope = [project(self.x, height, self.near), project(self.x, height, self.far), project(ridge, top, self.far)]
        canvas.polygon([*slope, project(ridge, top, self.near)], shade(color, self.light), BUILDING, self.near)
        gable = [project(self.x, height, self.near), project(ridge, top, self.near), project(end, height, self.near)]
        canvas.polygon(gable, shade(self.color, 0.82), BUILDING, self.near)

    def _paint_long_windows(self, canvas: Canvas, bays: Sequence[tuple[float, float]]) -> None:
        """A window, or a door, per bay and floor."""
        for bay, (near, far) in enumerate(bays):
            # Farther ones are too small to see.
            if near > 45:
                break
            margin = 0.28 * (far - near)
            for floor in range(self.floors):
                door = floor == 0 and bay % 4 == 1
                low, high = (0.1, 2.3) if door else (STOREY * floor + 1.0, STOREY * floor + 2.6)
                glass = shade(self.windows[(bay * 7 + floor * 3) % len(self.windows)], 0.5 + 0.5 * self.light)
                canvas.wall(self.x, near + margin, far - margin, low, high, glass)

    def _paint_short_windows(self, canvas: Canvas) -> None:
        if self.near > 30:
            return
        for column in (1.4, 4.0, 6.6):
            left, right = self.x + self.side * column, self.x + self.side * (column + 1.3)
            for floor in range(self.floors):
                glass = self.windows[floor % len(self.windows)]
                canvas.front(left, right, self.near, STOREY * floor + 1.0, STOREY * floor + 2.6, glass)


def _pieces(start: float, end: float, length: float) -> list[tuple[float, float]]:
    """Cut a stretch into equal pieces of about a length."""
    count = max(1, round((end - start) / length))
    return list(itertools.pairwise(start + (end - start) * i / count for i in range(count + 1)))


@dataclass(frozen=True)
class Fence:
    """Planks with dark gaps (`solid`), or a dark mesh with bright bars."""

    x: float
    near: float
    far: float
    height: float
    color: Color
    solid: bool

    def paint(self, canvas: Canvas) -> None:
        project, focal = canvas.camera.project, canvas.camera.focal
        for near, far in _pieces(self.near, self.far, 2.0)[::-1]:
            canvas.wall(self.x, near, far, 0, self.height, shade(self.color, 1 if self.solid else 0.62), FENCE)
        ink = shade(self.color, 0.72 if self.solid else 1.25)
        for z in np.arange(self.near, min(self.far, 26), 0.35 if self.solid else 0.5):
            canvas.line([project(self.x, 0, z), project(self.x, self.height, z)], focal / z * 0.07, ink)
        for y in (0.25 * self.height, 0.97 * self.height):
            rail = [project(self.x, y, self.near), project(self.x, y, self.far)]
            canvas.line(rail, focal / self.near * 0.03, shade(ink, 0.95))


@dataclass(frozen=True)
class Tree:
    """A trunk and a crown.

    Attributes:
        crown: x and y in -1..1, radius and brightness, one row an ellipse, (N, 4).
    """

    x: float
    z: float
    height: float
    color: Color
    crown: NDArray[np.float64]

    def paint(self, canvas: Canvas) -> None:
        scale = canvas.camera.focal / self.z
        x, ground = canvas.camera.project(self.x, 0, self.z)
        middle = ground - 0.66 * self.height * scale
        canvas.line([(x, ground), (x, middle)], max(3, 0.3 * scale), (92, 70, 52), VEGETATION, self.z)
        size = 0.34 * self.height * scale
        for u, v, radius, brightness in self.crown:
            color = shade(self.color, brightness + 0.12 * v)
            canvas.ellipse((x + u * size, middle - v * size), radius * size, radius * size, color, VEGETATION, self.z)


def draw_crown(rng: Generator, count: int) -> NDArray[np.float64]:
    """Ellipses within about the unit disc, dark below and bright above, (count, 4) as `Tree` takes them."""
    angle, reach = rng.uniform(0, 2 * math.pi, count), np.sqrt(rng.uniform(0, 1, count)) * 0.72
    radius = rng.uniform(0.30, 0.55, count) * (1 + 2.5 / count)
    order = np.argsort(np.sin(angle) * reach)
    return np.stack([np.cos(angle) * reach, np.sin(angle) * reach, radius, rng.uniform(0.8, 1.1, count)], 1)[order]


def _paint_pole(canvas: Canvas, x: float, z: float, height: float, color: Color) -> tuple[Point, float]:
    """An upright pole, never thinner than 2 pixels of the image; returns its top and the pixels per metre."""
    scale = canvas.camera.focal / z
    top = canvas.camera.project(x, height, z)
    canvas.line([canvas.camera.project(x, 0, z), top], max(4.0, 0.28 * scale), color, POLE, z)
    return top, scale


@dataclass(frozen=True)
class Lamp:
    """A street lamp whose arm reaches `reach` to the right, or to the left if negative."""

    x: float
    z: float
    height: float
    reach: float
    color: Color

    def paint(self, canvas: Canvas) -> None:
        top, scale = _paint_pole(canvas, self.x, self.z, self.height, self.color)
        x, y = canvas.camera.project(self.x + self.reach, self.height, self.z)
        canvas.line([top, (x, y)], 0.8 * max(4.0, 0.28 * scale), self.color, POLE, self.z)
        wide, narrow, low = 0.35 * scale, 0.25 * scale, y + 0.25 * scale
        head = [(x - wide, y), (x + wide, y), (x + narrow, low), (x - narrow, low)]
        canvas.polygon(head, (226, 218, 180), POLE, self.z)


@dataclass(frozen=True)
class Sign:
    """A traffic sign on a pole: a disc (shape 0), a warning triangle (1) or a board (2)."""

    x: float
    z: float
    height: float
    shape: int
    color: Color
    metal: Color

    def paint(self, canvas: Canvas) -> None:
        top, scale = _paint_pole(canvas, self.x, self.z, self.height, self.metal)
        size = max(4.5, 0.52 * scale)
        white: Color = (230, 228, 220)
        if self.shape == 0:
            canvas.ellipse(top, size, size, self.color, SIGN, self.z)
            canvas.ellipse(top, 0.58 * size, 0.58 * size, white)
        elif self.shape == 1:
            canvas.polygon(_triangle(top, 1.15 * size), self.color, SIGN, self.z)
            canvas.polygon(_triangle(top, 0.6 * size), white)
        else:
            canvas.polygon(_box(top, 1.25 * size, 0.9 * size), self.color, SIGN, self.z)
            canvas.polygon(_box(top, 0.9 * size, 0.14 * size), white)


def _box(center: Point, half_width: float, half_height: float) -> list[Point]:
    (x, y), w, h = center, half_width, half_height
    return [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]


def _triangle(center: Point, radius: float) -> list[Point]:
    x, y = center
    return [(x, y - radius), (x - 0.95 * radius, y + 0.7 * radius), (x + 0.95 * radius, y + 0.7 * radius)]


@dataclass(frozen=True)
class TrafficLight:
    """A traffic light with lamp 0 (red), 1 (amber) or 2 (green) on."""

    x: float
    z: float
    height: float
    lit: int
    metal: Color

    def paint(self, canvas: Canvas) -> None:
        (x, y), scale = _paint_pole(canvas, self.x, self.z, self.height, self.metal)
        half = max(3.5, 0.34 * scale)
        canvas.polygon(_box((x, y), half, 2.3 * half), (34, 36, 38), SIGN, self.z)
        for lamp, on in enumerate(((232, 48, 44), (240, 176, 40), (60, 214, 110))):
            center = (x, y + (lamp - 1) * 1.45 * half)
            canvas.ellipse(center, 0.58 * half, 0.58 * half, shade(on, 1 if lamp == self.lit else 0.28))


@dataclass(frozen=True)
class Outfit:
    """What somebody wears, and their skin."""

    shirt: Color
    trousers: Color
    skin: Color


@dataclass(frozen=True)
class Pedestrian:
    """Somebody on foot; `stride` in -1..1 is the spread of legs and arms."""

    x: float
    z: float
    height: float
    stride: float
    outfit: Outfit

    def paint(self, canvas: Canvas) -> None:
        s = canvas.camera.focal / self.z * self.height / 1.75
        x, ground = canvas.camera.project(self.x, 0, self.z)

        def at(right: float, up: float) -> Point:
            return x + right * s, ground - up * s

        shirt, trousers, z = self.outfit.shirt, self.outfit.trousers, self.z
        for side in (-1, 1):
            foot, hand = side * (0.1 + 0.22 * abs(self.stride)), side * (0.33 + 0.1 * self.stride)
            canvas.line([at(0.1 * side, 0.86), at(foot, 0)], max(2, 0.2 * s), trousers, PERSON, z)
            canvas.line([at(0.22 * side, 1.4), at(hand, 0.8)], max(1, 0.14 * s), shade(shirt, 0.82), PERSON, z)
        canvas.polygon([at(-0.27, 1.46), at(0.27, 1.46), at(0.21, 0.8), at(-0.21, 0.8)], shirt, PERSON, z)
        canvas.ellipse(at(0, 1.62), 0.14 * s, 0.17 * s, self.outfit.skin, PERSON, z)
        # Hair.
        canvas.polygon(_box(at(0, 1.74), 0.13 * s, 0.06 * s), (58, 44, 36))


@dataclass(frozen=True)
class Bicycle:
    """A bicycle, parked or ridden; |facing| in 0-1 foreshortens it and the sign turns it."""

    x: float
    z: float
    facing: float
    color: Color
    rider: Outfit | None

    def paint(self, canvas: Canvas) -> None:
        # A tenth larger than life, or the frame would vanish between pixels.
        s = 1.1 * canvas.camera.focal / self.z
        x, ground = canvas.camera.project(self.x, 0, self.z)

        def at(forward: float, up: float) -> Point:
            return x + forward * self.facing * s, ground - up * s

        thin, z = max(1.6, 0.07 * s), self.z
        radius = 0.36 * s
        for forward in (-0.54, 0.54):
            u, v = at(forward, 0.36)
            canvas.ring((u, v), abs(self.facing) * radius, radius, 1.1 * thin, shade(self.color, 0.5), BICYCLE, z)
            canvas.line([(u, v - radius), (u, v + radius)], 1, shade(self.color, 1.1))
        frame = [at(-0.54, 0.36), at(-0.2, 0.82), at(0.4, 0.86), at(0.0, 0.34), at(-0.54, 0.36)]
        seat_tube, saddle = [at(-0.22, 0.92), at(0.0, 0.34)], [at(-0.34, 0.93), at(-0.1, 0.93)]
        fork = [at(0.54, 0.36), at(0.38, 1.0), at(0.28, 1.06)]
        for path in (frame, seat_tube, fork, saddle):
            canvas.line(path, thin, self.color, BICYCLE, z)
        if self.rider is not None:
            shirt = self.rider.shirt
            canvas.line([at(-0.2, 0.98), at(0.14, 0.72), at(0.02, 0.24)], 0.17 * s, self.rider.trousers, PERSON, z)
            canvas.line([at(-0.2, 0.95), at(0.06, 1.46)], 0.36 * s, shirt, PERSON, z)
            canvas.line([at(0.06, 1.40), at(0.34, 1.08)], 0.12 * s, shade(shirt, 0.82), PERSON, z)
            canvas.ellipse(at(0.13, 1.66), 0.14 * s, 0.17 * s, self.rider.skin, PERSON, z)


@dataclass(frozen=True)
class VehicleShape:
    """A vehicle's outline from the side, drawn out to its width.

    Attributes:
        wheel: radius.
        outline: (from the rear, up), from the rear's foot over the roof to the front's foot.
        glass: edges of the outline, by the index of their first point, that are windows all across.
        windows: polygons on the side.
        axles: from the rear.
    """

    label: int
    width: float
    wheel: float
    outline: tuple[Point, ...]
    glass: tuple[int, ...]
    windows: tuple[tuple[Point, ...], ...]
    axles: tuple[float, ...]

    @property
    def length(self) -> float:
        return self.outline[-1][0]

    @property
    def height(self) -> float:
        return max(y for _, y in self.outline)


SALOON = VehicleShape(
    label=CAR,
    width=1.85,
    wheel=0.34,
    outline=((0, 0.28), (0, 0.94), (0.5, 1.0), (1.1, 1.48), (2.6, 1.48), (3.3, 0.98), (4.3, 0.82), (4.3, 0.28)),
    glass=(2, 4),
    windows=(((0.85, 1.0), (1.2, 1.4), (1.8, 1.4), (1.8, 1.0)), ((1.9, 1.0), (1.9, 1.4), (2.5, 1.4), (3.05, 1.0))),
    axles=(0.8, 3.5),
)
ESTATE = VehicleShape(
    label=CAR,
    width=1.85,
    wheel=0.34,
    outline=((0, 0.28), (0, 0.98), (0.25, 1.56), (2.7, 1.56), (3.4, 1.0), (4.2, 0.88), (4.2, 0.28)),
    glass=(1, 3),
    windows=(
        ((0.25, 1.02), (0.4, 1.46), (1.5, 1.46), (1.5, 1.02)),
        ((1.6, 1.02), (1.6, 1.46), (2.6, 1.46), (3.15, 1.02)),
    ),
    axles=(0.75, 3.4),
)
LORRY = VehicleShape(
    label=TRUCK,
    width=2.45,
    wheel=0.48,
    outline=((0, 0.7), (0, 3.3), (5.0, 3.3), (5.1, 2.6), (6.6, 2.6), (6.9, 1.5), (6.9, 0.5)),
    glass=(4,),
    windows=(((5.5, 1.6), (5.5, 2.4), (6.5, 2.4), (6.75, 1.6)),),
    axles=(1.2, 2.3, 6.0),
)
VAN = VehicleShape(
    label=TRUCK,
    width=2.1,
    wheel=0.4,
    outline=((0, 0.4), (0, 2.55), (4.0, 2.55), (4.7, 1.5), (5.5, 1.2), (5.5, 0.4)),
    glass=(2,),
    windows=(((3.3, 1.5), (3.3, 2.2), (4.0, 2.2), (4.5, 1.5)),),
    axles=(1.0, 4.6),
)
BUS = VehicleShape(
    label=TRUCK,
    width=2.5,
    wheel=0.48,
    outline=((0, 0.4), (0, 1.5), (0, 2.6), (0, 3.1), (9.0, 3.1), (9.0, 2.6), (9.0, 1.4), (9.0, 0.4)),
    glass=(1, 5),
    windows=tuple(((u, 1.5), (u, 2.6), (u + 1.3, 2.6), (u + 1.3, 1.5)) for u in (0.3, 1.8, 3.3, 4.8, 6.3, 7.6)),
    axles=(1.8, 7.2),
)

AWAY, TOWARDS, LEFTWARDS, RIGHTWARDS = range(4)
_CIRCLE = tuple((math.cos(2 * math.pi * i / 12), math.sin(2 * math.pi * i / 12)) for i in range(12))


@dataclass(frozen=True)
class Vehicle:
    """A vehicle whose nearest face is at z; it follows the street (AWAY, TOWARDS) or crosses it."""

    shape: VehicleShape
    x: float
    z: float
    heading: int
    color: Color
    glass: Color

    @property
    def along(self) -> bool:
        return self.heading in (AWAY, TOWARDS)

    @property
    def forwards(self) -> bool:
        """The rear has the smaller x or z."""
        return self.heading in (AWAY, RIGHTWARDS)

    @property
    def footprint(self) -> tuple[float, float]:
        """Extent in x and z."""
        return (self.shape.width, self.shape.length) if self.along else (self.shape.length, self.shape.width)

    def paint(self, canvas: Canvas) -> None:
        half = self.shape.width / 2
        self._paint_hull(canvas)
        if self.along:
            self._paint_end(canvas)
            # Straight ahead, neither side is to be seen.
            if abs(self.x) > half:
                self._paint_side(canvas, -half if self.x > 0 else half)
        else:
            self._paint_side(canvas, -half)

    def _at(self, canvas: Canvas, u: float, y: float, v: float) -> Point:
        """Pixel of a point u from the rear, y up and v off the vehicle's middle."""
        u = u if self.forwards else self.shape.length - u
        if self.along:
            return canvas.camera.project(self.x + v, y, self.z + u)
        return canvas.camera.project(self.x - self.shape.length / 2 + u, y, self.z + self.shape.width / 2 + v)

    def _paint_across(self, canvas: Canvas, a: Point, b: Point, v: Range, color: Color, label: int | None) -> None:
        """The rectangle between points a and b of the outline, from v[0] to v[1] across."""
        corners = [(a, v[0]), (b, v[0]), (b, v[1]), (a, v[1])]
        canvas.polygon([self._at(canvas, u, y, w) for (u, y), w in corners], color, label, self.z)

    def _paint_hull(self, canvas: Canvas) -> None:
        """The outline drawn out across, the farther end first."""
        shape, half = self.shape, self.shape.width / 2
        edges = list(enumerate(itertools.pairwise(shape.outline)))
        for index, (a, b) in edges[::-1] if self.forwards else edges:
            paint = self.glass if index in shape.glass else shade(self.color, 0.95 if a[1] == b[1] else 0.82)
            self._paint_across(canvas, a, b, (-half, half), paint, shape.label)

    def _paint_end(self, canvas: Canvas) -> None:
        """Wheels, lamps and bumper of the end that looks at the camera."""
        half = self.shape.width / 2
        u, foot = self.shape.outline[0 if self.forwards else -1]
        for v in (-half, half - 0.35):
            self._paint_across(canvas, (u, 0), (u, 0.4), (v, v + 0.35), (22, 22, 24), self.shape.label)
        lamp: Color = (206, 40, 38) if self.forwards else (240, 236, 206)
        for v in (-half + 0.05, half - 0.4):
            self._paint_across(canvas, (u, foot + 0.32), (u, foot + 0.55), (v, v + 0.35), lamp, None)
        self._paint_across(canvas, (u, foot), (u, foot + 0.16), (-half, half), shade(self.color, 0.5), None)

    def _paint_side(self, canvas: Canvas, v: float) -> None:
        """Body, windows and wheels of the side at v."""
        shape = self.shape
        body = [self._at(canvas, u, y, v) for u, y in shape.outline]
        canvas.polygon(body, shade(self.color, 0.92), shape.label, self.z)
        for window in shape.windows:
            canvas.polygon([self._at(canvas, u, y, v) for u, y in window], self.glass)
        for axle in shape.axles:
            for radius, paint in ((shape.wheel, (20, 20, 22)), (0.5 * shape.wheel, (110, 110, 112))):
                rim = [self._at(canvas, axle + radius * c, shape.wheel + radius * s, v) for c, s in _CIRCLE]
                canvas.polygon(rim, paint, shape.label, self.z)
