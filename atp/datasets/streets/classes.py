"""The classes of the streets: Cityscapes' names and colours.

Traffic lights are signs, riders are persons, grass is vegetation, vans and buses are trucks.
"""

from atp.data.labels import LabelSpace

CLASSES = LabelSpace(
    names=(
        "road",
        "sidewalk",
        "building",
        "fence",
        "pole",
        "traffic sign",
        "vegetation",
        "sky",
        "person",
        "car",
        "truck",
        "bicycle",
    ),
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (190, 153, 153),
        (153, 153, 153),
        (220, 220, 0),
        (107, 142, 35),
        (70, 130, 180),
        (220, 20, 60),
        (0, 0, 142),
        (0, 0, 70),
        (119, 11, 32),
    ),
)

ROAD, SIDEWALK, BUILDING, FENCE, POLE, SIGN, VEGETATION, SKY, PERSON, CAR, TRUCK, BICYCLE = range(12)
