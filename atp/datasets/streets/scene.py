"""What stands where: from a style to a painted and photographed street."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from atp.datasets.streets.canvas import FAR, NEAR, OVERSAMPLING, Camera, Canvas, Point, shade
from atp.datasets.streets.classes import BUILDING, ROAD, SIDEWALK, TRUCK, VEGETATION
from atp.datasets.streets.photograph import photograph
from atp.datasets.streets.style import Color, Palette, Style
from atp.datasets.streets.things import (
    AWAY,
    BUS,
    ESTATE,
    LEFTWARDS,
    LORRY,
    RIGHTWARDS,
    SALOON,
    STOREY,
    TOWARDS,
    VAN,
    Bicycle,
    Fence,
    House,
    Lamp,
    Outfit,
    Pedestrian,
    Sign,
    Thing,
    TrafficLight,
    Tree,
    Vehicle,
    VehicleShape,
    draw_crown,
)

SKIN: Palette = ((226, 180, 150), (190, 140, 108), (120, 84, 62))


@dataclass(frozen=True)
class Street:
    """The plan of one scene, metres.

    Attributes:
        middle: x of the road's middle line.
        road_half, sidewalk, verge: widths, from the middle outwards.
        light: brightness of walls to the left and to the right.
        sun: how far a shadow falls in x and z per metre of height.
    """

    middle: float
    road_half: float
    sidewalk: float
    verge: float
    light: tuple[float, float]
    sun: tuple[float, float]

    def beside(self, side: int, offset: float) -> float:
        """x at `offset` metres outwards of the kerb; side -1 is left, 1 right."""
        return self.middle + side * (self.road_half + offset)

    def light_of(self, side: int) -> float:
        return self.light[0] if side < 0 else self.light[1]


@dataclass
class Scene:
    """What stands on the street, with its distance, and the shadows on the ground as polygons of (x, z)."""

    street: Street
    things: list[tuple[float, Thing]] = field(default_factory=list)
    shadows: list[list[Point]] = field(default_factory=list)

    def add(self, distance: float, thing: Thing) -> None:
        """Place a thing; of two things the nearer is painted over the farther."""
        self.things.append((distance, thing))

    def cast(self, start: Point, end: Point, height: float) -> None:
        """Let an upright face between two points (x, z) throw its shadow on the ground."""
        dx, dz = (height * d for d in self.street.sun)
        self.shadows.append([start, end, (end[0] + dx, end[1] + dz), (start[0] + dx, start[1] + dz)])

    def stand(self, x: float, z: float, width: float, height: float, thing: Thing) -> None:
        """Place something that faces the camera, with its shadow."""
        self.add(z, thing)
        self.cast((x - width / 2, z), (x + width / 2, z), height)


def draw_scene(rng: Generator, size: tuple[int, int], style: Style) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one street.

    Args:
        rng: all randomness of the scene comes from here.
        size: (width, height) in pixels, each at least 16.
        style: of the domain.

    Returns:
        The image, uint8 RGB, (H, W, 3), and its class ids, uint8, (H, W), indices into `CLASSES`.
    """
    width, height = (OVERSAMPLING * side for side in size)
    camera = Camera(
        width,
        height,
        eye=rng.uniform(1.5, 1.9),
        focal=rng.uniform(1.15, 1.4) * height,
        center=width * rng.uniform(0.4, 0.6),
        horizon=height * rng.uniform(0.40, 0.50),
    )
    scene = Scene(_plan(rng, style))
    for side in (-1, 1):
        _line_roadside(scene, rng, style, side)
    _furnish(scene, rng, style)
    _drive(scene, rng, style)
    _populate(scene, rng, style)

    sky = style.sky[rng.integers(len(style.sky))]
    canvas = Canvas(camera, sky, _pick(rng, style.grass))
    _paint_clouds(canvas, rng)
    _paint_ground(canvas, rng, scene.street, style)
    _paint_skyline(canvas, rng, style)
    _paint_shadows(canvas, scene.shadows, rng.uniform(*style.shadow))
    for _, thing in sorted(scene.things, key=lambda placed: -placed[0]):
        thing.paint(canvas)
    label = np.asarray(canvas.label)[::OVERSAMPLING, ::OVERSAMPLING].copy()
    return photograph(rng, canvas, label, sky[1], style), label


