"""The registered model: self-contained, without a pickle, images in and label maps out."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image

from atp import load_model, predict
from atp.data.reading import Reading
from atp.models.checkpoint import network_from_checkpoint
from atp.registry.images import decode_image
from atp.registry.package import input_example, requirements
from atp.training.prediction import predictor_of


@pytest.fixture(scope="module")
def answer(registered: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((registered / "user/answer.json").read_text())
    return found


@pytest.mark.parametrize(("height", "width"), [(16, 32), (45, 31)])
def test_images_of_any_size_are_read_at_the_adapted_one(
    registered: Path, answer: dict[str, list[object]], height: int, width: int
) -> None:
    """And their masks are those of ``atp.predict``, bit for bit."""
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    network = load_model(registered / "first/runs/propagate")
    assert network.reading == Reading((24, 16))
    expected = np.stack([ids for _, ids in predict(network, images)])
    dtype, shape, labels = answer[f"{height}x{width}"]
    assert (dtype, shape) == ("uint8", [2, height, width])
    assert np.array_equal(labels, expected)
    assert len(np.unique(expected)) > 1, "else any constant would pass"
    native = np.stack([ids for _, ids in predict(network, images, size="native")])
    assert not np.array_equal(native, expected)


def probabilities(registered: Path, images: NDArray[np.uint8]) -> torch.Tensor:
    """Of the model ``first``, at the images' own size."""
    network, _ = network_from_checkpoint(registered / "first/runs/propagate/model.safetensors")
    predictor = predictor_of(network, torch.device("cpu"), network.reading.window)
    return torch.stack([predictor.image(Image.fromarray(image), network.reading.size) for image in images])


def test_load_model_takes_its_address(copy: Path) -> None:
    network = load_model("models:/atp@candidate")
    path = copy / "second/runs/propagate/model.safetensors"
    expected, space = network_from_checkpoint(path)
    assert network.label_space == space
    state = network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.state_dict().items())


def test_it_brings_its_code_along(answer: dict[str, str]) -> None:
    assert answer["atp"].endswith("/artifacts/code/atp/__init__.py")


def test_other_than_uint8_images_are_refused(answer: dict[str, str]) -> None:
    for name, found in (("floats", "float64 (1, 8, 8, 3)"), ("grey", "uint8 (1, 8, 8)")):
        assert answer[name].startswith("the input must be uint8 images (N, H, W, 3), or a list of PNG or JPEG files")
        assert answer[name].endswith(f"not {found}")


def test_confidence_is_that_of_the_class(registered: Path, answer: dict[str, list[object]]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 45, 31, 3), dtype=np.uint8)
    expected = 255 * probabilities(registered, images).amax(1).numpy()
    dtype, found = answer["confidence"]
    assert dtype == "uint8"
    assert np.abs(np.asarray(found) - expected).max() < 1, "rounded, and by other last bits"
    assert answer["mask"] == answer["45x31"][2]


def test_the_most_probable_classes_and_their_probabilities(registered: Path, answer: dict[str, Any]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 45, 31, 3), dtype=np.uint8)
    expected = probabilities(registered, images)
    assert list(answer["soft"]) == ["mask", "classes", "probabilities"]
    classes, found = (torch.tensor(answer["soft"][name]) for name in ("classes", "probabilities"))
    assert classes.shape == found.shape == (2, 2, 45, 31)
    assert (found - 255 * expected.topk(2, 1).values).abs().max() < 1, "rounded, and by other last bits"
    assert (classes == expected.topk(2, 1).indices).float().mean() > 0.99
    assert answer["soft"]["mask"] == classes[:, 0].tolist()
    assert answer["negative"].startswith("soft is -1; it must be")


def test_no_images_give_no_maps(answer: dict[str, object]) -> None:
    assert answer["none"] == [0, 8, 8]


def test_the_example_is_two_files(answer: dict[str, object]) -> None:
    assert answer["example"] == ["object", [2], [["mask"], ["mask"]]]
    first, second = (decode_image(text, 2**20) for text in input_example())
    assert first.shape == (16, 32, 3)
    assert not np.array_equal(first, second)


def test_files_give_the_same_masks_as_arrays(answer: dict[str, object]) -> None:
    assert answer["files"] == answer["arrays"]


def test_users_learn_size_and_classes(answer: dict[str, object]) -> None:
    assert answer["metadata"] == {"classes": ["sky", "road", "car"], "size": [24, 16], "window": []}


def test_nothing_is_pickled_and_no_data_comes_along(registered: Path) -> None:
    models = [path.parent for path in registered.rglob("MLmodel")]
    assert len(models) == 3
    for path in (path for model in models for path in model.rglob("*") if path.is_file()):
        assert path.suffix in (".py", ".json", ".yaml", ".txt", ".safetensors", ""), path
        assert b"source data" not in path.read_bytes()
        assert "__pycache__" not in path.parts


def test_requirements_are_pinned_and_public() -> None:
    assert f"torch=={torch.__version__.split('+')[0]}" in requirements()
    assert all(line.count("==") == 1 and "+" not in line for line in requirements())


def test_a_network_of_the_users_own_brings_its_code_and_its_packages(
    registered: Path, answer: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(answer["nets"]).endswith("/artifacts/code/nets/blocks.py")
    monkeypatch.syspath_prepend(str(registered / "own"))
    network, _ = network_from_checkpoint(registered / "own/runs/propagate/model.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (2, 45, 31, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2)).argmax(1).numpy()
    assert (np.asarray(answer["own"]) == expected).mean() > 0.99
    assert len(np.unique(expected)) > 1
    (model,) = [path.parent for path in registered.rglob("MLmodel") if (path.parent / "code/nets").is_dir()]
    assert {path.name for path in (model / "code").iterdir()} == {"atp", "nets"}
    assert f"packaging=={version('packaging')}" in (model / "requirements.txt").read_text().splitlines()
    client = MlflowClient(f"sqlite:///{registered}/mlflow.db")
    card = client.get_model_version_by_alias("own", "candidate").description
    assert "- network: `nets.net:make`, classifier `1`" in card
    assert "- classes: the source model's 4 were mapped to these 3\n" in card
