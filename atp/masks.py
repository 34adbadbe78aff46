"""Write masks and overlays of images and videos to files: the command ``atp predict``."""

import io
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from atp.api import load_model
from atp.data.folder import Sample, open_image, resized
from atp.data.labels import LabelSpace
from atp.data.masks import write_mask
from atp.data.passes import ahead, threads
from atp.data.reading import Inference, Reading, by, check_window, parse_size
from atp.data.tensors import image_tensor
from atp.errors import InputError
from atp.files import atomic_path
from atp.losses.entropy import mean_entropy
from atp.media.inputs import inputs_of, is_video
from atp.media.overlay import overlay
from atp.media.record import Row, write_record
from atp.media.video import Frame, Video, check_package
from atp.training.prediction import Predictor, at_size, predictor_of
from atp.training.progress import Progress
from atp.training.runtime import find_device


@dataclass(frozen=True)
class Wanted:
    """What to write for every image.

    Attributes:
        overlays: the image blended with the classes' colours.
        legend: a legend below the overlay.
        soft: the probabilities of all classes.
        frames: masks of each frame of a video.
    """

    overlays: bool = True
    legend: bool = True
    soft: bool = False
    frames: bool = False


@dataclass(frozen=True)
class _Read:
    """An image as it is, and as the network reads it, uint8, (3, h, w)."""

    sample: Sample
    image: Image.Image
    pixels: Tensor


@dataclass(frozen=True)
class _Predicted:
    """Probabilities of an image at the size at which the network read it, (C, h, w)."""

    sample: Sample
    image: Image.Image
    probabilities: Tensor


def write_predictions(
    images: Path | Sequence[Path],
    out: Path,
    model: str,
    size: str = "",
    inference: str = "",
    *,
    wanted: Wanted = Wanted(),
    batch: int = 1,
    workers: int = 2,
    tell: Callable[[str], None] = lambda line: None,
    device: str = "auto",
    trust: bool = False,
) -> tuple[int, list[str]]:
    """Write ``out/masks/NAME.png`` for every image, and what else is ``wanted``; memory does not grow with the images.

    ``out/overlays/NAME.jpg`` are the overlays, ``.mp4`` those of videos, and ``out/soft/NAME.npz`` the probabilities,
    float16, (C, H, W). ``out/predictions.json`` lists the images, the least certain first. Files that exist are
    replaced, each when its successor is complete.

    Args:
        images: see ``inputs_of``.
        model: see ``atp.load_model``.
        size: ``WIDTHxHEIGHT`` to which images are resized for the model, or ``native``; empty is the size at which it
            was adapted. Masks keep the images' original sizes.
        inference: see ``atp.predict``; empty is as the model was adapted.
        batch: number of consecutive images of one size in a forward pass. More than 1 can change the last bits of the
            probabilities, and a GPU needs it to be fast on small images.
        workers: number of threads that read images ahead, and finish and write masks.
        tell: is called with a line that says which size the model takes.
        trust: see ``atp.load_model``.

    Returns:
        Number of masks, and an error line for each image that is unreadable or smaller than the windows, and each video
        that is unreadable as a whole or in part.

    Raises:
        InputError: if there are no images, the model does not exist, or the size or inference is invalid.
    """
    samples = inputs_of([images] if isinstance(images, Path) else images)
    extent, how = parse_size(size, "--size"), inference or None
    videos = [sample for sample in samples if is_video(sample.image)]
    if videos:
        check_package(videos[0].image)
        if not (wanted.overlays or wanted.frames):
            raise InputError(f"{videos[0].image}: nothing to write; pass --frames, or leave out --no-overlay")
    network = load_model(model, trust=trust)
    reading = network.reading.changed(extent, cast("Inference | None", how))
    tell(_taken(reading, network.reading, chosen=bool(size)))
    predictor = predictor_of(network, find_device(device, setting="device"), reading.window)
    run = _Run(predictor, reading, network.label_space, out, wanted, batch, workers)
    rows = run.images([sample for sample in samples if not is_video(sample.image)])
    masks = len(rows) + sum(map(run.video, videos))
    if rows:
        write_record(out, model, network.label_space, rows)
    return masks, run.refused


