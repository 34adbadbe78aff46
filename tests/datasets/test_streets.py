"""The embedded pair of domains: reproducible, complete, and two domains indeed."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atp.data.folder import check_sizes, list_samples
from atp.data.tensors import read_image, read_label
from atp.datasets.streets import (
    CLASSES,
    REAL,
    SIMULATOR,
    SPLITS,
    draw_image,
    draw_scene,
    interpolate,
    write_streets,
)
from atp.datasets.streets.__main__ import main
from atp.errors import InputError

SIZE = (160, 80)
CLASS_COUNT = len(CLASSES.names)
SMALL = ["--source", "2", "--target", "2", "--test", "1", "--validation", "1", "--size", "48x32"]
EMBEDDED = Path(__file__).parents[2] / "assets/streets"


def draw_many(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = zip(*(draw_image(0, split, i, SIZE, 0.7) for i in range(count)), strict=True)
    return np.stack(images), np.stack(labels)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_seed_fixes_every_pixel() -> None:
    for a, b in zip(draw_image(3, "target", 5, SIZE, 0.7), draw_image(3, "target", 5, SIZE, 0.7), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("other", [(4, "target", 5), (3, "test", 5), (3, "validation", 5), (3, "target", 6)])
def test_seed_split_and_index_each_make_another_scene(other: tuple[int, str, int]) -> None:
    assert not np.array_equal(draw_image(3, "target", 5, SIZE, 0.7)[1], draw_image(*other, SIZE, 0.7)[1])


def test_more_images_leave_the_earlier_ones_as_they_were(tmp_path: Path) -> None:
    write_streets(tmp_path / "few", {"source": 1, "target": 2, "test": 1}, (48, 32), seed=1, shift=0.7)
    more = {"source": 3, "target": 4, "test": 2, "validation": 1}
    write_streets(tmp_path / "many", more, (48, 32), seed=1, shift=0.7)
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    images = {name for name in few if name.endswith(".png")}
    assert len(images) == 8
    assert all(few[name] == many[name] for name in images)


@pytest.mark.parametrize("split", SPLITS)
def test_the_embedded_images_are_drawn_by_the_command_beside_them(split: str) -> None:
    """Their pixels, since encoders differ; a change to a split's seed would redraw what results were measured on."""
    options = re.findall(r"--(\w+) (\S+)", (EMBEDDED / "README.md").read_text(encoding="utf-8"))
    assert dict(options)["size"] == f"{SIZE[0]}x{SIZE[1]}"
    counts = {name: int(value) for name, value in options if name in SPLITS}
    images, labels = (sorted((EMBEDDED / split / part).iterdir()) for part in ("images", "labels"))
    assert len(images) == len(labels) == counts[split]
    image, label = draw_image(int(dict(options)["seed"]), split, counts[split] - 1, SIZE, float(dict(options)["shift"]))
    assert np.array_equal(np.array(Image.open(images[-1])), image)
    assert np.array_equal(np.array(Image.open(labels[-1])), label)


def test_the_embedded_splits_share_no_image_and_the_held_out_ones_have_every_class() -> None:
    drawn = [path.read_bytes() for split in SPLITS for path in (EMBEDDED / split / "images").iterdir()]
    assert len(set(drawn)) == len(drawn)
    for split in ("test", "validation"):
        labels = [np.array(Image.open(path)) for path in (EMBEDDED / split / "labels").iterdir()]
        assert all(sum((label == number).any() for label in labels) >= 30 for number in range(CLASS_COUNT)), split


@pytest.mark.parametrize("size", [(16, 16), (37, 23), (33, 90), (301, 151)])
def test_any_size(size: tuple[int, int]) -> None:
    image, label = draw_scene(np.random.default_rng(0), size, REAL)
    assert image.shape == (size[1], size[0], 3)
    assert label.shape == (size[1], size[0])
    assert image.dtype == label.dtype == np.uint8
    assert label.max() < CLASS_COUNT


def test_every_class_is_there_and_none_is_a_speck() -> None:
    for split in ("source", "target"):
        share = np.bincount(draw_many(split, 40)[1].ravel(), minlength=CLASS_COUNT) / (40 * SIZE[0] * SIZE[1])
        assert share.size == CLASS_COUNT
        assert share.min() > 0.006, dict(zip(CLASSES.names, share.round(4), strict=True))