def _pick(rng: Generator, palette: Palette, spread: float = 10) -> Color:
    """A colour of the palette, moved by up to `spread` grey levels in each channel."""
    red, green, blue = palette[rng.integers(len(palette))]
    return (
        red + spread * rng.uniform(-1, 1),
        green + spread * rng.uniform(-1, 1),
        blue + spread * rng.uniform(-1, 1),
    )


def _count(rng: Generator, mean: float) -> int:
    """How many; binomial rather than Poisson, so that neither empty nor crowded scenes are frequent."""
    most = max(1, math.ceil(2 * mean))
    return int(rng.binomial(most, mean / most))


def _side(rng: Generator) -> int:
    return int(rng.choice((-1, 1)))


# ------------------------------------------------------------------------------------------------------------ composing


def _plan(rng: Generator, style: Style) -> Street:
    dark = 1 - rng.uniform(*style.sun_contrast)
    sun = rng.uniform(0.3, 0.9) * _side(rng)
    return Street(
        middle=rng.uniform(-1.8, 1.8),
        road_half=rng.uniform(*style.road_half),
        sidewalk=rng.uniform(*style.sidewalk),
        verge=rng.uniform(*style.verge),
        light=(dark, 1.0) if sun > 0 else (1.0, dark),
        sun=(sun, rng.uniform(-0.2, 0.5)),
    )


def _line_roadside(scene: Scene, rng: Generator, style: Style, side: int) -> None:
    """Houses, fenced gardens and greens one behind the other along one side of the street.

    Each is placed at its far end: whatever stands before it is nearer than that.
    """
    street, near = scene.street, NEAR + rng.uniform(-0.1, 0.4)
    while near < FAR - 12:
        far, what = min(near + rng.uniform(9, 20), FAR - 2), rng.random()
        if what < style.building_share:
            x = street.beside(side, street.sidewalk + street.verge + rng.uniform(0, 0.6))
            _build(scene, rng, style, side, x, near, far - 0.3, far)
        else:
            _plant_garden(scene, rng, style, side, near, far)
            if what < style.building_share + style.fence_share:
                x, height = street.beside(side, street.sidewalk + 0.15), rng.uniform(1.3, 2.0)
                scene.add(far, Fence(x, near, far, height, _pick(rng, style.fences), solid=rng.random() < 0.6))
                scene.cast((x, near), (x, far), height)
        near = far + (rng.uniform(1, 4) if rng.random() < 0.3 else 0)


def _build(
    scene: Scene, rng: Generator, style: Style, side: int, x: float, near: float, far: float, distance: float
) -> None:
    floors = round(rng.uniform(*style.floors))
    roof = shade(_pick(rng, style.walls), 0.7) if rng.random() < 0.35 else None
    windows = (_pick(rng, style.windows), _pick(rng, style.windows))
    wall, light = _pick(rng, style.walls), scene.street.light_of(side)
    scene.add(distance, House(side, x, near, far, floors, wall, windows, light, roof))
    scene.cast((x, near), (x, far), STOREY * floors)


def _plant_garden(scene: Scene, rng: Generator, style: Style, side: int, near: float, far: float) -> None:
    """Trees behind the sidewalk, and beyond them perhaps a house."""
    street = scene.street
    if rng.random() < 0.6:
        _build(scene, rng, style, side, street.beside(side, street.sidewalk + 12), near + 3, far + 2, far + 2)
    for _ in range(rng.integers(1, 4)):
        z = rng.uniform(max(near, 6.0), max(far, 6.5))
        _plant(scene, rng, style, street.beside(side, street.sidewalk + rng.uniform(2, 8)), z, distance=far + 0.1)


def _plant(scene: Scene, rng: Generator, style: Style, x: float, z: float, distance: float) -> None:
    height, crown = rng.uniform(4.5, 8.5), draw_crown(rng, round(style.crown_blobs))
    scene.add(distance, Tree(x, z, height, _pick(rng, style.foliage), crown))
    scene.cast((x - 1.2, z), (x + 1.2, z), height)


