"""Images that several tests of baselines train on."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from atp.data.folder import list_samples
from atp.data.loading import TrainingImages
from atp.data.settings import Augmentation


@pytest.fixture
def noise(tmp_path: Path) -> TrainingImages:
    """Eight images of 24 x 24 pixels."""
    draw = torch.Generator().manual_seed(0)
    for number in range(8):
        pixels = torch.randint(255, (24, 24, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
    return TrainingImages(list_samples(tmp_path), Augmentation(flip=False))
