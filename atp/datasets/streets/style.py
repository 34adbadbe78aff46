"""What distinguishes the domains: palettes, texture, light, lens, sensor, and what stands on the street how often."""

from dataclasses import dataclass, fields
from typing import Any

Color = tuple[float, float, float]
"""RGB, 0-255."""

Palette = tuple[Color, ...]
Range = tuple[float, float]
"""Low and high end of a uniform draw."""


@dataclass(frozen=True)
class Style:
    """What scenes of a domain hold and how they look; every field is a number or nested tuples of numbers.

    Colours are RGB in 0-255; a palette is drawn from at random. Ranges are (low, high) of a uniform draw per image.

    Attributes:
        sky: pairs of zenith and horizon colour.
        texture: per class, relative amplitude of noise at 1, 3 and 9 pixels.
        ground_texture: relative amplitude of noise fixed to the ground.
        brick: relative amplitude of horizontal courses on buildings.
        crown_blobs: ellipses in a tree's crown; more of them are smaller and rougher.
        shadow: darkness of cast shadows, 0-1.
        sun_contrast: how much darker the side of the street away from the sun is, 0-1.
        haze: extinction per metre.
        saturation: 1 keeps colours, 0 is grey.
        cast: largest relative gain of one colour channel.
        gamma: exponent on intensities in 0-1; above 1 is darker.
        vignette: darkening of the corners, 0-1.
        blur: standard deviation of the lens in pixels of an image 80 pixels high.
        noise: standard deviation of the sensor's noise in grey levels.
        road_half: half the road's width, metres.
        sidewalk: the sidewalk's width, metres.
        verge: the width of the strip of grass behind it, metres.
        floors: of a building.
        building_share, fence_share: shares of the roadside; the rest is green.
        people, bicycles, riders, cars, trucks, signs, lights, lamps, trees (at the kerb): expected number in a scene.
    """

    sky: tuple[Palette, ...]
    road: Palette
    pavement: Palette
    grass: Palette
    foliage: Palette
    walls: Palette
    windows: Palette
    fences: Palette
    metal: Palette
    signs_paint: Palette
    car_paint: Palette
    truck_paint: Palette
    cloth: Palette
    frames: Palette
    texture: tuple[Color, ...]
    ground_texture: float
    brick: float
    crown_blobs: float
    shadow: Range
    sun_contrast: Range
    haze: Range
    saturation: Range
    cast: float
    gamma: Range
    vignette: Range
    blur: Range
    noise: Range
    road_half: Range
    sidewalk: Range
    verge: Range
    floors: Range
    building_share: float
    fence_share: float
    people: float
    bicycles: float
    riders: float
    cars: float
    trucks: float
    signs: float
    lights: float
    lamps: float
    trees: float


SIMULATOR = Style(
    sky=(((88, 150, 236), (196, 220, 250)), ((70, 132, 226), (170, 206, 246)), ((112, 172, 244), (214, 230, 252))),
    road=((58, 60, 70), (66, 64, 68), (52, 56, 62)),
    pavement=((188, 174, 164), (176, 176, 182), (196, 184, 160)),
    grass=((84, 176, 62), (96, 164, 56), (70, 158, 66)),
    foliage=((46, 152, 50), (72, 176, 60), (34, 124, 46)),
    walls=((228, 202, 162), (204, 122, 90), (134, 154, 192), (222, 186, 132), (174, 92, 72)),
    windows=((66, 88, 130), (92, 120, 166), (58, 72, 100)),
    fences=((168, 108, 62), (142, 86, 50), (190, 136, 84)),
    metal=((84, 86, 94), (122, 124, 132), (70, 74, 84)),
    signs_paint=((224, 26, 46), (50, 96, 214), (244, 214, 24)),
    car_paint=((220, 32, 40), (48, 100, 216), (246, 216, 30), (240, 240, 244), (48, 168, 80)),
    truck_paint=((244, 246, 248), (240, 150, 84), (60, 170, 200), (214, 230, 244)),
    cloth=((214, 40, 50), (48, 96, 206), (240, 190, 40), (56, 160, 84), (236, 236, 240)),
    frames=((24, 24, 30), (180, 34, 44), (34, 84, 170)),
    texture=(
        (0.01, 0.01, 0.01),  # road
        (0.01, 0.02, 0.01),  # sidewalk
        (0.00, 0.01, 0.02),  # building
        (0.01, 0.02, 0.00),  # fence
        (0.01, 0.00, 0.00),  # pole
        (0.01, 0.00, 0.00),  # traffic sign
        (0.03, 0.04, 0.03),  # vegetation
        (0.00, 0.00, 0.01),  # sky
        (0.01, 0.00, 0.00),  # person
        (0.01, 0.00, 0.00),  # car
        (0.01, 0.00, 0.00),  # truck
        (0.01, 0.00, 0.00),  # bicycle
    ),
    ground_texture=0.03,
    brick=0.0,
    crown_blobs=7,
    shadow=(0.10, 0.20),
    sun_contrast=(0.05, 0.15),
    haze=(0.0, 0.003),
    saturation=(0.95, 1.1),
    cast=0.02,
    gamma=(0.95, 1.05),
    vignette=(0.0, 0.0),
    blur=(0.0, 0.0),
    noise=(0.0, 0.5),
    road_half=(3.6, 5.2),
    sidewalk=(2.8, 4.2),
    verge=(0.5, 3.5),
    floors=(2, 5),
    building_share=0.56,
    fence_share=0.22,
    people=3.0,
    bicycles=1.3,
    riders=0.7,
    cars=3.0,
    trucks=0.7,
    signs=1.6,
    lights=1.3,
    lamps=1.6,
    trees=2.0,
)

