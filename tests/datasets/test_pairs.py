"""The papers' data sets in the layouts in which they are published, and what is reported where they are not."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from atp.cli import app
from atp.data.folder import check_sizes, list_samples
from atp.data.settings import DataSettings
from atp.data.tensors import read_label
from atp.datasets.__main__ import main
from atp.datasets.cityscapes import CITYSCAPES
from atp.datasets.cross_city import CROSS_CITY
from atp.datasets.gta5 import GTA5
from atp.datasets.label_maps import label_space
from atp.datasets.pairs import Prepared, prepare, settings
from atp.datasets.published import missing, named
from atp.datasets.synthia import SYNTHIA, read_first_channel
from atp.doctor import examine
from atp.errors import InputError
from tests.datasets import published
from tests.datasets.test_label_maps import CROSS_CITY as CROSS_CITY_IDS
from tests.datasets.test_label_maps import SYNTHIA_TO_TRAIN, TRAIN_IDS

ROOT = Path(__file__).parents[2]


def ids(out: Path, split: str, name: str, classes: int) -> list[int]:
    """The first 34 pixels of a label, which were one published id after the other."""
    return read_label(out / split / "labels" / f"{name}.png", classes).flatten()[:34].tolist()


def project(out: Path, prepared: Prepared) -> Path:
    """params.yaml for a prepared folder, with the printed section ``data``."""
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "params.yaml")
    data = yaml.load(settings(prepared, out))["data"]
    # None of these pairs has labelled images besides.
    assert data["validation"] is None
    # What dvc.yaml tracks must be there, else DVC refuses the stage.
    assert params["data"].keys() <= data.keys()
    params["data"] = data
    path = out.parent / "params.yaml"
    yaml.dump(params, path)
    return path


def test_gta5_to_cityscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gta5, cityscapes = published.gta5(tmp_path / "GTA5"), published.cityscapes(tmp_path / "Cityscapes")
    out = Path("data")
    prepared = prepare(GTA5, gta5, CITYSCAPES, cityscapes, out)
    assert prepared.counts == {"source": 3, "target": 3, "test": 1}
    assert "source: 3 of the 24966 images published" in prepared.notes
    for split in prepared.counts:
        check_sizes(list_samples(out / split / "images", out / split / "labels"))
    assert [s.name for s in list_samples(out / "source/images")] == ["00001", "00002", "00003"]
    assert [s.name for s in list_samples(out / "target/images")] == [
        "aachen_000000_000019",
        "aachen_000001_000019",
        "zurich_000000_000019",
    ]
    assert ids(out, "source", "00001", 19) == TRAIN_IDS
    assert ids(out, "target", "zurich_000000_000019", 19) == TRAIN_IDS
    assert ids(out, "test", "munster_000000_000019", 19) == TRAIN_IDS
    # Every class occurs, nothing but the two sizes of images and the few of them is remarkable.
    findings = examine(project(out, prepared))
    assert [f for f in findings if f.level == "error"] == []
    assert not any("never occur" in f.text for f in findings)


def test_labels_are_shown_in_the_published_colours(tmp_path: Path) -> None:
    gta5, cityscapes = published.gta5(tmp_path / "GTA5"), published.cityscapes(tmp_path / "Cityscapes")
    prepare(GTA5, gta5, CITYSCAPES, cityscapes, tmp_path / "out")
    with Image.open(tmp_path / "out/source/labels/00001.png") as file:
        assert file.mode == "P"
        pixels = np.array(file.convert("RGB")).reshape(-1, 3)
    for number in np.flatnonzero(np.array(TRAIN_IDS) != 255):
        assert tuple(pixels[number]) == published.GTA5_PALETTE[number]


def test_images_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gta5, cityscapes = published.gta5(tmp_path / "GTA5"), published.cityscapes(tmp_path / "Cityscapes")
    prepare(GTA5, gta5, CITYSCAPES, cityscapes, tmp_path / "out")
    assert (tmp_path / "out/source/images/00001.png").samefile(gta5 / "images/00001.png")
    assert not (tmp_path / "out/source/images/00001.png").is_symlink()

    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    prepare(GTA5, gta5, CITYSCAPES, cityscapes, tmp_path / "elsewhere")
    link = tmp_path / "elsewhere/source/images/00001.png"
    assert link.is_symlink()
    assert link.read_bytes() == (gta5 / "images/00001.png").read_bytes()


def test_synthia_to_cityscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    synthia, cityscapes = published.synthia(tmp_path / "RAND_CITYSCAPES"), published.cityscapes(tmp_path / "Cityscapes")
    out = Path("data")
    prepared = prepare(SYNTHIA, synthia, CITYSCAPES, cityscapes, out)
    assert prepared.space == label_space(16)
    order = [train_id for train_id in range(19) if train_id not in (9, 14, 16)]
    sixteen = {train_id: place for place, train_id in enumerate(order)}
    found = read_label(out / "source/labels/0000000.png", 16).flatten()[:23].tolist()
    assert found == [sixteen.get(SYNTHIA_TO_TRAIN.get(number, 255), 255) for number in range(23)]
    assert ids(out, "test", "munster_000000_000019", 16) == [sixteen.get(train_id, 255) for train_id in TRAIN_IDS]
    assert not [f for f in examine(project(out, prepared)) if f.level == "error"]


def test_synthia_with_all_19_classes(tmp_path: Path) -> None:
    synthia, cityscapes = published.synthia(tmp_path / "RAND_CITYSCAPES"), published.cityscapes(tmp_path / "Cityscapes")
    prepared = prepare(SYNTHIA, synthia, CITYSCAPES, cityscapes, tmp_path / "out", label_space(19))
    data = DataSettings.model_validate(YAML(typ="safe").load(settings(prepared, tmp_path / "out"))["data"])
    # Where both protocols are measured beside the whole.
    sets = data.protocol_ids()
    assert sets["classes_16"] == tuple(i for i in range(19) if i not in (9, 14, 16))
    assert sets["classes_13"] == (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
    assert data.source_size == (1280, 760)
    assert data.size == (1024, 512)


def test_sixteen_bit_labels_keep_what_pillow_drops(tmp_path: Path) -> None:
    path = published.synthia(tmp_path, 1) / "GT/LABELS/0000000.png"
    first = read_first_channel(path)
    assert first.dtype == np.uint16
    assert first.flatten()[:23].tolist() == list(range(23))
    published.write_png16(tmp_path / "high.png", np.full((2, 3, 3), 40001, np.uint16))
    assert (read_first_channel(tmp_path / "high.png") == 40001).all()
    with Image.open(path) as file:
        assert not np.array(file)[..., 0].any()


def test_cityscapes_to_a_city_of_cross_city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cityscapes, rome = published.cityscapes(tmp_path / "Cityscapes"), published.cross_city(tmp_path / "NTHU/Rome")
    out = Path("data")
    prepared = prepare(CITYSCAPES, cityscapes, CROSS_CITY, rome, out)
    assert prepared.counts == {"source": 3, "target": 3, "test": 2}
    assert prepared.space.num_classes == 13
    assert not (out / "target/labels").exists()
    expected = [CROSS_CITY_IDS.get(number, 255) for number in range(34)]
    assert ids(out, "source", "aachen_000000_000019", 13) == expected
    assert ids(out, "test", "pano_00000_1_0", 13) == expected
    assert not [f for f in examine(project(out, prepared)) if f.level == "error"]


def test_cityscapes_with_train_ids(tmp_path: Path) -> None:
    cityscapes = published.cityscapes(tmp_path / "Cityscapes", "labelTrainIds")
    assert not missing(CITYSCAPES, cityscapes, CITYSCAPES.parts)
    prepare(GTA5, published.gta5(tmp_path / "GTA5"), CITYSCAPES, cityscapes, tmp_path / "out")
    found = read_label(tmp_path / "out/test/labels/munster_000000_000019.png", 19).flatten()[:20].tolist()
    assert found == [*range(19), 255]


def test_a_label_of_another_size_is_fitted_and_told(tmp_path: Path) -> None:
    gta5, cityscapes = published.gta5(tmp_path / "GTA5"), published.cityscapes(tmp_path / "Cityscapes")
    with Image.open(gta5 / "labels/00002.png") as file:
        file.resize((44, 22), Image.Resampling.NEAREST).save(gta5 / "labels/00002.png")
    prepared = prepare(GTA5, gta5, CITYSCAPES, cityscapes, tmp_path / "out")
    assert any("1 labels differed in size from their images" in n and "00002.png" in n for n in prepared.notes)
    check_sizes(list_samples(tmp_path / "out/source/images", tmp_path / "out/source/labels"))


def test_what_is_missing_has_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gta5, cityscapes = published.gta5(tmp_path / "GTA5"), published.cityscapes(tmp_path / "Cityscapes")
    shutil.rmtree(gta5 / "labels")
    shutil.rmtree(cityscapes / "gtFine/val")
    (cityscapes / "gtFine/val").mkdir()
    command = [
        "datasets",
        "--source",
        "gta5",
        str(gta5),
        "--target",
        "cityscapes",
        str(cityscapes),
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="2"):
        main()
    labels, val = capsys.readouterr().err.splitlines()
    assert re.match(r"error: \S*/GTA5/labels: no such folder; put the 24966 labels \*\.png of gta5 there", labels)
    assert re.match(
        r"error: \S*/gtFine/val: no labels in it; put the 500 labels \*_gtFine_labelIds\.png of cityscapes", val
    )
    assert not (tmp_path / "out").exists()


def test_doctor_of_a_data_set(tmp_path: Path) -> None:
    root = published.cross_city(tmp_path / "Rome")
    ended = CliRunner().invoke(app, ["doctor", "--data-set", "cross-city", str(root)])
    assert ended.exit_code == 0
    assert "Images/Train: 3 of the 3200 images published, without labels" in ended.output
    assert "Images/Test: 2 of the 100 images published, each with its label" in ended.output
    (root / "Labels/Test/pano_00001_1_0_eval.png").unlink()
    ended = CliRunner().invoke(app, ["doctor", "--data-set", "cross-city", str(root)])
    assert ended.exit_code == 2
    assert "pano_00001_1_0_eval.png does not exist" in ended.output
    assert "1 of 2 images have none" in ended.output
    shutil.rmtree(root / "Images/Train")
    ended = CliRunner().invoke(app, ["doctor", "--data-set", "cross-city", str(root)])
    assert "Images/Train: no such folder; put the 3200 images of cross-city there" in ended.output


def test_a_data_set_that_lies_elsewhere_is_told_in_one_line(tmp_path: Path) -> None:
    gta5, rome = published.gta5(tmp_path / "one/GTA5"), published.cross_city(tmp_path / "NTHU/Rome")
    rio = published.cross_city(tmp_path / "NTHU/Rio")
    (tmp_path / "file").touch()
    told = [
        (GTA5, tmp_path / "nowhere", "nowhere: no such folder"),
        (GTA5, tmp_path / "file", "file: not a folder; use the folder into which gta5 was unpacked"),
        (GTA5, tmp_path / "one", f"gta5 is not in this folder but in {gta5}; use that folder"),
        (GTA5, tmp_path, f"gta5 is not in this folder but in {gta5}; use that folder"),
        (GTA5, gta5 / "images", f"gta5 is not in this folder but in {gta5}; use that folder"),
        (CROSS_CITY, tmp_path / "NTHU", f"is not in this folder but in {rio} and {rome}; use one of them"),
        (GTA5, rome, "has the folders of cross-city, not those of gta5; choose that data set, or another folder"),
    ]
    for data_set, root, line in told:
        (found,) = missing(data_set, root, data_set.parts)
        assert found.endswith(line)
    # Where one of its folders is there, the others are told one by one.
    shutil.rmtree(gta5 / "labels")
    (found,) = missing(GTA5, gta5, GTA5.parts)
    assert "GTA5/labels: no such folder; put the 24966 labels *.png of gta5 there" in found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "labels/00002.png").unlink(), "images/00002.png: its label"),
        (lambda root: (root / "labels/00002.png").write_bytes(b"cut"), "labels/00002.png: cannot be read as a label"),
        (
            lambda root: Image.new("RGB", published.SIZE).save(root / "labels/00002.png"),
            "labels/00002.png: has mode RGB, not 8-bit ids",
        ),
        (
            lambda root: published.write_grey(root / "labels/00002.png", published.all_ids(36)),
            "labels/00002.png: label value 35 is not a published id",
        ),
    ],
)
def test_a_broken_file_is_told_and_nothing_left(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    gta5, cityscapes = published.gta5(tmp_path / "GTA5"), published.cityscapes(tmp_path / "Cityscapes")
    spoil(gta5)
    with pytest.raises(InputError, match=message):
        prepare(GTA5, gta5, CITYSCAPES, cityscapes, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Cityscapes", "GTA5"]


def test_a_broken_16_bit_label_is_told(tmp_path: Path) -> None:
    synthia = published.synthia(tmp_path / "RAND_CITYSCAPES")
    path = synthia / "GT/LABELS/0000001.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"0000001\.png: cannot be read as a label"):
        read_first_channel(path)


def test_ids_that_are_not_the_published_ones_stand_out(tmp_path: Path) -> None:
    """8-bit copies of SYNTHIA's labels, as Pillow makes them, have lost every id."""
    synthia, cityscapes = published.synthia(tmp_path / "RAND_CITYSCAPES"), published.cityscapes(tmp_path / "Cityscapes")
    for path in (synthia / "GT/LABELS").iterdir():
        with Image.open(path) as file:
            file.convert("RGB").save(path)
    prepared = prepare(SYNTHIA, synthia, CITYSCAPES, cityscapes, tmp_path / "out")
    assert "source: 100% of the pixels have no class; are these the published labels?" in prepared.notes


