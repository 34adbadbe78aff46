"""DT-ST's thresholds, frequencies, pasted pixels, negative labels, sampling weights and teacher."""

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from atp.baselines import dt_st
from atp.baselines.dt_st import (
    BETA,
    DynamicTeacher,
    Settings,
    balancing_weights,
    class_presence,
    class_thresholds,
    confident_labels,
    negative_loss,
    pasted_pixels,
    updated_frequencies,
)
from atp.data.loading import TrainingImages
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.loop import Training
from atp.training.run import Run
from atp.training.runtime import Runtime

CPU = Runtime(torch.device("cpu"))
RUN = Run("align", 7, CPU)
OFTEN = torch.tensor([1.0, 1.0])
"""Frequencies without an effect on the thresholds."""


def pixels(*values: tuple[float, ...]) -> Tensor:
    """Predictions of one image with a row of pixels, (1, C, 1, pixels)."""
    return torch.tensor(values).T[None, :, None]


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=3))


def settings(**own: Any) -> Settings:
    return Settings(**({"epochs": 1, "batch_size": 2, "lr": 0.02} | own))


def test_thresholds_by_hand() -> None:
    p = pixels((0.9, 0.1), (0.3, 0.7), (0.4, 0.6), (0.05, 0.95))
    valid = torch.tensor([[[True, True, True, False]]])
    assert class_thresholds(p, OFTEN, valid, 0.8, 0.2).tolist()[0] == pytest.approx([0.72, 0.56])
    # A class as rare as BETA needs 1 - 1/e of that, and nothing needs less than the floor.
    rare = torch.tensor([BETA, 0.0])
    assert class_thresholds(p, rare, valid, 0.8, 0.2).tolist()[0] == pytest.approx([0.72 * (1 - math.exp(-1)), 0.2])
    # A class that is never the most probable one has no peak.
    assert class_thresholds(p[..., :1], OFTEN, valid[..., :1], 0.8, 0.2).tolist()[0] == pytest.approx([0.72, 0.2])


def test_labels_exceed_the_thresholds_of_their_image() -> None:
    p = pixels((0.75, 0.25), (0.625, 0.375), (0.25, 0.75), (0.125, 0.875))
    two = torch.cat([p, p])
    thresholds = torch.tensor([[0.625, 0.8], [0.5, 0.9]])
    valid = torch.ones(2, 1, 4, dtype=torch.bool)
    valid[1, 0, 0] = False
    assert confident_labels(two, thresholds, valid).tolist() == [[[0, 255, 255, 1]], [[255, 0, 255, 255]]]


def test_frequencies_begin_with_the_first_and_then_move() -> None:
    begun = updated_frequencies(torch.full((2,), BETA), torch.tensor([0.5, 0.0]))
    assert begun.tolist() == pytest.approx([0.5, 0.9 * BETA])
    assert updated_frequencies(begun, torch.tensor([0.1, 0.9])).tolist() == pytest.approx([0.46, 0.09 + 0.81 * BETA])


def test_frequencies_of_a_batch_leave_out_padding() -> None:
    teacher = DynamicTeacher(fresh(), settings(), RUN)
    valid = torch.tensor([[[True, True, False]]])
    teacher.count(pixels((0.5, 0.5, 0.0), (0.25, 0.25, 0.5), (0.0, 0.0, 1.0)), valid)
    assert teacher.frequencies.tolist() == pytest.approx([0.375, 0.375, 0.25])


def test_one_rare_class_is_pasted() -> None:
    labels = torch.tensor([[[0, 1, 2, 255]], [[0, 0, 255, 255]], [[2, 2, 0, 0]]])
    frequencies = torch.tensor([0.6, 0.2, 0.2])
    chosen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mask = pasted_pixels(labels, frequencies)
        chosen.add(tuple(mask[0, 0].tolist()))
        assert not mask[1].any(), "the only class is a frequent one"
        assert mask[2, 0].tolist() == [True, True, False, False]
    assert chosen == {(False, True, False, False), (False, False, True, False)}


def test_the_rarer_class_is_pasted_more_often() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[[0, 1]]]).expand(4000, 1, 2)
    mask = pasted_pixels(labels, torch.tensor([0.0, 0.4]))
    # 1 to 0.6, and both are below 1 / 2.
    assert mask[:, 0, 0].float().mean().item() == pytest.approx(1 / 1.6, abs=0.02)


def test_negative_labels_by_hand() -> None:
    # At most 1/2: class 1 at the first pixel, both at the second, none of the third, which is padding.
    p = pixels((0.75, 0.25), (0.5, 0.5), (0.25, 0.75))
    logits = torch.log(torch.expm1(pixels((9.0, 1.0), (2.0, 3.0), (9.0, 9.0))))
    valid = torch.tensor([[[True, True, False]]])
    assert negative_loss(logits, p, valid).item() == pytest.approx(2.0)
    assert negative_loss(logits, p, ~valid & False) == 0


def test_sampling_weights_by_hand() -> None:
    # Class 0 in all images, class 1 in one; shares of 3/4 and 1/4. Class 2 is nowhere.
    present = torch.tensor([[True, False, False], [True, True, False], [True, False, False]])
    often, rare = 1 / math.log(1.76), 1 / math.log(1.26)
    expected = [often / 3, often / 3 + rare, often / 3]
    assert balancing_weights(present).tolist() == pytest.approx(expected)


