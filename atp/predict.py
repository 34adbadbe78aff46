"""Prediction for anyone's images with an adapted model."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from atp.data.folder import SUFFIXES, Sample, list_samples
from atp.data.labels import LabelSpace
from atp.data.masks import write_mask
from atp.data.tensors import read_image
from atp.errors import InputError
from atp.files import atomic_path
from atp.models.checkpoint import load_checkpoint, restored
from atp.models.network import SegmentationNetwork
from atp.registry.package import (
    check_callables,
    download_model,
    find_checkpoint,
    local_checkpoint,
    use_code_of,
)
from atp.training.prediction import Predictor
from atp.training.progress import Progress
from atp.training.runtime import open_runtime
from atp.training.settings import RuntimeSettings, TrainingSettings


def predict_images(
    images: Path,
    out: Path,
    model: str,
    size: str = "",
    *,
    overlay: bool = True,
    device: str = "auto",
    trust: bool = False,
) -> tuple[int, list[str]]:
    """Write ``out/masks/NAME.png``, and ``out/overlays/NAME.jpg`` if wanted, for every image.

    Args:
        images: a file or a folder.
        model: a stage's folder, a file of ``save_checkpoint``, or an address in MLflow's registry.
        size: ``WIDTHxHEIGHT`` at which the model sees the images; masks have the images' own sizes all the same.
        trust: call what the model's file says makes its network, even if params.yaml here does not name it.

    Returns:
        How many masks were written, and a line for each image that could not be read.

    Raises:
        InputError: no images, no such model, or a size that is none.
    """
    samples = [Sample(images.stem, images, None)] if images.is_file() else list_samples(images)
    if images.is_file() and images.suffix.lower() not in SUFFIXES:
        raise InputError(f"{images}: no image; known are {', '.join(sorted(SUFFIXES))}")
    extent = _size(size)
    network, space = load_model(model, trust=trust)
    refused: list[str] = []
    with (
        open_runtime(TrainingSettings(), RuntimeSettings(device=device)) as runtime,
        Progress("predict", len(samples)) as progress,
    ):
        predictor = Predictor([(network, 1.0)], runtime)
        for sample in samples:
            try:
                image = read_image(sample.image)
            except InputError as error:
                refused.append(str(error))
                continue
            ids = _predict(predictor, sample.image, image, extent)
            write_mask(out / "masks" / f"{sample.name}.png", ids, space)
            if overlay:
                write_overlay(out / "overlays" / f"{sample.name}.jpg", image, ids, space)
            progress.advance()
    return len(samples) - len(refused), refused


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InputError(f"--size {text}: must be WIDTHxHEIGHT, as in 1024x512")
    return int(width), int(height)


def _predict(predictor: Predictor, path: Path, image: Tensor, extent: tuple[int, int] | None) -> Tensor:
    seen = image if extent is None else read_image(path, extent)
    probabilities = predictor.probabilities(seen[None])
    if probabilities.shape[-2:] != image.shape[-2:]:
        probabilities = F.interpolate(probabilities, image.shape[-2:], mode="bilinear")
    return probabilities[0].argmax(0).to("cpu", torch.uint8)


def load_model(model: str, *, trust: bool = False) -> tuple[SegmentationNetwork, LabelSpace]:
    """The network that ``model`` means, in evaluation mode, and its classes.

    Raises:
        InputError: there is none, or its file wants something called that nobody here has named.
    """
    path = find_model(model)
    checkpoint = load_checkpoint(path)
    if ":/" in model:
        # The registry's models bring code along in any case.
        use_code_of(path)
    elif not trust:
        check_callables(checkpoint.config, path)
    return restored(checkpoint, path).eval(), checkpoint.label_space


def find_model(model: str) -> Path:
    """The checkpoint that ``model`` means; one in the registry is downloaded.

    Raises:
        InputError: there is none.
    """
    if ":/" in model:
        return find_checkpoint(download_model(model), model)
    return local_checkpoint(model, "--model ")


def write_overlay(path: Path, image: Tensor, ids: Tensor, space: LabelSpace) -> None:
    """The image, uint8 (3, H, W), with the classes' colours at half strength over it."""
    colors = torch.zeros(256, 3, dtype=torch.uint8)
    colors[: space.num_classes] = torch.tensor(space.colors, dtype=torch.uint8)
    blended = (image.permute(1, 2, 0).float() + colors[ids.long()].float()) / 2
    with atomic_path(path) as temporary:
        Image.fromarray(np.asarray(blended.to(torch.uint8))).save(temporary, quality=92)
