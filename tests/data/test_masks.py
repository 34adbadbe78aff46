"""Masks keep every id, 255 among them, whatever the number of classes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from atp.data.labels import LabelSpace
from atp.data.masks import write_mask
from atp.data.tensors import read_label


@pytest.mark.parametrize("classes", [2, 11, 40, 255])
def test_round_trip(tmp_path: Path, classes: int) -> None:
    space = LabelSpace(tuple(map(str, range(classes))), tuple((i, 0, 255 - i) for i in range(classes)))
    ids = torch.tensor([[0, 1, classes - 1, 255]], dtype=torch.uint8)
    write_mask(tmp_path / "mask.png", ids.numpy(), space)
    assert torch.equal(read_label(tmp_path / "mask.png", classes), ids)
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.convert("RGB").getpixel((1, 0)) == (1, 0, 254)
