"""What one does with a registered model, with one whose network is the user's own."""

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from atp.cli import app
from atp.errors import InputError
from atp.models.config import NetworkConfig
from atp.registry.package import use_code_of

MODEL = "models:/own@champion"


@pytest.fixture
def elsewhere(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image and without the network's code; the project that registered it is gone."""
    folder = copy / "elsewhere"
    (folder / "images").mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images/a.png")
    (copy / "own").rename(copy / "gone")
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_is_promoted_and_predicts_and_is_exported(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "own" in run("promote", "1", "--name", "own", "--why", "tried by hand")
    run("predict", "images", "out", "--model", MODEL, "--device", "cpu")
    assert any(line.startswith("runs the code that came with the model: /") for line in caplog.messages)
    mask = np.array(Image.open("out/masks/a.png"))
    assert mask.shape == (20, 33)
    assert set(np.unique(mask)) <= {0, 1, 2}
    # Its own four classes, of which the first and the last became one.
    assert len(np.unique(mask)) > 1
    run("export", "weights.safetensors", "--model", MODEL)
    assert Path("weights.safetensors").stat().st_size > 0


@pytest.mark.parametrize(
    ("uri", "listed", "trust", "runs"),
    [
        ("sqlite:////a/mlflow.db", "", False, True),
        ("https://a.example", "", False, False),
        ("https://a.example", "https://b.example,https://a.example", False, True),
        ("https://a.example", "https://a.example.org", False, False),
        ("https://a.example", "", True, True),
    ],
)
def test_code_comes_from_trusted_registries_alone(
    uri: str, listed: str, trust: bool, runs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("ATP_TRUSTED_REGISTRIES", listed)
    monkeypatch.setattr("sys.path", [])
    (tmp_path / "MLmodel").touch()
    own = NetworkConfig(factory="nets.blocks:make", classifier="head")
    with nullcontext() if runs else pytest.raises(InputError, match=r"set ATP_TRUSTED_REGISTRIES=https://a\.example"):
        use_code_of(tmp_path / "artifacts/model.safetensors", own, trust=trust)
    assert sys.path == [str(tmp_path / "code")] * runs
    use_code_of(tmp_path / "artifacts/model.safetensors", NetworkConfig(), trust=trust)
    assert len(sys.path) == runs, "ATP's own networks need none"
