"""IDD-lite: driving images from India with the seven classes of IDD's first level.

Varma et al., IDD: A Dataset for Exploring Problems of Autonomous Navigation in Unconstrained Environments (2019); for
research use.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from atp.data.labels import LabelSpace
from atp.datasets.published import DataSet, LabelFiles, Part

CLASSES = LabelSpace(
    names=(
        "drivable",
        "non-drivable",
        "living things",
        "vehicles",
        "roadside objects",
        "far objects",
        "sky",
    ),
    # Cityscapes' colours of road, sidewalk, person, car, traffic sign, building and sky.
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (220, 20, 60),
        (0, 0, 142),
        (220, 220, 0),
        (70, 70, 70),
        (70, 130, 180),
    ),
)
DRIVES = 7
"""Images of one drive show the same places, so whole drives are held out: those whose number is divisible by 7 are test
images, and those with remainder 1 validation images."""


def _drives(names: Sequence[str], *, remainders: Iterable[int]) -> Iterable[str]:
    """Select images by the number of their drive, which is their folder; none that lies elsewhere."""
    drives = ((name, name.partition("/")[0]) for name in names)
    return (name for name, drive in drives if drive.isdecimal() and int(drive) % DRIVES in remainders)


def _part(count: int, chosen: Callable[[Sequence[str]], Iterable[str]] | None = None) -> Part:
    return Part("leftImg8bit/train", "gtFine/train", count, instead=("images", "labels"), chosen=chosen)


IDD_LITE = DataSet(
    name="idd-lite",
    parts={
        "source": _part(1403),
        "target": _part(963, partial(_drives, remainders=range(2, DRIVES))),
        "test": _part(229, partial(_drives, remainders=(0,))),
        "validation": _part(211, partial(_drives, remainders=(1,))),
    },
    files=(LabelFiles("_label.png", CLASSES.names), LabelFiles(".png", CLASSES.names)),
    classes=CLASSES,
    size=(320, 227),
    origin="IDD Lite from idd.insaan.iiit.ac.in",
    stem_ending="_image",
    repeats=True,
)