def test_what_cannot_be_a_pair_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cross-city: its training images have no labels; a source can be .*gta5"):
        prepare(CROSS_CITY, tmp_path, CITYSCAPES, tmp_path, tmp_path / "out")
    with pytest.raises(
        InputError,
        match="gta5: has no test images; use one of these as target: camvid-daylight, camvid-dusk, ",
    ):
        prepare(CITYSCAPES, tmp_path, GTA5, tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="source and target are the same"):
        prepare(CITYSCAPES, tmp_path, CITYSCAPES, tmp_path, tmp_path / "out")
    (tmp_path / "data.dvc").touch()
    with pytest.raises(InputError, match=r"data\.dvc: imports other data .* dvc remove"):
        prepare(GTA5, tmp_path, CITYSCAPES, tmp_path, tmp_path / "data")
    with pytest.raises(
        InputError,
        match="kitti: no such data set; choose from camvid-daylight, camvid-dusk, cityscapes, cross-city, gta5",
    ):
        named("kitti")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    published.gta5(tmp_path / "GTA5")
    published.cityscapes(tmp_path / "Cityscapes")
    monkeypatch.setattr(
        "sys.argv", ["datasets", "--source", "gta5", "GTA5", "--target", "cityscapes", "Cityscapes", "data"]
    )
    main()
    printed = capsys.readouterr().out
    assert "3 source, 3 target, 1 test images in data; for params.yaml:" in printed
    data = DataSettings.model_validate(YAML(typ="safe").load(printed[printed.index("data:\n") :])["data"])
    assert data.label_space().num_classes == 19
    assert data.source_size == (1280, 720)
    assert data.protocols == {}
