"""The ONNX graph: what it computes, by ONNX Runtime, one of the optional packages of which the tests have one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import atp.onnx
from atp.data.reading import Reading
from atp.errors import InputError
from atp.models.checkpoint import load_checkpoint, restored, save_checkpoint
from atp.models.network import NetworkConfig, build_network
from atp.onnx import _Graph, export_onnx
from tests.test_cli import CONFIG, SPACE

SMALL = NetworkConfig(factory="tests.models.foreign:Small", classifier="decoder", num_classes=3)
SKIPS = NetworkConfig(factory="tests.models.foreign:Skips", classifier="head", divisor=32, num_classes=3)


def written(path: Path, config: NetworkConfig, reading: Reading) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(config).eval()
    network.reading = reading
    save_checkpoint(path, network, config, SPACE, {"precision": "fp32"})
    return network


@pytest.mark.parametrize("size", [(64, 96), (33, 71), (31, 64)])
def test_the_graph_pads_as_the_network_does(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "model.safetensors"
    network = written(path, SKIPS, Reading())
    checkpoint = load_checkpoint(path)
    undivided = replace(checkpoint, config=checkpoint.config.model_copy(update={"divisor": 1}))
    graph = _Graph(restored(undivided, path), 32).eval()
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(graph(images), network(images).softmax(1), atol=1e-6)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atp.onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r"model.onnx: ONNX needs onnxscript, not installed: pip install onnx onnxscr"):
        export_onnx(tmp_path / "model.onnx", "nowhere")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model.safetensors"


def test_it_computes_the_same_at_any_size_and_says_how_to_use_it(model: Path, tmp_path: Path) -> None:
    import onnxruntime

    network = written(model, SMALL, Reading((48, 32)))
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    line = export_onnx(tmp_path / "model.onnx", str(model), tmp_path, trust=True)
    assert line.startswith(f"{tmp_path}/model.onnx: RGB images, uint8, of any size, to probabilities of 3 classes; ")
    assert f"adapted at 48x32; on 2 images of {tmp_path}, probabilities differ from PyTorch's by at most " in line
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    images = torch.randint(0, 256, (3, 3, 37, 51), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(images).softmax(1)
    (found,) = session.run(None, {"images": images.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["atp.classes"]) == list(SPACE.names)
    assert told["atp.size"] == "48x32"
    assert json.loads(told["atp.normalisation"])["mean"] == list(SMALL.mean)
    assert "resize it to atp.size" in told["atp.recipe"]


def test_a_graph_that_computes_something_else_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(model, CONFIG, Reading((48, 32)))

    class Saved:
        model = type("Model", (), {"metadata_props": {}})

        def save(self, path: Path, external_data: bool) -> None:
            path.touch()

    monkeypatch.setattr(atp.onnx, "_exported", lambda *arguments, **options: Saved())
    monkeypatch.setattr(atp.onnx, "_compared", lambda *arguments: (0.25, 3, 9))
    with pytest.raises(InputError, match=r"weights.onnx: not written; on drawn images, it differs from PyTorch by 2.5"):
        export_onnx(tmp_path / "weights.onnx", str(model))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
