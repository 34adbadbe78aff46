"""IDD-lite in the published layout and in that of a plain copy, alone and beside CamVid."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atp.data.folder import list_samples
from atp.data.tensors import read_label
from atp.datasets.camvid import AS_IDD_LITE, DAYLIGHT
from atp.datasets.camvid import CLASSES as CAMVID_CLASSES
from atp.datasets.idd_lite import CLASSES, IDD_LITE
from atp.datasets.pairs import prepare
from atp.errors import InputError

SHARED = Path(__file__).parents[3] / "shared"


def draw(image: Path, label: Path, ids: list[int]) -> None:
    """An image of one row, and its label with these ids."""
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (len(ids), 1)).save(image)
    Image.fromarray(np.array([ids], np.uint8)).save(label)


def idd(root: Path, *, published: bool) -> Path:
    """Drives 6 to 10, whose frames have the same name in each."""
    for drive in range(6, 11):
        if published:
            image = root / f"leftImg8bit/train/{drive}/frame1_image.jpg"
            label = root / f"gtFine/train/{drive}/frame1_label.png"
        else:
            image, label = root / f"images/{drive}/frame1.jpg", root / f"labels/{drive}/frame1.png"
        draw(image, label, [0, 1, 2, 3, 4, 5, 6, 255])
    return root


def camvid(root: Path, frames: int = 108) -> Path:
    for index in range(frames):
        name = f"0016E5_{30 * index:05}"
        draw(root / f"train/{name}.png", root / f"trainannot/{name}.png", list(range(12)))
    for name in ("0016E5_00031", "0001TP_006690"):
        draw(root / f"val/{name}.png", root / f"valannot/{name}.png", list(range(12)))
    return root


def names(split: Path) -> list[str]:
    """The images of a split that have a label."""
    return [sample.name for sample in list_samples(split / "images", split / "labels")]


@pytest.mark.parametrize("published", [True, False])
def test_whole_drives_are_held_out(tmp_path: Path, published: bool) -> None:
    prepare(
        DAYLIGHT, camvid(tmp_path / "CamVid", 1), IDD_LITE, idd(tmp_path / "IDD", published=published), tmp_path / "out"
    )
    found = {split: names(tmp_path / "out" / split) for split in IDD_LITE.target_parts}
    assert found == {
        "target": ["10_frame1", "6_frame1", "9_frame1"],
        "test": ["7_frame1"],
        "validation": ["8_frame1"],
    }


def test_images_outside_of_drives_are_told_in_one_line(tmp_path: Path) -> None:
    draw(tmp_path / "IDD/images/frame1.jpg", tmp_path / "IDD/labels/frame1.png", [0, 1])
    with pytest.raises(InputError, match="none of its 1 images belongs to idd-lite"):
        prepare(DAYLIGHT, camvid(tmp_path / "CamVid", 1), IDD_LITE, tmp_path / "IDD", tmp_path / "out")


def test_camvid_has_the_classes_of_idd_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(DAYLIGHT, camvid(tmp_path / "CamVid"), IDD_LITE, idd(tmp_path / "IDD", published=True), out)
    assert read_label(out / "target/labels/9_frame1.png", 7).tolist() == [[0, 1, 2, 3, 4, 5, 6, 255]]
    # sky, building, pole, road, sidewalk, tree, sign, fence, car, pedestrian, bicyclist, void
    expected = [[6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 255, 255]]
    assert read_label(out / "source/labels/0016E5_00000.png", 7).tolist() == expected
    assert "living things" in (out / "source/classes.yaml").read_text()


def test_camvid_s_daylight_is_a_target_in_blocks_of_seconds(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared = prepare(IDD_LITE, idd(tmp_path / "IDD", published=False), DAYLIGHT, camvid(tmp_path / "CamVid"), out)
    assert prepared.counts == {"source": 5, "target": 72, "test": 24, "validation": 12}
    seconds = {split: [int(name[-5:]) // 30 for name in names(out / split)] for split in DAYLIGHT.target_parts}
    assert seconds["test"] == [*range(24, 36), *range(60, 72)]
    assert seconds["validation"] == list(range(96, 108))
    # Not the frames of ``val``, of which there are fifteen a second.
    assert sorted(second for part in seconds.values() for second in part) == list(range(108))
    assert read_label(out / "test/labels/0016E5_00720.png", 7).tolist() == [[6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 255, 255]]


def test_a_class_is_mapped_to_one_that_exists() -> None:
    assert set(AS_IDD_LITE) == {*CAMVID_CLASSES.names} - {"bicyclist"}
    assert set(AS_IDD_LITE.values()) == set(CLASSES.names)


@pytest.mark.camvid
@pytest.mark.skipif(not (SHARED / "idd_lite").is_dir(), reason="needs IDD-lite in ../shared/idd_lite")
def test_the_real_frames(tmp_path: Path) -> None:
    roads, drives = SHARED / "camvid", SHARED / "idd_lite"
    forth = prepare(DAYLIGHT, roads, IDD_LITE, drives, tmp_path / "forth")
    assert forth.counts == {"source": 406, "target": 963, "test": 229, "validation": 211}
    back = prepare(IDD_LITE, drives, DAYLIGHT, roads, tmp_path / "back")
    assert back.counts == {"source": 1403, "target": 209, "test": 72, "validation": 24}
