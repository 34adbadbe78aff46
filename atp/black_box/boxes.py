"""Kinds of black boxes: a folder of predictions, a Python callable, an HTTP endpoint (``endpoint``)."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atp.black_box.answers import Answer
from atp.black_box.formats import read_answer
from atp.black_box.predictions import Expected, NoAnswerError, Size, WrongAnswerError, resized
from atp.black_box.settings import QuerySettings
from atp.data.folder import Sample, image_size, open_image
from atp.errors import InputError
from atp.models.own import import_callable

FORMATS = ("png", "npy", "npz")

_OF_FILES = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Question:
    """An image to query.

    Attributes:
        part: ``target`` or ``test``.
        sample: the image.
        size: (width, height) at which it is sent; None keeps its own.
    """

    part: str
    sample: Sample
    size: Size | None

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.part}/{self.sample.name}"

    def image(self) -> Image.Image:
        """The image as RGB.

        Raises:
            InputError: the file cannot be read.
        """
        return open_image(self.sample.image, self.size)


class Box(Protocol):
    """Interface of a black box."""

    def key(self, question: Question) -> str:
        """Hexadecimal digest of everything that decides the answer besides the box's identity."""

    def ask(self, question: Question) -> Answer:
        """The answer in the box's own classes, at the question's size; called from several threads.

        Raises:
            NoAnswerError: there is no answer, or an invalid one.
            InputError: no question to this box can succeed.
        """


def image_key(question: Question) -> str:
    """Digest of the image's bytes and size."""
    size = "" if question.size is None else "{}x{}".format(*question.size)
    return sha256(question.sample.image.read_bytes() + size.encode()).hexdigest()


@dataclass(frozen=True)
class FolderBox:
    """Predictions in a folder, at the image's own size or at the size of the question.

    Attributes:
        folder: contains NAME.png, NAME.npy or NAME.npz, or subfolders target and test with these.
        num_classes, keep: see ``Expected``.
    """

    folder: Path
    num_classes: int
    keep: int

    def key(self, question: Question) -> str:
        # A prediction may be replaced, so its bytes are part of the key.
        try:
            return sha256((image_key(question) + sha256(self._read(question)).hexdigest()).encode()).hexdigest()
        except NoAnswerError:
            return image_key(question)

    def ask(self, question: Question) -> Answer:
        data = self._read(question)
        own = image_size(question.sample.image)
        size = question.size or own
        try:
            answer = read_answer(data, Expected(self.num_classes, tuple(dict.fromkeys((size, own))), self.keep))
        except WrongAnswerError as error:
            raise NoAnswerError(str(error), again=False) from error
        return resized(answer, size, self.num_classes, self.keep)

    def _read(self, question: Question) -> bytes:
        start = self._below(question.part) / question.sample.name
        found = [path for path in (Path(f"{start}.{kind}") for kind in FORMATS) if path.is_file()]
        if len(found) != 1:
            there = " and ".join(path.name for path in found) if found else "none"
            raise NoAnswerError(f"there must be one prediction {start}.png, .npy or .npz; found {there}", again=False)
        return found[0].read_bytes()

    def check_names(self, questions: Sequence[Question]) -> None:
        """Check that no prediction file matches two images.

        Raises:
            InputError: a file matches two images, which are named.
        """
        seen: dict[Path, str] = {}
        for question in questions:
            start = self._below(question.part) / question.sample.name
            if start in seen:
                raise InputError(
                    f"{start}: matches both {seen[start]} and {question.name}; use two folders, "
                    f"{self.folder}/target and {self.folder}/test, or set query.test: false"
                )
            seen[start] = question.name

    def _below(self, part: str) -> Path:
        return self.folder / part if (self.folder / part).is_dir() else self.folder


@dataclass(frozen=True)
class CallableBox:
    """A callable from an image, uint8, (H, W, 3), to ids (H, W) or probabilities (C, H, W), as array or tensor.

    Attributes:
        address: ``package.module:callable``.
        function: the callable.
        num_classes, keep: see ``Expected``.
    """

    address: str
    function: Any
    num_classes: int
    keep: int

    def key(self, question: Question) -> str:
        return image_key(question)

    def ask(self, question: Question) -> Answer:
        image = question.image()
        expected = Expected(self.num_classes, (image.size,), self.keep)
        try:
            returned = self.function(np.array(image))
        except Exception as error:  # A user's code may raise anything.
            # Raised by libraries if a service behind the callable fails.
            elsewhere = isinstance(error, OSError) and not isinstance(error, _OF_FILES)
            raise NoAnswerError(_told(error), again=elsewhere, down=elsewhere) from error
        try:
            return expected.answer(_as_array(returned))
        except WrongAnswerError as error:
            raise NoAnswerError(str(error), again=False) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}".rstrip(": ")


def _as_array(returned: object) -> NDArray[np.generic]:
    # Also handles tensors on other devices or with gradients.
    for method in ("detach", "cpu"):
        returned = getattr(returned, method, lambda same=returned: same)()
    try:
        array = np.asarray(returned)
    except Exception as error:
        raise WrongAnswerError(f"it returns {type(returned).__name__}, not an array ({_told(error)})") from error
    if array.dtype.kind not in "iuf":
        raise WrongAnswerError(f"it returns {type(returned).__name__} of {array.dtype}; it must be an array of numbers")
    return array


def open_folder(section: QuerySettings, num_classes: int) -> FolderBox:
    """The box ``folder``.

    Raises:
        InputError: no such folder.
    """
    assert section.folder is not None, "checked with the parameters"
    if not section.folder.is_dir():
        raise InputError(f"params.yaml: query.folder: {section.folder}: no such folder of predictions")
    return FolderBox(section.folder, num_classes, section.keep)


def open_callable(section: QuerySettings, num_classes: int, watched: Path) -> CallableBox:
    """The box ``callable``.

    Args:
        watched: folder that DVC tracks; the project's own code must be in it.

    Raises:
        InputError: it cannot be imported, or is elsewhere in the project.
    """
    assert section.callable is not None, "checked with the parameters"
    function = import_callable(section.callable, "query.callable")
    name = section.callable.partition(":")[0]
    path = getattr(sys.modules.get(name) or import_module(name), "__file__", None)
    file = Path(str(path)).resolve()
    ours = file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts
    if ours and not file.is_relative_to(watched.resolve()):
        raise InputError(
            f"params.yaml: query.callable: {file.relative_to(Path.cwd())} is not below data.source.root {watched}; "
            "move it there, so that DVC tracks changes"
        )
    return CallableBox(section.callable, function, num_classes, section.keep)
