"""Align's objective term by term, and what it freezes."""

from typing import Any

import pytest
import torch

from atp.losses.diversity import diversity_loss
from atp.losses.entropy import curriculum_entropy_loss, rising_entropy_share
from atp.method.align import Settings, align
from atp.method.settings import AlignSettings
from tests.method.known import HISTORY, RUN, Captured, Known, batch, captured, logits, same


def captured_align(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Captured:
    settings = AlignSettings.model_validate({"epochs": 1, "batch_size": 2, "lr": 0.1, **changes})
    return captured(monkeypatch, align, Known(), "images", settings, RUN)


@pytest.mark.parametrize(
    ("changes", "entropy", "diversity"),
    [
        ({}, {}, {}),
        ({"alpha": 0.25, "diversity": 0.0}, {}, {}),
        ({"alpha": 0.0, "diversity": 2.0}, {}, {}),
        ({"gamma": 1.5}, {"gamma": 1.5}, {}),
        ({"sharpness": 0.5}, {}, {"sharpness": 0.5}),
        ({"weighted": False}, {}, {"weighted": False}),
        ({"per_image": True}, {}, {"per_image": True}),
    ],
    ids=str,
)
def test_each_term_by_its_settings(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], entropy: dict[str, Any], diversity: dict[str, Any]
) -> None:
    given = batch(0)
    answers = logits(given.strong, training=True)
    first = curriculum_entropy_loss(answers, given.valid, **{"gamma": 3.0} | entropy)
    second = diversity_loss(
        answers, given.valid, **{"sharpness": 3.0, "weighted": True, "per_image": False} | diversity
    )
    expected = {
        "loss": changes.get("alpha", 1.0) * first + changes.get("diversity", 0.3) * second,
        "entropy": first,
        "diversity": second,
        "rising_entropy": rising_entropy_share(answers, given.valid, changes.get("gamma", 3.0)),
    }
    same(captured_align(monkeypatch, **changes).losses(given), expected)


@pytest.mark.parametrize("weight_grad", ["detach", "full"])
def test_the_gradient_passes_through_the_weight_if_asked_for(monkeypatch: pytest.MonkeyPatch, weight_grad: Any) -> None:
    given = batch(0)
    align_ = captured_align(monkeypatch, weight_grad=weight_grad, diversity=0.0, freeze_classifier=False)
    align_.losses(given)["loss"].backward()
    network = Known().train()
    curriculum_entropy_loss(network(given.strong), given.valid, weight_grad=weight_grad).backward()
    assert torch.equal(align_.training.network.head.weight.grad, network.head.weight.grad)


@pytest.mark.parametrize("grad", ["detach", "full"])
def test_the_gradient_passes_through_the_diversity_s_weight_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, grad: Any
) -> None:
    given = batch(0)
    align_ = captured_align(monkeypatch, diversity_grad=grad, alpha=0.0, diversity=1.0, freeze_classifier=False)
    align_.losses(given)["loss"].backward()
    gradients = {}
    for each in ("detach", "full"):
        network = Known().train()
        diversity_loss(network(given.strong), given.valid, weight_grad=each).backward()  # type: ignore[arg-type]
        gradients[each] = network.head.weight.grad
    assert torch.equal(align_.training.network.head.weight.grad, gradients.pop(grad))
    assert not torch.allclose(align_.training.network.head.weight.grad, gradients.popitem()[1])


@pytest.mark.parametrize("freeze", [True, False])
def test_the_classifier_is_frozen_before_training_if_asked_for(monkeypatch: pytest.MonkeyPatch, freeze: bool) -> None:
    network = captured_align(monkeypatch, freeze_classifier=freeze).training.network.train()
    assert network.head.weight.requires_grad != freeze
    assert network.head.training != freeze


def test_it_trains_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    align_ = captured_align(monkeypatch)
    assert isinstance(align_.training.network, Known)
    assert (align_.training.images, align_.training.job, align_.returned) == ("images", RUN, HISTORY)
    assert isinstance(align_.training.settings, Settings)