def _furnish(scene: Scene, rng: Generator, style: Style) -> None:
    """Street trees, lamps, signs and traffic lights along the kerbs."""
    street = scene.street
    for _ in range(_count(rng, style.trees)):
        side, z = _side(rng), rng.uniform(12, 50)
        _plant(scene, rng, style, street.beside(side, street.sidewalk + 0.4), z, z)
    for _ in range(_count(rng, style.lamps)):
        side, z, height = _side(rng), rng.uniform(6, 20), rng.uniform(4.0, 5.2)
        x = street.beside(side, 0.5)
        scene.stand(x, z, 0.3, height, Lamp(x, z, height, -1.6 * side, _pick(rng, style.metal)))
    for _ in range(_count(rng, style.signs)):
        side, z, height = _side(rng), rng.uniform(5, 17), rng.uniform(2.4, 3.4)
        x, shape = street.beside(side, rng.uniform(0.4, 0.9)), int(rng.integers(3))
        sign = Sign(x, z, height, shape, _pick(rng, style.signs_paint), _pick(rng, style.metal))
        scene.stand(x, z, 0.3, height, sign)
    for _ in range(_count(rng, style.lights)):
        side, z, height = _side(rng), rng.uniform(5.5, 18), rng.uniform(2.8, 3.6)
        x, lit = street.beside(side, 0.4), int(rng.integers(3))
        scene.stand(x, z, 0.3, height, TrafficLight(x, z, height, lit, _pick(rng, style.metal)))


def _drive(scene: Scene, rng: Generator, style: Style) -> None:
    """Cars and trucks in two lanes (1) and two rows of parking (2), left negative; some cross the street."""
    fleet = [(LORRY, VAN, BUS)[rng.integers(3)] for _ in range(_count(rng, style.trucks))]
    fleet += [SALOON if rng.random() < 0.6 else ESTATE for _ in range(_count(rng, style.cars))]
    taken: list[tuple[int, float, float]] = []
    for shape in fleet:
        truck = shape.label == TRUCK
        for _ in range(4):
            lane = int(rng.choice((-1, 1) if truck else (-2, -1, 1, 2)))
            z = rng.uniform(9.5, 30) if truck else 6 + 32 * rng.random() ** 1.4
            if all(other != lane or z > b + 1 or z + shape.length < a - 1 for other, a, b in taken):
                taken.append((lane, z, z + shape.length))
                _place_vehicle(scene, rng, style, shape, lane, z)
                break


def _place_vehicle(scene: Scene, rng: Generator, style: Style, shape: VehicleShape, lane: int, z: float) -> None:
    half = scene.street.road_half
    # A narrow street is parked on its sidewalks.
    offset = 0.45 * half if abs(lane) == 1 else max(half - 1.0, 3.5)
    x = scene.street.middle + math.copysign(offset, lane)
    heading = AWAY if lane > 0 else TOWARDS
    if abs(lane) == 1 and rng.random() < 0.2:
        heading = int(rng.choice((LEFTWARDS, RIGHTWARDS)))
    paint = _pick(rng, style.truck_paint if shape.label == TRUCK else style.car_paint)
    vehicle = Vehicle(shape, x, z, heading, paint, _pick(rng, style.windows))
    scene.add(z, vehicle)
    width, depth = vehicle.footprint
    left, right = x - width / 2, x + width / 2
    # The darkness below ties a vehicle to the ground, whatever the sun does.
    scene.shadows.append([(left, z - 0.3), (right, z - 0.3), (right, z + depth), (left, z + depth)])
    scene.cast((left, z + depth / 2), (right, z + depth / 2), shape.height)


def _populate(scene: Scene, rng: Generator, style: Style) -> None:
    """People on the sidewalks and a few on the road, bicycles parked at the kerb and ridden beside it."""
    street = scene.street
    for _ in range(_count(rng, style.people)):
        z, height, stride = 4.5 + 12 * rng.random() ** 1.3, rng.uniform(1.55, 1.9), rng.uniform(-1, 1)
        if rng.random() < 0.2:
            x = street.middle + rng.uniform(-1, 1) * street.road_half
        else:
            x = street.beside(_side(rng), rng.uniform(0.5, street.sidewalk - 0.3))
        scene.stand(x, z, 0.5, height, Pedestrian(x, z, height, stride, _dress(rng, style)))
    riders = [True] * _count(rng, style.riders) + [False] * _count(rng, style.bicycles)
    for ridden in riders:
        z = 4.5 + 9 * rng.random() ** 1.2
        x = street.beside(_side(rng), -rng.uniform(0.5, 2.5) if ridden else rng.uniform(0.3, 1.2))
        facing, frame = _side(rng) * rng.uniform(0.6, 1), _pick(rng, style.frames)
        bicycle = Bicycle(x, z, facing, frame, _dress(rng, style) if ridden else None)
        scene.stand(x, z, 1.4, 1.7 if ridden else 0.9, bicycle)


