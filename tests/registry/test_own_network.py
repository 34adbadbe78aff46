"""What one does with a registered model, with one whose network is the user's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from atp.cli import app

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


def test_it_is_promoted_and_predicts_and_is_exported(elsewhere: Path) -> None:
    assert "own" in run("promote", "1", "--name", "own", "--why", "tried by hand")
    run("predict", "images", "out", "--model", MODEL, "--device", "cpu")
    mask = np.array(Image.open("out/masks/a.png"))
    assert mask.shape == (20, 33)
    assert set(np.unique(mask)) <= {0, 1, 2}
    # Its own four classes, of which the first and the last became one.
    assert len(np.unique(mask)) > 1
    run("export", "weights.safetensors", "--model", MODEL)
    assert Path("weights.safetensors").stat().st_size > 0
