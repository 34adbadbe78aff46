"""The command ``atp predict`` on many images and on videos; its bits are those of ``tests/test_one_mask.py``."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import atp.masks
from atp import load_model, predict
from atp.data.reading import Reading
from atp.data.tensors import image_tensor
from atp.errors import InputError
from atp.losses.entropy import mean_entropy
from atp.masks import Wanted, write_predictions
from atp.media.record import read_record
from atp.media.video import Frame
from atp.models.checkpoint import save_checkpoint
from atp.models.network import build_network
from tests.test_cli import CONFIG, SPACE

SIZES = [(40, 24), (40, 24), (33, 17), (40, 24), (64, 32)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = build_network(CONFIG)
    network.reading = Reading((32, 16))
    save_checkpoint(path, network, CONFIG, SPACE, {"precision": "fp32"})
    return path


def picture(index: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(index).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index, size in enumerate(SIZES):
        picture(index, size).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def write(images: Path, model: Path, tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    def written(**options: Any) -> tuple[int, list[str]]:
        return write_predictions(images, tmp_path / "out", str(model), device="cpu", **options)

    return written


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"batch": 3, "size": "native"}, {"batch": 4, "workers": 3}])
def test_masks_do_not_depend_on_batch_and_workers(
    write: Callable[..., tuple[int, list[str]]], images: Path, model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    assert write(**options) == (len(SIZES), [])
    size = options.get("size")
    for name, mask in predict(load_model(model), images, device="cpu", size=size):
        assert np.array_equal(ids(tmp_path / f"out/masks/{name}.png"), mask)


@pytest.mark.parametrize(("batch", "passes"), [(1, 5), (2, 4), (3, 4)])
def test_images_of_one_size_go_through_the_network_together(
    write: Callable[..., tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch, batch: int, passes: int
) -> None:
    """Consecutive ones alone, so that none waits for others: 2, 1, 1 and 1."""
    seen = []
    real = atp.masks.Predictor.probabilities

    def counted(self: Any, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape))
        return real(self, pixels)

    monkeypatch.setattr(atp.masks.Predictor, "probabilities", counted)
    write(batch=batch, size="native")
    assert len(seen) == passes
    assert sum(shape[0] for shape in seen) == len(SIZES)


def test_the_record_has_the_least_certain_first(
    write: Callable[..., tuple[int, list[str]]], images: Path, model: Path, tmp_path: Path
) -> None:
    write()
    record = read_record(tmp_path / "out")
    assert (record.classes, record.model) == (SPACE, str(model))
    network = load_model(model)
    expected = {}
    for index, size in enumerate(SIZES):
        pixels = image_tensor(picture(index, size).resize((32, 16), Image.Resampling.BICUBIC))
        with torch.no_grad():
            expected[str(index)] = float(mean_entropy(network(pixels[None]).softmax(1))[0])
    assert {row.name: row.entropy for row in record.images} == pytest.approx(expected, abs=1e-5)
    assert [row.entropy for row in record.images] == sorted((row.entropy for row in record.images), reverse=True)
    (second,) = [row for row in record.images if row.name == "2"]
    assert (second.image, second.width, second.height) == (str(images / "2.png"), 33, 17)


def test_soft_masks_are_the_probabilities_of_the_mask(
    write: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    write(wanted=Wanted(overlays=False, soft=True))
    assert not (tmp_path / "out/overlays").exists()
    for index, (width, height) in enumerate(SIZES):
        soft = np.load(tmp_path / f"out/soft/{index}.npz")["probabilities"]
        assert (soft.shape, soft.dtype) == ((3, height, width), np.float16)
        assert np.allclose(soft.astype(np.float32).sum(0), 1, atol=2e-3)
        mask = ids(tmp_path / f"out/masks/{index}.png")
        assert np.take_along_axis(soft, mask[None], 0)[0] == pytest.approx(soft.max(0))


def test_the_legend_can_be_left_out(write: Callable[..., tuple[int, list[str]]], tmp_path: Path) -> None:
    write(wanted=Wanted(legend=False))
    with Image.open(tmp_path / "out/overlays/2.jpg") as file:
        assert file.size == (33, 17)
    write()
    with Image.open(tmp_path / "out/overlays/2.jpg") as file:
        assert file.width >= 480


class Film:
    """In place of a video: five frames, after which it ends damaged."""

    def __init__(self, path: Path) -> None:
        self.path, self.length, self.unread = path, 6, list[str]()
        self.times: list[int] = []

    def frames(self) -> Iterator[Frame]:
        for index in range(5):
            yield Frame(picture(index, (40, 24)), 7 * index, Fraction(1, 70))
        self.unread.append("at 0.5 s: invalid data")

    @contextmanager
    def written(self, path: Path) -> Iterator["Film"]:
        path.parent.mkdir(parents=True)
        yield self
        path.write_text(json.dumps(self.times))

    def add(self, image: Image.Image, frame: Frame) -> None:
        assert image.width == 480
        self.times.append(frame.pts)


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(atp.masks, "Video", Film)
    monkeypatch.setattr(atp.masks, "check_package", lambda video: None)
    (tmp_path / "drive.mp4").touch()
    return tmp_path / "drive.mp4"


@pytest.mark.parametrize("batch", [1, 2])
def test_a_video_becomes_a_video_and_on_request_masks(
    film: Path, images: Path, model: Path, tmp_path: Path, batch: int
) -> None:
    out = tmp_path / "out"
    line = f"{film}: parts cannot be read, at 0.5 s: invalid data; the other frames are done"
    assert write_predictions(film, out, str(model), batch=batch, device="cpu") == (0, [line])
    assert json.loads((out / "overlays/drive.mp4").read_text()) == [0, 7, 14, 21, 28]
    assert sorted(path.name for path in out.iterdir()) == ["overlays"]
    both = [film, images / "0.png"]
    wanted = Wanted(overlays=False, frames=True)
    assert write_predictions(both, out, str(model), wanted=wanted, batch=batch, device="cpu") == (6, [line])
    first, third = (ids(out / f"masks/drive/00000{index}.png") for index in (0, 3))
    assert np.array_equal(first, ids(out / "masks/0.png"))
    ((_, mask),) = predict(load_model(model), [picture(3, (40, 24))], device="cpu")
    assert np.array_equal(third, mask)


def test_an_unreadable_video_is_named_and_the_others_are_done(
    film: Path, images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: Path) -> Film:
        raise InputError(f"{path}: cannot be read as a video")

    monkeypatch.setattr(atp.masks, "Video", opened)
    both = [film, images / "0.png"]
    line = f"{film}: cannot be read as a video"
    assert write_predictions(both, tmp_path / "out", str(model), device="cpu") == (1, [line])
    assert not (tmp_path / "out/overlays/drive.mp4").exists()


def test_a_video_of_which_nothing_would_be_written(film: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"drive.mp4: nothing to write; pass --frames, or leave out --no-overlay"):
        write_predictions(film, tmp_path / "out", str(model), wanted=Wanted(overlays=False))