class _Run:
    """Predict with one model into one folder; reading and writing go on in threads while the network computes."""

    def __init__(
        self,
        predictor: Predictor,
        reading: Reading,
        space: LabelSpace,
        out: Path,
        wanted: Wanted,
        batch: int,
        workers: int,
    ) -> None:
        self.predictor, self.reading, self.space, self.out, self.wanted = predictor, reading, space, out, wanted
        self.batch, self.workers = batch, workers
        self.refused: list[str] = []

    def images(self, samples: Sequence[Sample]) -> list[Row]:
        """Predict image files; an unreadable one is noted, and the others are done."""
        rows = []
        with Progress("predict", len(samples)) as progress, threads(self.workers) as pool:
            read = self._readable(ahead(pool, self._read, samples, self.batch + self.workers))
            for row in ahead(pool, self._write, self._predicted(read), self.workers):
                rows.append(row)
                progress.advance()
        return rows

    def video(self, sample: Sample) -> int:
        """Predict a video's frames, and write them as wanted; returns the number of masks."""
        masks = 0
        try:
            video = Video(sample.image)
            for _ in self._filmed(sample.name, video):
                masks += self.wanted.frames
        except InputError as error:
            self.refused.append(str(error))
            return masks
        if video.unread:
            first, *others = video.unread
            more = f" and {len(others)} more" if others else ""
            self.refused.append(f"{video.path}: parts cannot be read, {first}{more}; the other frames are done")
        return masks

    def _filmed(self, name: str, video: Video) -> Iterator[Frame]:
        """Yield each frame when it is done."""
        # Which classes occur is known at its end, and all pictures of a video have one size.
        legend = range(self.space.num_classes) if self.wanted.legend else ()
        frames: deque[Frame] = deque()

        def read() -> Iterator[_Read]:
            for number, frame in enumerate(video.frames()):
                frames.append(frame)
                yield self._for_network(Sample(f"{name}/{number:06}", video.path, None), frame.image)

        def write(one: _Predicted) -> Image.Image:
            ids = self._write_arrays(one, mask=self.wanted.frames)
            return overlay(one.image, ids, self.space, legend) if self.wanted.overlays else one.image

        film = video.written(self.out / "overlays" / f"{name}.mp4") if self.wanted.overlays else nullcontext()
        with (
            Progress(f"predict {name}", video.length) as progress,
            threads(self.workers) as pool,
            film as writer,
        ):
            for picture in ahead(pool, write, self._predicted(read()), self.workers):
                frame = frames.popleft()
                if writer is not None:
                    writer.add(picture, frame)
                yield frame
                progress.advance()

    def _read(self, sample: Sample) -> _Read | InputError:
        try:
            return self._for_network(sample, open_image(sample.image))
        except InputError as error:
            return error

    def _for_network(self, sample: Sample, image: Image.Image) -> _Read:
        size = self.reading.size or image.size
        check_window(self.reading.window, size, f"{sample.image}: {by(size)}")
        return _Read(sample, image, image_tensor(resized(image, self.reading.size)))

    def _readable(self, read: Iterable[_Read | InputError]) -> Iterator[_Read]:
        for one in read:
            if isinstance(one, InputError):
                self.refused.append(str(one))
            else:
                yield one

    def _predicted(self, read: Iterable[_Read]) -> Iterator[_Predicted]:
        for _, alike in groupby(read, lambda one: one.pixels.shape):
            while some := list(islice(alike, self.batch)):
                probabilities = self.predictor.probabilities(torch.stack([one.pixels for one in some]))
                for one, own in zip(some, probabilities, strict=True):
                    yield _Predicted(one.sample, one.image, own)

    def _write(self, one: _Predicted) -> Row:
        ids = self._write_arrays(one, mask=True)
        if self.wanted.overlays:
            picture = overlay(one.image, ids, self.space, None if self.wanted.legend else ())
            write_picture(self.out / "overlays" / f"{one.sample.name}.jpg", picture)
        entropy = float(mean_entropy(one.probabilities[None])[0])
        image = one.sample.image.absolute()
        return Row(one.sample.name, str(image), one.image.width, one.image.height, round(entropy, 6))

    def _write_arrays(self, one: _Predicted, *, mask: bool) -> NDArray[np.uint8]:
        """Write what is wanted of an image, and return its class ids, (H, W)."""
        full = at_size(one.probabilities, (one.image.height, one.image.width))
        # The same as argmax, which takes several times as long on a CPU.
        ids: NDArray[np.uint8] = full.max(0)[1].to("cpu", torch.uint8).numpy()
        if mask:
            write_mask(self.out / "masks" / f"{one.sample.name}.png", ids, self.space)
        if self.wanted.soft:
            with (
                atomic_path(self.out / "soft" / f"{one.sample.name}.npz") as temporary,
                # As numpy.savez_compressed, whose higher level takes many times as long.
                zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
                archive.open("probabilities.npy", "w") as file,
            ):
                np.lib.format.write_array(file, full.to("cpu", torch.float16).numpy(), allow_pickle=False)
        return ids


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a JPEG."""
    # To a file, Pillow writes a JPEG without noticing that the disk is full.
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _taken(reading: Reading, own: Reading, *, chosen: bool) -> str:
    """One line on the size at which images are read: as ``chosen`` by the user, or the model's ``own``."""
    if chosen:
        return f"size: {reading}"
    if own.size is None:
        return f"size: {reading}; the model's file states no other"
    return f"size: {reading}, as the model was adapted"