class Half(SegmentationNetwork):
    """Finds class 1 in one pixel, class 0 in all others."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=3))
        self.classifier = torch.nn.Identity()

    def scores(self, images: Tensor) -> Tensor:
        scores = images.new_zeros(images.shape)
        scores[:, 0] = 1
        scores[:, 1, 0, 0] = 2
        return self.classifier(scores)


def test_classes_are_those_that_the_initial_model_finds(noise: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    assert class_presence(Half(), noise, RUN).tolist() == [[True, True, False]] * 8
    monkeypatch.setattr(dt_st, "PRESENT", 2 / (24 * 24))
    assert class_presence(Half(), noise, RUN).tolist() == [[True, False, False]] * 8


def with_densities(teacher: DynamicTeacher, values: Iterable[float]) -> None:
    """Let the student's densities be these, one after the other."""
    given = iter(values)
    teacher._density = lambda *_: next(given)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("densities", "updated"),
    [
        # Three images are seen with density 1, and compared after the third.
        ([1, 1, 1, 2, 2, 0], True),
        ([1, 1, 1, 2, 1, 0], False),
        ([1, 1, 1, 2, 0, 0], False),
    ],
)
def test_the_teacher_learns_where_most_densities_rose(densities: list[float], updated: bool) -> None:
    network = fresh()
    teacher = DynamicTeacher(network, settings(ema=0.75, first_check=3), RUN)
    with_densities(teacher, densities)
    before = copy.deepcopy(teacher.network.backbone.conv1.weight)
    with torch.no_grad():
        network.backbone.conv1.weight.fill_(5.0)
    for _ in range(3):
        assert torch.equal(teacher.network.backbone.conv1.weight, before)
        teacher.watch(network, torch.zeros(3, 8, 8, dtype=torch.uint8))
        teacher.update(network)
    after = before + 0.25 * (5.0 - before) if updated else before
    assert torch.allclose(teacher.network.backbone.conv1.weight, after)
    assert len(teacher._watched) == (0 if updated else 3)


def test_comparisons_are_rare_and_waiting_ends() -> None:
    network = fresh()
    teacher = DynamicTeacher(network, settings(first_check=2, check_every=3, update_after=5), RUN)
    compared, updates = [], []
    for step in range(1, 12):
        with_densities(teacher, [1.0] + [0.0] * 20)
        teacher.watch(network, torch.zeros(3, 8, 8, dtype=torch.uint8))
        counted = teacher.steps
        density, calls = teacher._density, []
        teacher._density = lambda *args, d=density, c=calls: c.append(1) or d(*args)  # type: ignore[method-assign]
        teacher.update(network)
        compared += [step] * bool(calls)
        updates += [step] * (teacher.steps - counted)
    assert compared == [2, 5, 8, 10]
    assert updates == [8]


def test_the_density_is_the_students_in_evaluation_mode() -> None:
    network = fresh().train()
    teacher = DynamicTeacher(network, settings(), RUN)
    image = torch.randint(255, (3, 16, 16), dtype=torch.uint8)
    teacher.watch(network, image)
    assert network.training
    ((kept, where, density),) = teacher._watched
    assert torch.equal(kept, image)
    assert len(where) == len(set(where.tolist())) == 100
    p = fresh().eval()(image[None])[0].softmax(0).flatten(1).T[where].detach()
    assert density == pytest.approx(dt_st.neighbourhood_density(p).item(), abs=1e-6)


def test_images_are_sampled_by_their_classes_and_the_teacher_is_the_adapted_model(
    noise: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Training[Any]] = []
    monkeypatch.setattr(dt_st, "Training", lambda *args, **rest: begun.append(Training(*args, **rest)) or begun[-1])
    present = torch.eye(8, 3, dtype=torch.bool)
    monkeypatch.setattr(dt_st, "class_presence", lambda *_: present)
    network = fresh()
    history = dt_st.align(network, noise, settings(negative=3.0, batch_size=8), RUN)
    assert history["loss"][0] == pytest.approx(history["positive"][0] + 3 * history["negative"][0])
    (training,) = begun
    assert isinstance(training.ema, DynamicTeacher)
    assert training.ema.frequencies.sum().item() == pytest.approx(1, abs=0.1), "they are those of the batch"
    assert training.weights is not None
    assert torch.equal(training.weights, balancing_weights(present))
    state = training.ema.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


class KillError(Exception):
    """Stands for kill -9 between two steps."""


def test_it_resumes_between_two_updates_of_the_teacher(
    noise: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(state: Path | None = None) -> SegmentationNetwork:
        network, resume = fresh(), ResumeFile(state, "fingerprint", 0.0) if state else None
        own = settings(ema=0.5, epochs=2, first_check=6, check_every=1, update_after=6)
        dt_st.align(network, noise, own, Run("align", 7, CPU, resume))
        return network

    undisturbed, step, steps = trained(), Training._step, 0

    def killed(self: Training[Any], *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KillError
        return step(self, *args)

    monkeypatch.setattr(Training, "_step", killed)
    with pytest.raises(KillError):
        trained(tmp_path / "state.pt")
    monkeypatch.undo()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert len(saved["ema"]["watched"]) == saved["step"] == 4
    continued = trained(tmp_path / "state.pt")
    for (name, mine), theirs in zip(undisturbed.state_dict().items(), continued.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert not torch.equal(undisturbed.backbone.conv1.weight, fresh().backbone.conv1.weight)
