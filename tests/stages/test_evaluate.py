"""A black box in the evaluation: its answers are measured as a model's predictions are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atp.black_box.answers import Answer, AnswerStore, AnswerWriter
from atp.data.folder import Sample
from atp.data.labels import LabelSpace
from atp.evaluation.evaluate import evaluate_answers
from atp.stages.evaluate import by_image

SPACE = LabelSpace(("sky", "road", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """An image of 8x4 with three classes in columns; one line without labels."""
    ids = np.repeat([[0, 0, 0, 1, 1, 1, 2, 2]], 4, 0).astype(np.uint8)
    ids[3] = 255
    Image.fromarray(ids).save(tmp_path / "label.png")
    Image.new("RGB", (8, 4)).save(tmp_path / "image.png")
    return Sample("a", tmp_path / "image.png", tmp_path / "label.png")


def store(folder: Path, answer: Answer) -> AnswerStore:
    writer = AnswerWriter(folder, SPACE, {})
    writer.add("a", answer)
    writer.finish()
    return AnswerStore(folder)


def test_no_answer_is_a_wrong_one(tmp_path: Path, sample: Sample) -> None:
    ids = torch.from_numpy(np.array(Image.open(tmp_path / "label.png"))).clone()
    ids[3] = 1
    ids[0, 0] = 255
    result = evaluate_answers(store(tmp_path / "answers", Answer.hard(ids)), [sample], tmp_path / "predictions")
    assert result.confusion.iou().tolist() == pytest.approx([8 / 9, 1, 1])
    assert result.entropy["a"] == 0
    assert np.array(Image.open(tmp_path / "predictions/a.png")).tolist() == ids.tolist()


def test_answers_at_another_size_are_compared_at_the_labels_size(tmp_path: Path, sample: Sample) -> None:
    """The box was asked at half the size; where it gave no answer there is none at the full size either."""
    classes = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 255]], dtype=torch.uint8)
    answer = Answer(classes[None], 0.9 * (classes[None] != 255))
    result = evaluate_answers(store(tmp_path / "answers", answer), [sample], tmp_path / "predictions")
    predicted = np.array(Image.open(tmp_path / "predictions/a.png"))
    assert predicted.shape == (4, 8)
    assert (predicted[2:, 6:] == 255).all()
    assert (predicted[:, :3] == 0).all()
    assert result.confusion.unanswered.tolist() == [0, 0, 2]
    assert 0 < result.entropy["a"] < 1


def test_an_image_without_a_labelled_pixel_has_no_miou(tmp_path: Path, sample: Sample) -> None:
    Image.fromarray(np.full((4, 8), 255, np.uint8)).save(tmp_path / "label.png")
    ids = torch.zeros(4, 8, dtype=torch.uint8)
    result = evaluate_answers(store(tmp_path / "answers", Answer.hard(ids)), [sample], tmp_path / "predictions")
    assert by_image(result) == {"miou": {"a": None}, "entropy": {"a": 0.0}}
