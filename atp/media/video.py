"""Videos, frame by frame; PyAV, which reads and writes them, is an optional package."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from atp.errors import InputError
from atp.files import atomic_path

_CODECS = ("libx264", "libopenh264", "mpeg4")
"""Encoders by preference; not every build of FFmpeg has the first."""


@dataclass(frozen=True)
class Frame:
    """A frame, upright, and its time, ``pts * time_base`` in seconds."""

    image: Image.Image
    pts: int
    time_base: Fraction


class Video:
    """A video file.

    Attributes:
        path: the file.
        rate: mean number of frames per second.
        length: number of frames, estimated from the duration if the file does not state it; 0 if unknown.
        unread: what was wrong, and when, for each place that could not be read so far.

    Raises:
        InputError: if PyAV is not installed, or the file is no video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unread: list[str] = []
        with _opened(path) as (container, stream):
            self.rate = Fraction(stream.average_rate or 25)
            seconds = (container.duration or 0) / 1_000_000
            self.length = int(stream.frames or seconds * self.rate)

    def frames(self) -> Iterator[Frame]:
        """Decode one frame after the other; damaged ones are left out and noted in ``unread``.

        Raises:
            InputError: if no frame can be read.
        """
        last, count = None, 0
        with _opened(self.path) as (_, stream):
            for decoded in self._decoded(stream):
                # Some files state no time, or the same one twice, which no encoder accepts.
                pts = decoded.pts
                if last is not None and (pts is None or pts <= last):
                    pts = last + 1
                last, count = pts or 0, count + 1
                # Players turn a frame counter-clockwise by this angle; the mask is to be that of what they show.
                upright = decoded.to_image().rotate(decoded.rotation, expand=True)
                yield Frame(upright, last, decoded.time_base)
        if count < 0.9 * self.length and not self.unread:
            self.unread.append(f"it ends after {count} of {self.length} frames")
        if last is None:
            raise InputError(f"{self.path}: no frame can be read; check the file, or convert it")

    def _decoded(self, stream: Any) -> Iterator[Any]:
        """Frames as PyAV returns them; what cannot be decoded is noted."""
        from av import FFmpegError

        stream.thread_type = "AUTO"
        packets = stream.container.demux(stream)
        time = 0.0
        while True:
            try:
                # The last packet is an empty one, for which the decoder returns the frames that it still holds.
                packet = next(packets)
                time = float(packet.pts * packet.time_base) if packet.pts is not None else time
                frames = packet.decode()
            except StopIteration:
                return
            except FFmpegError as error:
                self.unread.append(f"at {time:.1f} s: {_reason(error)}")
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.unread.append(f"at {frame.time or time:.1f} s: a damaged frame")
                else:
                    yield frame

    @contextmanager
    def written(self, path: Path) -> Iterator["VideoWriter"]:
        """Write a video with the times of this one's frames; the file appears once it is complete."""
        import av

        with atomic_path(path) as temporary:
            try:
                with av.open(str(temporary), "w") as container:
                    writer = VideoWriter(container, self.rate)
                    yield writer
                    writer.finish()
            except av.FFmpegError as error:
                if not isinstance(error, OSError):
                    raise
                # In the words of the system, by which commands know a full disk.
                raise OSError(error.errno, os.strerror(error.errno or 0), str(temporary)) from error


class VideoWriter:
    """Writes images of one size as the frames of an MP4 file."""

    def __init__(self, container: Any, rate: Fraction) -> None:
        self._container = container
        self._rate = rate
        self._stream: Any = None

    def add(self, image: Image.Image, frame: Frame) -> None:
        """Write an image at the time of ``frame``."""
        import av

        # Encoders need even sides.
        width, height = image.width + image.width % 2, image.height + image.height % 2
        if self._stream is None:
            codec = next(name for name in _CODECS if name in av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.time_base = frame.time_base
        padded = image.crop((0, 0, width, height)) if (width, height) != image.size else image
        own = av.VideoFrame.from_image(padded)  # type: ignore[no-untyped-call]
        own.pts, own.time_base = frame.pts, frame.time_base
        self._container.mux(self._stream.encode(own))

    def finish(self) -> None:
        """Write the frames that the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())


def check_package(video: Path) -> None:
    """Check that PyAV is installed, which ``video`` needs.

    Raises:
        InputError: if it is not.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise InputError(f"{video}: videos need the package av, which is not installed: pip install av") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its video stream."""
    check_package(path)
    import av

    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be read as a video ({_reason(error)}); replace or remove it") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path}: has no pictures; replace or remove it")
        yield container, container.streams.video[0]


def _reason(error: Any) -> str:
    return str(error.strerror or error).lower()