def _dress(rng: Generator, style: Style) -> Outfit:
    return Outfit(_pick(rng, style.cloth), shade(_pick(rng, style.cloth), 0.5), _pick(rng, SKIN))


# ----------------------------------------------------------------------------------------------------------- background


def _paint_clouds(canvas: Canvas, rng: Generator) -> None:
    camera = canvas.camera
    for _ in range(rng.integers(0, 4)):
        cx, cy = rng.uniform(0, camera.width), rng.uniform(0, 0.6) * camera.horizon
        wide = rng.uniform(0.05, 0.14) * camera.width
        for _ in range(3):
            offset, size = rng.uniform(-0.7, 0.7) * wide, rng.uniform(0.5, 0.9)
            canvas.ellipse((cx + offset, cy), size * wide, 0.26 * size * wide, (238, 240, 244), None)


def _paint_ground(canvas: Canvas, rng: Generator, street: Street, style: Style) -> None:
    """Road with its markings, kerbs and sidewalks with their joints."""
    middle, half = street.middle, street.road_half
    asphalt, pavement = _pick(rng, style.road), _pick(rng, style.pavement)
    outer, kerb = half + street.sidewalk, half + 0.2
    canvas.strip(middle - outer, middle + outer, NEAR, FAR, pavement, SIDEWALK)
    for z in np.arange(rng.uniform(2, 4), 24, 1.8):
        canvas.strip(middle - outer, middle + outer, z, z + 0.12, shade(pavement, 0.86))
    canvas.strip(middle - kerb, middle + kerb, NEAR, FAR, shade(pavement, 0.75))
    canvas.strip(middle - half, middle + half, NEAR, FAR, asphalt, ROAD)
    paint = shade((1, 1, 1), 0.45 * sum(asphalt) / 3 + 130)
    for z in np.arange(rng.uniform(-2, 2), 50, 6):
        canvas.strip(middle - 0.1, middle + 0.1, z, z + 3, paint)
    if rng.random() < 0.25:
        z = rng.uniform(8, 16)
        for x in np.arange(middle - half + 0.4, middle + half - 0.5, 1.1):
            canvas.strip(x, x + 0.55, z, z + 3, paint)


def _paint_skyline(canvas: Canvas, rng: Generator, style: Style) -> None:
    """Distant houses and trees that close the street."""
    camera = canvas.camera
    x = -FAR * camera.center / camera.focal - 5
    end = FAR * (camera.width - camera.center) / camera.focal + 5
    while x < end:
        width, height = rng.uniform(6, 18), rng.uniform(3, 11)
        if rng.random() < 0.5:
            left, right = camera.project(x, 0, FAR), camera.project(x + width, height, FAR)
            canvas.polygon(
                [left, (right[0], left[1] + 1), right, (left[0], right[1])], _pick(rng, style.walls), BUILDING
            )
        else:
            cx, cy = camera.project(x + width / 2, 0.45 * height, FAR)
            scale = camera.focal / FAR
            canvas.ellipse((cx, cy), 0.6 * width * scale, 0.55 * height * scale, _pick(rng, style.foliage), VEGETATION)
        x += 0.8 * width


def _paint_shadows(canvas: Canvas, shadows: Sequence[Sequence[Point]], strength: float) -> None:
    """Darken the bare ground; whatever stands on it is painted later."""
    camera = canvas.camera
    mask = Image.new("L", (camera.width, camera.height))
    draw = ImageDraw.Draw(mask)
    for shadow in shadows:
        draw.polygon([camera.project(x, 0, max(z, NEAR)) for x, z in shadow], fill=round(255 * strength))
    mask = mask.filter(ImageFilter.BoxBlur(camera.height / 110))
    draw = ImageDraw.Draw(mask)
    draw.rectangle((0, 0, camera.width, camera.horizon), fill=0)
    canvas.rgb.paste((12, 14, 22), mask=mask)
