"""Four drawn images that a network learns within seconds."""

from pathlib import Path

import torch
from PIL import Image

from atp.data.folder import list_samples
from atp.data.loading import FolderLabels, TrainingImages
from atp.data.settings import Augmentation


def halves(folder: Path, augmentation: Augmentation, num_classes: int = 2) -> TrainingImages:
    """Four images of 24x16 whose bright half is class 1; written to ``images`` and ``labels`` below the folder."""
    for index in range(4):
        ids = torch.zeros(16, 24, dtype=torch.uint8)
        ids[:, 6 * index :] = 1
        for kind, array in (("images", (ids * 200)[..., None].expand(-1, -1, 3)), ("labels", ids)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array.numpy()).save(folder / kind / f"{index}.png")
    samples = list_samples(folder / "images", folder / "labels")
    return TrainingImages(samples, augmentation, labels=FolderLabels(num_classes))
