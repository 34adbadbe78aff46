"""Ids become classes as the data sets' owners publish them."""

from pathlib import Path

import numpy as np
import pytest

from atp.data.label_maps import (
    CITYSCAPES,
    CITYSCAPES_IDS,
    GTA5_IDS,
    SYNTHIA_IDS,
    label_space,
    mapped,
    smaller_sets,
)
from atp.errors import InputError

# Written out from cityscapesScripts' labels.py: the train id of every id, 255 where it is ignored.
TRAIN_IDS = [
    *[255] * 7,
    *(0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18),
]
# From the README of SYNTHIA-RAND-CITYSCAPES, its numbers by the train id of the class of that name.
SYNTHIA_TO_TRAIN = {
    **{1: 10, 2: 2, 3: 0, 4: 1, 5: 4, 6: 8, 7: 5, 8: 13, 9: 7, 10: 11, 11: 18, 12: 17},
    **{15: 6, 16: 9, 17: 12, 18: 14, 19: 15, 20: 16, 21: 3},
}
# From the loaders of those who use Cross-City.
CROSS_CITY = {7: 0, 8: 1, 11: 2, 19: 3, 20: 4, 21: 5, 23: 6, 24: 7, 25: 8, 26: 9, 28: 10, 32: 11, 33: 12}
FILE = Path("label.png")


def test_all_34_cityscapes_ids() -> None:
    assert len(CITYSCAPES_IDS) == 34
    assert mapped(np.arange(34), CITYSCAPES_IDS, CITYSCAPES, FILE).tolist() == TRAIN_IDS


def test_gta5_has_cityscapes_ids_and_the_licence_plate() -> None:
    assert mapped(np.arange(35), GTA5_IDS, CITYSCAPES, FILE).tolist() == [*TRAIN_IDS, 255]


def test_synthia_to_19_and_16_classes() -> None:
    nineteen = mapped(np.arange(23), SYNTHIA_IDS, CITYSCAPES, FILE)
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
    assert {name: len(names) for name, names in smaller_sets(19).items()} == {"classes_16": 16, "classes_13": 13}
    assert set(label_space(16).names) - set(label_space(13).names) == {"wall", "fence", "pole"}
    assert not smaller_sets(13)


def test_unlabelled_stays_and_other_values_are_told() -> None:
    assert mapped(np.array([[255, 7]], np.uint8), CITYSCAPES_IDS, CITYSCAPES, FILE).tolist() == [[255, 0]]
    with pytest.raises(InputError, match=r"label\.png: label value 34 is none of the published ids 0 to 33"):
        mapped(np.array([7, 34]), CITYSCAPES_IDS, CITYSCAPES, FILE)
    with pytest.raises(InputError, match="label value 40000"):
        mapped(np.array([7, 40000], np.uint16), SYNTHIA_IDS, CITYSCAPES, FILE)
