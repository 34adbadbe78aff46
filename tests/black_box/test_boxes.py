"""Folders and callables: what they may hold and return, and what is said of anything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atp.black_box.answers import Answer
from atp.black_box.boxes import CallableBox, FolderBox, Question, open_callable, open_folder
from atp.black_box.predictions import NoAnswerError
from atp.black_box.settings import QuerySettings
from atp.errors import InputError
from tests.black_box.server import CLASSES, ids_of, npy, png, shares_of

Images = Callable[[int], dict[str, Question]]


@pytest.fixture
def question(images: Images) -> Question:
    return next(iter(images(1).values()))


def folder_with(tmp_path: Path, **files: bytes) -> FolderBox:
    folder = tmp_path / "box"
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    section = QuerySettings.model_validate({"box": "folder", "folder": str(folder), "keep": 2})
    return open_folder(section, CLASSES)


def test_a_folder_of_any_format(tmp_path: Path, question: Question) -> None:
    image = np.array(question.image())
    hard = folder_with(tmp_path / "a", **{"00_png": png(ids_of(image))}).ask(question)
    assert torch.equal(hard.classes[0], torch.from_numpy(ids_of(image)))
    soft = folder_with(tmp_path / "b", **{"00_npy": npy(shares_of(image))}).ask(question)
    assert np.abs(soft.probabilities[0].numpy() - shares_of(image).max(0)).max() < 1e-6


def test_predictions_of_the_images_own_size_are_resized(tmp_path: Path, question: Question) -> None:
    shown = Question("target", question.sample, (3, 2))
    own = np.repeat(np.repeat(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), 3, 0), 3, 1)
    answer = folder_with(tmp_path, **{"00_png": png(own)}).ask(shown)
    assert answer.classes.tolist() == [[[0, 1, 2], [2, 1, 0]]]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"01_png": b""}, "found none"),
        ({"00_png": b"", "00_npy": b""}, "found 00.png and 00.npy"),
        ({"00_png": b"no picture"}, "neither PNG"),
        ({"00_png": png(np.zeros((5, 9), np.uint8))}, "is 9x5; it must be 9x6"),
    ],
)
def test_a_wrong_prediction_is_not_looked_at_again(
    tmp_path: Path, question: Question, files: dict[str, bytes], reason: str
) -> None:
    box = folder_with(tmp_path, **files)
    assert len(box.key(question)) == 64
    with pytest.raises(NoAnswerError, match=reason) as caught:
        box.ask(question)
    assert not caught.value.again


def test_a_replaced_prediction_is_another_answer(tmp_path: Path, question: Question) -> None:
    box = folder_with(tmp_path, **{"00_png": png(np.zeros((6, 9), np.uint8))})
    before = box.key(question)
    assert box.key(question) == before
    folder_with(tmp_path, **{"00_png": png(np.ones((6, 9), np.uint8))})
    assert box.key(question) != before


def test_one_prediction_is_of_one_image(tmp_path: Path, question: Question) -> None:
    both = [question, Question("test", question.sample, None)]
    box = folder_with(tmp_path, **{"00_png": b""})
    with pytest.raises(InputError, match="target/00 and test/00"):
        box.check_names(both)
    ids = np.zeros((6, 9), np.uint8)
    box = folder_with(tmp_path, **{"target__00_png": png(ids), "test__00_png": png(ids + 1)})
    box.check_names(both)
    assert [int(box.ask(each).classes[0, 0, 0]) for each in both] == [0, 1]


def test_no_folder(tmp_path: Path) -> None:
    section = QuerySettings.model_validate({"box": "folder", "folder": str(tmp_path / "none")})
    with pytest.raises(InputError, match="no such folder of predictions"):
        open_folder(section, CLASSES)


def box_of(function: Any) -> CallableBox:
    return CallableBox("box:function", function, CLASSES, 2)


def fail(error: BaseException) -> Callable[[np.ndarray], object]:
    def function(image: np.ndarray) -> object:
        raise error

    return function


@pytest.mark.parametrize(
    "function",
    [
        ids_of,
        shares_of,
        lambda image: torch.from_numpy(shares_of(image)).float().requires_grad_(),
        lambda image: ids_of(image).tolist(),
    ],
)
def test_a_callable_gives_arrays_tensors_or_lists(question: Question, function: Any) -> None:
    answer: Answer = box_of(function).ask(question)
    assert np.array_equal(answer.classes[0].numpy(), ids_of(np.array(question.image())))


@pytest.mark.parametrize(
    ("function", "reason", "again"),
    [
        (lambda image: None, "returns NoneType", False),
        (lambda image: "mask.png", "returns str", False),
        (lambda image: [[1, 2], [3]], "returns list", False),
        (lambda image: ids_of(image)[1:], "shape", False),
        (lambda image: 9 * shares_of(image), "add up to 9", False),
        (fail(KeyError("weights\nand more")), "KeyError: 'weights", False),
        (fail(FileNotFoundError(2, "No such file", "weights.pth")), "No such file", False),
        (fail(ConnectionError("gone")), "ConnectionError: gone", True),
        (fail(TimeoutError()), "TimeoutError", True),
    ],
)
def test_a_callable_that_fails(question: Question, function: Any, reason: str, again: bool) -> None:
    with pytest.raises(NoAnswerError, match=reason) as caught:
        box_of(function).ask(question)
    assert caught.value.again == again
    assert "\n" not in str(caught.value)


def test_code_lies_where_dvc_sees_it(tmp_path: Path, question: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for folder in ("watched_box", "other_box"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text("def ids(image):\n    return image[..., 0] % 3\n")

    def opened(name: str) -> CallableBox:
        section = QuerySettings.model_validate({"box": "callable", "callable": f"{name}.code:ids"})
        return open_callable(section, CLASSES, Path("watched_box"))

    assert opened("watched_box").ask(question).classes.max() < CLASSES
    with pytest.raises(InputError, match=r"other_box/code\.py is not below data\.source\.root watched_box"):
        opened("other_box")
    with pytest.raises(InputError, match="cannot be imported"):
        opened("no_box")