REAL = Style(
    sky=(((150, 160, 172), (206, 206, 202)), ((128, 142, 160), (214, 200, 182)), ((176, 178, 180), (196, 196, 194))),
    road=((104, 100, 96), (84, 84, 86), (118, 110, 100)),
    pavement=((120, 114, 106), (104, 104, 104), (134, 122, 104)),
    grass=((98, 100, 60), (116, 106, 70), (76, 86, 52)),
    foliage=((58, 68, 38), (84, 82, 46), (44, 56, 42)),
    walls=((122, 106, 92), (104, 72, 60), (142, 138, 128), (98, 98, 98), (152, 128, 100)),
    windows=((42, 46, 50), (92, 98, 102), (60, 54, 50)),
    fences=((78, 80, 78), (96, 80, 66), (58, 66, 60)),
    metal=((66, 68, 66), (112, 112, 106), (84, 80, 72)),
    signs_paint=((158, 50, 48), (62, 78, 124), (176, 160, 92)),
    car_paint=((96, 34, 34), (46, 54, 72), (150, 148, 144), (196, 196, 194), (40, 42, 44)),
    truck_paint=((190, 186, 176), (120, 108, 96), (84, 92, 98), (156, 150, 132)),
    cloth=((74, 40, 42), (44, 50, 68), (106, 96, 80), (52, 58, 48), (128, 126, 124)),
    frames=((28, 28, 28), (74, 48, 44), (60, 66, 72)),
    texture=(
        (0.05, 0.04, 0.02),  # road
        (0.08, 0.08, 0.02),  # sidewalk
        (0.06, 0.08, 0.05),  # building
        (0.12, 0.10, 0.02),  # fence
        (0.06, 0.05, 0.00),  # pole
        (0.05, 0.06, 0.00),  # traffic sign
        (0.24, 0.18, 0.05),  # vegetation
        (0.00, 0.01, 0.05),  # sky
        (0.08, 0.08, 0.00),  # person
        (0.05, 0.06, 0.04),  # car
        (0.05, 0.06, 0.04),  # truck
        (0.05, 0.04, 0.00),  # bicycle
    ),
    ground_texture=0.14,
    brick=0.14,
    crown_blobs=20,
    shadow=(0.25, 0.65),
    sun_contrast=(0.2, 0.5),
    haze=(0.004, 0.020),
    saturation=(0.45, 0.8),
    cast=0.12,
    gamma=(0.85, 1.45),
    vignette=(0.1, 0.4),
    blur=(0.3, 0.8),
    noise=(2.0, 5.0),
    road_half=(2.6, 3.8),
    sidewalk=(2.2, 3.8),
    verge=(0.0, 1.5),
    floors=(2, 7),
    building_share=0.52,
    fence_share=0.32,
    people=5.0,
    bicycles=1.7,
    riders=1.2,
    cars=4.0,
    trucks=0.8,
    signs=2.0,
    lights=1.5,
    lamps=1.6,
    trees=2.5,
)


def interpolate(start: Style, end: Style, share: float) -> Style:
    """The style `share` of the way from `start` to `end`: 0 is `start`, 1 is `end`; every number moves linearly."""
    return Style(**{f.name: _mix(getattr(start, f.name), getattr(end, f.name), share) for f in fields(Style)})


def _mix(start: Any, end: Any, share: float) -> Any:
    if isinstance(start, tuple):
        return tuple(_mix(a, b, share) for a, b in zip(start, end, strict=True))
    return (1 - share) * start + share * end
