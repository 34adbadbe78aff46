"""Reading images and labels, and the one line that each kind of bad input gets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atp.data.folder import Sample, check_sizes, evenly_spread, list_samples
from atp.data.tensors import read_image, read_label
from atp.errors import InputError


def save(path: Path, size: tuple[int, int] = (6, 4), value: int = 0, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def test_pairs_share_their_path_below_their_folders(tmp_path: Path) -> None:
    save(tmp_path / "images/b/2.png", mode="RGB")
    save(tmp_path / "images/a/1.jpg", mode="RGB")
    save(tmp_path / "labels/a/1.png")
    save(tmp_path / "labels/b/2.png")
    samples = list_samples(tmp_path / "images", tmp_path / "labels")
    assert [sample.name for sample in samples] == ["a/1", "b/2"]
    assert samples[0].label == tmp_path / "labels/a/1.png"


def test_images_are_evenly_spread() -> None:
    many = [Sample(str(index), Path("absent"), None) for index in range(100)]
    assert [int(sample.name) for sample in evenly_spread(many, 4)] == [12, 37, 62, 87]
    assert evenly_spread(many, 0) == evenly_spread(many, 100) == evenly_spread(many, 1000) == many


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    save(tmp_path / "images/1.png", mode="RGB")
    save(tmp_path / "images/.2.png", mode="RGB")
    assert len(list_samples(tmp_path / "images")) == 1


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"images: no images here"):
        list_samples(tmp_path / "images")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        list_samples(tmp_path / "nowhere")


def test_missing_label_names_the_near_one(tmp_path: Path) -> None:
    save(tmp_path / "images/street_01.png", mode="RGB")
    save(tmp_path / "labels/street_01_gt.png")
    with pytest.raises(InputError, match=r"street_01\.png: its label .* does not exist; is it street_01_gt\.png\?"):
        list_samples(tmp_path / "images", tmp_path / "labels")


def test_two_images_of_one_name(tmp_path: Path) -> None:
    save(tmp_path / "images/1.png", mode="RGB")
    save(tmp_path / "images/1.jpg", mode="RGB")
    with pytest.raises(InputError, match="has the same name '1'"):
        list_samples(tmp_path / "images")


def test_images_become_rgb(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "grey.png", value=7))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 6)
    assert (image == 7).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_not_cut_off_silently(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.full((4, 6), 1000, dtype)).save(tmp_path / "deep.tiff")
    with pytest.raises(InputError, match=r"deep\.tiff: has mode .* 8 bits per channel"):
        read_image(tmp_path / "deep.tiff")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png: cannot be read as an image"):
        read_image(path)


def test_image_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "short.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"short\.png: cannot be read as an image"):
        read_image(path)


def test_labels_are_palette_indices_not_colours(tmp_path: Path) -> None:
    image = Image.new("P", (6, 4), 2)
    image.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
    image.save(tmp_path / "label.png")
    assert (read_label(tmp_path / "label.png", num_classes=3) == 2).all()


def test_unlabelled_pixels_are_allowed(tmp_path: Path) -> None:
    assert (read_label(save(tmp_path / "label.png", value=255), num_classes=3) == 255).all()


def test_label_value_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label\.png: label value 3 out of range \(0\.\.2 or 255\)"):
        read_label(save(tmp_path / "label.png", value=3), num_classes=3)


def test_colour_images_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has mode RGB"):
        read_label(save(tmp_path / "label.png", mode="RGB"), num_classes=3)


def test_labels_are_resized_without_new_values(tmp_path: Path) -> None:
    ids = np.zeros((8, 8), dtype=np.uint8)
    ids[:, 4:] = 2
    Image.fromarray(ids).save(tmp_path / "label.png")
    assert set(read_label(tmp_path / "label.png", 3, (5, 5)).unique().tolist()) == {0, 2}


def test_sizes_that_differ(tmp_path: Path) -> None:
    save(tmp_path / "images/1.png", (6, 4), mode="RGB")
    save(tmp_path / "labels/1.png", (6, 5))
    with pytest.raises(InputError, match=r"label is 6x5 but its image .* is 6x4"):
        check_sizes(list_samples(tmp_path / "images", tmp_path / "labels"))
