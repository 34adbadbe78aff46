"""Labels from colours: ids by the classes' colours, all of them or none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from atp.cli import app
from atp.data.tensors import read_label
from atp.datasets.colours import convert_labels
from atp.errors import InputError
from atp.files import digest
from tests.conftest import SPACE

UNLABELLED = (0, 0, 0)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Two files of colours: one as RGB, one in a subfolder with a palette of its own; with unlabelled pixels."""
    folder = tmp_path / "colours"
    (folder / "a").mkdir(parents=True)
    image = Image.fromarray(np.array([*SPACE.colors, UNLABELLED], np.uint8)[np.array([[0, 1, 2], [2, 3, 3]])])
    image.save(folder / "1.png")
    image.quantize(16).save(folder / "a/2.png")
    return folder


def test_ids_are_those_of_the_colours(colours: Path, tmp_path: Path) -> None:
    before = digest(colours)
    assert convert_labels(colours, tmp_path / "labels", SPACE, [UNLABELLED]) == 2
    for name in ("1.png", "a/2.png"):
        path = tmp_path / "labels" / name
        assert read_label(path, 3).tolist() == [[0, 1, 2], [2, 255, 255]]
        with Image.open(path) as file:
            assert file.mode == "P"
            assert file.convert("RGB").getpixel((0, 0)) == SPACE.colors[0]
    assert digest(colours) == before


def test_colours_of_no_class_are_counted_and_nothing_is_written(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"colours of no class: 0,0,0 \(4 pixels\); .* pass --unlabelled 0,0,0"):
        convert_labels(colours, tmp_path / "labels", SPACE)
    assert list(tmp_path.iterdir()) == [colours]


def test_the_old_labels_stay_apart(colours: Path, tmp_path: Path) -> None:
    for out in (colours, colours / "ids"):
        with pytest.raises(InputError, match=r"exists already|is below"):
            convert_labels(colours, out, SPACE, [UNLABELLED])
    with pytest.raises(InputError, match="is the colour of road"):
        convert_labels(colours, tmp_path / "labels", SPACE, [SPACE.colors[1]])


def test_the_command(colours: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.yaml"
    classes.write_text("".join(f"- {{name: {n}, color: {list(c)}}}\n" for n, c in zip(*_space(), strict=True)))
    command = ["labels", "convert", str(colours), str(tmp_path / "labels"), "--classes", str(classes)]
    result = CliRunner().invoke(app, [*command, "--unlabelled", "0, 0, 0"])
    assert result.output == f"2 labels in {tmp_path / 'labels'}\n"
    wrong = CliRunner().invoke(app, [*command, "--unlabelled", "black"])
    assert "--unlabelled black: must be red, green and blue" in str(wrong.exception)


def _space() -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    return SPACE.names, SPACE.colors
