"""Ids become classes as the data sets' owners publish them."""

from pathlib import Path

import numpy as np
import pytest

from atp.datasets.gta5 import IDS as GTA5_IDS
from atp.datasets.label_maps import CITYSCAPES_CLASSES, CITYSCAPES_IDS, label_space, mapped
from atp.datasets.synthia import IDS as SYNTHIA_IDS
from atp.datasets.synthia import SYNTHIA
from atp.errors import InputError
from tests.datasets.published import GTA5_PALETTE

# Written out from cityscapesScripts' labels.py, in the order of its ids: name, train id (255: ignored), colour.
LABELS_PY = [
    ("unlabeled", 255, (0, 0, 0)),
    ("ego vehicle", 255, (0, 0, 0)),
    ("rectification border", 255, (0, 0, 0)),
    ("out of roi", 255, (0, 0, 0)),
    ("static", 255, (0, 0, 0)),
    ("dynamic", 255, (111, 74, 0)),
    ("ground", 255, (81, 0, 81)),
    ("road", 0, (128, 64, 128)),
    ("sidewalk", 1, (244, 35, 232)),
    ("parking", 255, (250, 170, 160)),
    ("rail track", 255, (230, 150, 140)),
    ("building", 2, (70, 70, 70)),
    ("wall", 3, (102, 102, 156)),
    ("fence", 4, (190, 153, 153)),
    ("guard rail", 255, (180, 165, 180)),
    ("bridge", 255, (150, 100, 100)),
    ("tunnel", 255, (150, 120, 90)),
    ("pole", 5, (153, 153, 153)),
    ("polegroup", 255, (153, 153, 153)),
    ("traffic light", 6, (250, 170, 30)),
    ("traffic sign", 7, (220, 220, 0)),
    ("vegetation", 8, (107, 142, 35)),
    ("terrain", 9, (152, 251, 152)),
    ("sky", 10, (70, 130, 180)),
    ("person", 11, (220, 20, 60)),
    ("rider", 12, (255, 0, 0)),
    ("car", 13, (0, 0, 142)),
    ("truck", 14, (0, 0, 70)),
    ("bus", 15, (0, 60, 100)),
    ("caravan", 255, (0, 0, 90)),
    ("trailer", 255, (0, 0, 110)),
    ("train", 16, (0, 80, 100)),
    ("motorcycle", 17, (0, 0, 230)),
    ("bicycle", 18, (119, 11, 32)),
]
TRAIN_IDS = [train_id for _, train_id, _ in LABELS_PY]
# From the README of SYNTHIA-RAND-CITYSCAPES_CLASSES, its numbers by the train id of the class of that name.
SYNTHIA_TO_TRAIN = {
    **{1: 10, 2: 2, 3: 0, 4: 1, 5: 4, 6: 8, 7: 5, 8: 13, 9: 7, 10: 11, 11: 18, 12: 17},
    **{15: 6, 16: 9, 17: 12, 18: 14, 19: 15, 20: 16, 21: 3},
}
SYNTHIA_README = [
    "void",
    "sky",
    "building",
    "road",
    "sidewalk",
    "fence",
    "vegetation",
    "pole",
    "car",
    "traffic sign",
    "pedestrian",
    "bicycle",
    "motorcycle",
    "parking-slot",
    "road-work",
    "traffic light",
    "terrain",
    "rider",
    "truck",
    "bus",
    "train",
    "wall",
    "lanemarking",
]
# From the loaders of those who use Cross-City.
CROSS_CITY = {7: 0, 8: 1, 11: 2, 19: 3, 20: 4, 21: 5, 23: 6, 24: 7, 25: 8, 26: 9, 28: 10, 32: 11, 33: 12}
FILE = Path("label.png")


def test_all_34_cityscapes_ids() -> None:
    assert len(CITYSCAPES_IDS) == 34
    assert list(CITYSCAPES_IDS) == [name for name, _, _ in LABELS_PY]
    assert mapped(np.arange(34), CITYSCAPES_IDS, CITYSCAPES_CLASSES, FILE).tolist() == TRAIN_IDS


def test_the_19_classes_have_their_train_ids_names_and_colours() -> None:
    classes = sorted((train_id, name, color) for name, train_id, color in LABELS_PY if train_id != 255)
    assert list(zip(range(19), CITYSCAPES_CLASSES.names, CITYSCAPES_CLASSES.colors, strict=True)) == classes


def test_gta5_has_cityscapes_ids_and_the_licence_plate() -> None:
    assert [*CITYSCAPES_IDS, "license plate"] == list(GTA5_IDS)
    assert mapped(np.arange(35), GTA5_IDS, CITYSCAPES_CLASSES, FILE).tolist() == [*TRAIN_IDS, 255]


def test_gta5_s_palette_is_cityscapes_but_for_static() -> None:
    """Both written down apart; the fixture's labels have this palette."""
    colors = [color for _, _, color in LABELS_PY]
    assert [number for number in range(34) if GTA5_PALETTE[number] != colors[number]] == [4]
    assert GTA5_PALETTE[34] == colors[26], "a licence plate looks like a car"


def test_all_23_synthia_ids() -> None:
    assert list(SYNTHIA_IDS) == ["person" if name == "pedestrian" else name for name in SYNTHIA_README]
    for number, train_id in SYNTHIA_TO_TRAIN.items():
        assert CITYSCAPES_CLASSES.names[train_id] == SYNTHIA_IDS[number]


def test_synthia_to_19_and_16_classes() -> None:
    nineteen = mapped(np.arange(23), SYNTHIA_IDS, CITYSCAPES_CLASSES, FILE)
    assert nineteen.tolist() == [SYNTHIA_TO_TRAIN.get(number, 255) for number in range(23)]
    # The order of the sixteen is that of the train ids with terrain (9), truck (14) and train (16) taken out.
    order = [train_id for train_id in range(19) if train_id not in (9, 14, 16)]
    expected = [order.index(train_id) if train_id in order else 255 for train_id in nineteen.tolist()]
    assert mapped(np.arange(23), SYNTHIA_IDS, label_space(16), FILE).tolist() == expected


def test_thirteen_classes_of_cross_city() -> None:
    ids = mapped(np.arange(34), CITYSCAPES_IDS, label_space(13), FILE)
    assert ids.tolist() == [CROSS_CITY.get(number, 255) for number in range(34)]


def test_class_sets_keep_their_colours() -> None:
    for count in (19, 16, 13):
        space = label_space(count)
        assert space.num_classes == len(set(space.names)) == count
        assert space.colors[space.names.index("bicycle")] == (119, 11, 32)
    assert SYNTHIA.protocols == (label_space(16).names, label_space(13).names)
    assert set(label_space(16).names) - set(label_space(13).names) == {"wall", "fence", "pole"}


def test_unlabelled_stays_and_other_values_are_told() -> None:
    assert mapped(np.array([[255, 7]], np.uint8), CITYSCAPES_IDS, CITYSCAPES_CLASSES, FILE).tolist() == [[255, 0]]
    with pytest.raises(InputError, match=r"label\.png: label value 34 is not a published id, 0 to 33"):
        mapped(np.array([7, 34]), CITYSCAPES_IDS, CITYSCAPES_CLASSES, FILE)
    with pytest.raises(InputError, match="label value 40000"):
        mapped(np.array([7, 40000], np.uint16), SYNTHIA_IDS, CITYSCAPES_CLASSES, FILE)
