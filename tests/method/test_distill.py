"""Distillation: soft and hard answers, and the pixels that have none."""

from typing import Any

import pytest
import torch

from atp.data.labels import IGNORE
from atp.data.loading import Batch
from atp.losses.distillation import distillation_loss
from atp.method.distill import distill
from atp.method.settings import DistillSettings
from tests.method.known import HISTORY, RUN, Known, batch, captured, logits, same

HALF_AND_HALF = torch.tensor([[1, 0], [2, IGNORE]], dtype=torch.uint8)  # (k, pixels): 1 or 2, and 0


def answered() -> Batch:
    """The left half is class 1 (.6) or 2 (.3), the right half 0 (.8); some pixels have no answer."""
    given = batch(3)
    count, height, width = given.labels.shape
    classes = HALF_AND_HALF.repeat_interleave(width // 2, 1)[None, :, None].expand(count, 2, height, width)
    probabilities = torch.tensor([[0.6, 0.8], [0.3, 0.0]]).repeat_interleave(width // 2, 1)
    probabilities = probabilities[None, :, None].expand(count, 2, height, width)
    # The stage's labels are the most probable class; where the box did not answer there is none.
    labels = classes[:, 0].long().masked_fill(given.labels == IGNORE, IGNORE)
    assert ((labels == IGNORE) & given.valid).any()
    return batch(3, labels=labels, classes=classes, probabilities=probabilities)


def captured_distill(monkeypatch: pytest.MonkeyPatch, answers: Any) -> Any:
    settings = DistillSettings(epochs=1, batch_size=2, lr=0.1, answers=answers)
    return captured(monkeypatch, distill, Known(), "images", settings, RUN)


@pytest.mark.parametrize(
    ("answers", "left", "right"),
    [("soft", [0.1, 0.6, 0.3], [0.8, 0.1, 0.1]), ("hard", [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])],
)
def test_the_answers_are_learned(
    monkeypatch: pytest.MonkeyPatch, answers: str, left: list[float], right: list[float]
) -> None:
    given = answered()
    half = given.labels.shape[2] // 2
    target = torch.tensor([left] * half + [right] * half).T[None, :, None].expand(2, 3, 2, 2 * half)
    counted = given.valid & (given.labels != IGNORE)
    expected = distillation_loss(logits(given.strong, training=True), target, counted)
    same(captured_distill(monkeypatch, answers).losses(given), {"loss": expected})


def test_padding_does_not_count_even_where_it_has_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    given = answered()
    labels = given.labels.masked_fill(~given.valid, 0)
    expected = captured_distill(monkeypatch, "soft").losses(given)["loss"]
    changed = batch(3, labels=labels, classes=given.classes, probabilities=given.probabilities)
    assert torch.equal(captured_distill(monkeypatch, "soft").losses(changed)["loss"], expected)


def test_it_trains_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    student = captured_distill(monkeypatch, "soft")
    training = student.training
    assert (training.images, training.job, student.returned) == ("images", RUN, HISTORY)
    assert training.settings.answers == "soft"