def test_the_domains_differ_in_light_colour_texture_and_in_what_they_hold() -> None:
    (source, source_labels), (target, target_labels) = draw_many("source", 30), draw_many("target", 30)

    def saturation(images: NDArray[np.uint8]) -> float:
        return float(np.mean(images.max(-1).astype(float) - images.min(-1)))

    def grain(images: NDArray[np.uint8], labels: NDArray[np.uint8], name: str) -> float:
        """Mean step between neighbours within a class, relative to its brightness: no global light changes it."""
        brightness = images.astype(float).mean(-1)
        inside = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] == CLASSES.names.index(name))
        return float(np.abs(np.diff(brightness, axis=1))[inside].mean() / brightness[:, 1:][inside].mean())

    def share(labels: NDArray[np.uint8], name: str) -> float:
        return float(np.mean(labels == CLASSES.names.index(name)))

    assert target.mean() < source.mean() - 10
    assert saturation(target) < 0.7 * saturation(source)
    assert grain(target, target_labels, "road") > 1.5 * grain(source, source_labels, "road")
    assert share(target_labels, "person") > 1.3 * share(source_labels, "person")
    assert share(target_labels, "road") < share(source_labels, "road")


def test_interpolation_runs_from_simulator_to_real() -> None:
    assert interpolate(SIMULATOR, REAL, 0) == SIMULATOR
    assert interpolate(SIMULATOR, REAL, 1) == REAL
    assert interpolate(SIMULATOR, REAL, 0.5).brick == pytest.approx((SIMULATOR.brick + REAL.brick) / 2)


def test_without_a_shift_the_target_looks_like_the_source() -> None:
    source = draw_scene(np.random.default_rng((0, 1, 0)), SIZE, SIMULATOR)
    assert np.array_equal(draw_image(0, "target", 0, SIZE, 0.0)[0], source[0])


def test_files_are_as_the_folder_data_set_reads_them(tmp_path: Path) -> None:
    main([str(tmp_path / "streets"), *SMALL, "--seed", "7"])
    for split, count in (("source", 2), ("target", 2), ("test", 1), ("validation", 1)):
        samples = list_samples(tmp_path / "streets" / split / "images", tmp_path / "streets" / split / "labels")
        assert [sample.name for sample in samples] == [f"{i:04d}" for i in range(count)]
        check_sizes(samples)
        image, label = draw_image(7, split, 0, (48, 32), 0.7)
        assert samples[0].label is not None
        assert np.array_equal(read_image(samples[0].image).permute(1, 2, 0).numpy(), image)
        assert np.array_equal(read_label(samples[0].label, CLASS_COUNT).numpy(), label)
        with Image.open(samples[0].label) as file:
            assert file.mode == "P"
            assert np.array_equal(np.asarray(file.convert("RGB")), np.array(CLASSES.colors, np.uint8)[label])
    classes = (tmp_path / "streets" / "source" / "classes.yaml").read_text(encoding="utf-8").splitlines()
    assert classes[0] == "- {name: road, color: [128, 64, 128]}"
    assert len(classes) == CLASS_COUNT
    assert "--seed 7" in (tmp_path / "streets" / "README.md").read_text(encoding="utf-8")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "streets"
    out.mkdir()
    main([str(out), *SMALL])
    assert {p.name for p in tmp_path.iterdir()} == {"streets"}
    assert {p.name for p in out.iterdir()} == {*SPLITS, "README.md"}


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), *SMALL])
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}")
    assert error.count("\n") == 1
    assert files(tmp_path) == {"mine.txt": b"keep"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise InputError("full")

    monkeypatch.setattr("atp.datasets.streets.files._write_readme", fail)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "streets"), *SMALL])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--size", "160"], ["--size", "8x8"], ["--shift", "2"], ["--source", "-1"]])
def test_impossible_options_are_refused(option: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "streets"), *option])
    assert stop.value.code == 2
    assert not (tmp_path / "streets").exists()
