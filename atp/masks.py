"""Write masks and overlays of images to files: the command ``atp predict``."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atp.api import load_model, opened, predict, samples_of
from atp.data.labels import LabelSpace
from atp.data.masks import write_mask
from atp.errors import InputError
from atp.files import atomic_path
from atp.training.progress import Progress


def write_predictions(
    images: Path,
    out: Path,
    model: str,
    size: str = "",
    *,
    overlay: bool = True,
    device: str = "auto",
    trust: bool = False,
) -> tuple[int, list[str]]:
    """Write ``out/masks/NAME.png``, and with ``overlay`` also ``out/overlays/NAME.jpg``, for every image.

    Args:
        images: a file or a folder.
        model: see ``atp.load_model``.
        size: ``WIDTHxHEIGHT`` to which images are resized for the model; masks keep the images' original sizes.
        trust: see ``atp.load_model``.

    Returns:
        Number of masks written, and an error line for each unreadable image.

    Raises:
        InputError: if there are no images, the model does not exist, or the size is malformed.
    """
    samples, extent = samples_of(images), _size(size)
    network = load_model(model, trust=trust)
    refused: list[str] = []
    turn: list[tuple[str, Image.Image]] = []

    def readable() -> Iterator[Image.Image]:
        for sample in samples:
            try:
                image = opened(sample.image, sample.name)
            except InputError as error:
                refused.append(str(error))
                continue
            turn[:] = [(sample.name, image)]
            yield image

    with Progress("predict", len(samples)) as progress:
        for _, ids in predict(network, readable(), size=extent, device=device):
            ((name, image),) = turn
            write_mask(out / "masks" / f"{name}.png", ids, network.label_space)
            if overlay:
                write_overlay(out / "overlays" / f"{name}.jpg", image, ids, network.label_space)
            progress.advance()
    return len(samples) - len(refused), refused


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InputError(f"--size {text}: must be WIDTHxHEIGHT, as in 1024x512")
    return int(width), int(height)


def write_overlay(path: Path, image: Image.Image, ids: NDArray[np.uint8], space: LabelSpace) -> None:
    """Write the image blended half and half with the class colours."""
    colors = np.frombuffer(space.palette, np.uint8).reshape(256, 3)
    # To a file, Pillow writes a JPEG without noticing that the disk is full.
    buffer = io.BytesIO()
    Image.blend(image, Image.fromarray(colors[ids]), 0.5).save(buffer, "JPEG", quality=92)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
