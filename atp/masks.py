"""Write masks and overlays of images to files: the command ``atp predict``."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atp.api import load_model, opened, predict, samples_of
from atp.data.labels import LabelSpace
from atp.data.masks import write_mask
from atp.data.reading import Inference, Native, Reading, Size, by, check_window
from atp.errors import InputError
from atp.files import atomic_path
from atp.training.progress import Progress


def write_predictions(
    images: Path,
    out: Path,
    model: str,
    size: str = "",
    inference: str = "",
    *,
    tell: Callable[[str], None] = lambda line: None,
    overlay: bool = True,
    device: str = "auto",
    trust: bool = False,
) -> tuple[int, list[str]]:
    """Write ``out/masks/NAME.png``, and with ``overlay`` also ``out/overlays/NAME.jpg``, for every image.

    Args:
        images: a file or a folder.
        model: see ``atp.load_model``.
        size: ``WIDTHxHEIGHT`` to which images are resized for the model, or ``native``; empty is the size at which it
            was adapted. Masks keep the images' original sizes.
        inference: see ``atp.predict``; empty is as the model was adapted.
        tell: is called with a line that says which size the model takes.
        trust: see ``atp.load_model``.

    Returns:
        Number of masks written, and an error line for each image that is unreadable or smaller than the windows.

    Raises:
        InputError: if there are no images, the model does not exist, or the size or inference is invalid.
    """
    samples, extent, how = samples_of(images), _size(size), cast("Inference | None", inference or None)
    network = load_model(model, trust=trust)
    reading = network.reading.changed(extent, how)
    tell(_taken(reading, network.reading, chosen=bool(size)))
    refused: list[str] = []
    turn: list[tuple[str, Image.Image]] = []

    def readable() -> Iterator[Image.Image]:
        for sample in samples:
            try:
                image = opened(sample.image, sample.name)
                read = reading.size or image.size
                check_window(reading.window, read, f"{sample.image}: {by(read)}")
            except InputError as error:
                refused.append(str(error))
                continue
            turn[:] = [(sample.name, image)]
            yield image

    with Progress("predict", len(samples)) as progress:
        for _, ids in predict(network, readable(), size=extent, inference=how, device=device):
            ((name, image),) = turn
            write_mask(out / "masks" / f"{name}.png", ids, network.label_space)
            if overlay:
                write_overlay(out / "overlays" / f"{name}.jpg", image, ids, network.label_space)
            progress.advance()
    return len(samples) - len(refused), refused


def _size(text: str) -> Size | Native | None:
    if not text:
        return None
    if text == "native":
        return "native"
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--size {text}: must be WIDTHxHEIGHT, as in 1024x512, or native")
    return int(width), int(height)


def _taken(reading: Reading, own: Reading, *, chosen: bool) -> str:
    """One line on the size at which images are read: as ``chosen`` by the user, or the model's ``own``."""
    if chosen:
        return f"size: {reading}"
    if own.size is None:
        return f"size: {reading}; the model's file states no other"
    return f"size: {reading}, as the model was adapted"


def write_overlay(path: Path, image: Image.Image, ids: NDArray[np.uint8], space: LabelSpace) -> None:
    """Write the image blended half and half with the class colours."""
    colors = np.frombuffer(space.palette, np.uint8).reshape(256, 3)
    # To a file, Pillow writes a JPEG without noticing that the disk is full.
    buffer = io.BytesIO()
    Image.blend(image, Image.fromarray(colors[ids]), 0.5).save(buffer, "JPEG", quality=92)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
