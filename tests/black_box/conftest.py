from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atp.black_box.boxes import Question
from atp.data.folder import list_samples


@pytest.fixture
def images(tmp_path: Path) -> Callable[[int], dict[str, Question]]:
    """``images(n)`` makes n different pictures and asks about them, by a key for each."""

    def make(count: int) -> dict[str, Question]:
        generator = np.random.default_rng(0)
        folder = tmp_path / "images"
        folder.mkdir()
        for index in range(count):
            pixels = generator.integers(0, 256, (6, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:02}.png")
        return {f"{index:064x}": Question("target", s, None) for index, s in enumerate(list_samples(folder))}

    return make
