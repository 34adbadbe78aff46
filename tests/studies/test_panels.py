"""A figure's predictions side by side."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from atp.data.labels import LabelSpace
from atp.params import Params, load_params
from atp.report import pictures
from atp.studies.panels import panels

ROOT = Path(__file__).parents[2]


def png(ids: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def params(tmp_path: Path) -> Params:
    """Test images a to d of two classes, of which d has no labelled pixel."""
    for name in "abcd":
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (4, 2)).save(tmp_path / f"images/{name}.png")
        truth = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.uint8)
        (tmp_path / f"labels/{name}.png").write_bytes(png(truth if name != "d" else np.full_like(truth, 255)))
    yaml = YAML(typ="safe")
    tree = yaml.load(ROOT / "params.yaml")
    tree["data"]["classes"] = [{"name": name, "color": [0, 0, 9]} for name in ("sky", "road")]
    tree["data"]["protocols"] = {}
    tree["data"]["test"] = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}
    yaml.dump(tree, tmp_path / "params.yaml")
    return load_params(tmp_path / "params.yaml")


def test_best_median_and_worst_by_the_last_model(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.uint8)
    half = np.array([[0, 0, 0, 0], [1, 1, 0, 0]], np.uint8)
    wrong = 1 - right
    first = {"a": png(wrong), "b": png(right), "c": png(half), "d": png(right)}
    last = {"a": png(half), "b": png(wrong), "c": png(right), "d": png(right)}
    shown: list[pictures.Example] = []

    def sheet(rows: Sequence[pictures.Example], space: LabelSpace) -> Image.Image:
        shown.extend(rows)
        return pictures.sheet(rows, space)

    monkeypatch.setattr("atp.studies.panels.sheet", sheet)
    made = panels(params, {"none": {}, "first": first, "last": last})
    assert made is not None
    # Image, ground truth and two models.
    assert Image.open(io.BytesIO(made)).width // pictures.CELL == 4
    assert [(row.group, row.name) for row in shown] == [("best", "c"), ("median", "a"), ("worst", "b")]
    captions = [[caption for _, caption in row.masks.values()] for row in shown]
    # Two of the four pixels of class 1 are taken for class 0: 4/6 and 2/4.
    assert captions == [["", "mIoU 58.3", "mIoU 100.0"], ["", "mIoU 0.0", "mIoU 58.3"], ["", "mIoU 100.0", "mIoU 0.0"]]


def test_no_figure_without_predictions(params: Params) -> None:
    assert panels(params, {}) is None
    assert panels(params, {"one": {"a": b""}, "two": {"b": b""}}) is None
    assert panels(params, {"one": {"d": png(np.zeros((2, 4), np.uint8))}}) is None
