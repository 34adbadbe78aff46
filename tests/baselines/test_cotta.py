"""CoTTA's labels, its teacher, and the restored weights."""

import pytest
import torch

from atp.baselines.cotta import RestoringTeacher, Settings, align, refined_labels
from atp.data.loading import TrainingImages
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.ema import AveragedNetwork
from atp.training.loop import History
from atp.training.prediction import Predictor
from atp.training.run import Run
from atp.training.runtime import Runtime

CPU = Runtime(torch.device("cpu"))


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=3))


def settings(**own: float) -> Settings:
    return Settings(epochs=1, batch_size=8, lr=1e-9, **own)


def test_labels_by_hand() -> None:
    plain = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]).T[None, :, None]
    averaged = torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.7, 0.3]]).T[None, :, None]
    confident = torch.tensor([[[True, False, False]]])
    valid = torch.tensor([[[True, True, False]]])
    assert refined_labels(plain, averaged, confident, valid).tolist() == [[[0, 0, 255]]]


def test_a_share_of_the_weights_is_restored_after_the_teacher_has_learned() -> None:
    network, source = fresh(), fresh()
    teacher = RestoringTeacher(network, source, settings(ema=0.75, restore=0.25), seed=7)
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(5.0)
    teacher.update(network)
    weights, original = network.backbone.conv1.weight, source.backbone.conv1.weight
    moved = weights == 5.0
    assert moved.float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert torch.equal(weights[~moved], original[~moved])
    # It learned from the student before; its decay is constant.
    expected = original + 0.25 * (5.0 - original)
    assert torch.allclose(teacher.network.backbone.conv1.weight, expected)


def test_each_step_restores_other_weights_the_same_in_every_process() -> None:
    def restored(seed: int, steps: int) -> list[torch.Tensor]:
        network = fresh()
        teacher = RestoringTeacher(network, fresh(), settings(restore=0.5), seed)
        masks = []
        for _ in range(steps):
            with torch.no_grad():
                network.backbone.conv1.weight.fill_(5.0)
            torch.rand(steps)  # what else is drawn has no effect
            teacher.update(network)
            masks.append(network.backbone.conv1.weight == 5.0)
        return masks

    first, second = restored(7, 2)
    assert torch.equal(first, restored(7, 1)[0])
    assert not torch.equal(first, second)
    assert not torch.equal(first, restored(8, 1)[0])


def trained(images: TrainingImages, network: SegmentationNetwork, own: Settings) -> History:
    return align(network, images, own, Run("align", 7, CPU))


def test_the_source_models_confidence_chooses_the_label(noise: TrainingImages) -> None:
    pixels = torch.stack([noise[index, 0][0] for index in range(8)])
    middle = Predictor([(fresh(), 1.0)], CPU).probabilities(pixels).amax(1).median()
    shares = [trained(noise, fresh(), settings(confidence=value))["confident"] for value in (0.0, middle.item(), 1.0)]
    assert shares == [[1.0], [pytest.approx(0.5, abs=0.01)], [0.0]]


def test_augmentations_count_where_the_source_model_is_not_confident(noise: TrainingImages) -> None:
    sure, unsure = (
        trained(noise, fresh(), settings(confidence=value, scales=(0.5, 2.0)))["loss"][0] for value in (0.0, 1.0)
    )
    # The untrained student's own most probable classes have the least cross-entropy.
    assert sure < unsure


def test_the_teacher_is_the_adapted_model(noise: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    students: list[SegmentationNetwork] = []
    update = AveragedNetwork.update

    def noted(self: AveragedNetwork, network: SegmentationNetwork) -> None:
        update(self, network)
        students.append(self.network)

    monkeypatch.setattr(AveragedNetwork, "update", noted)
    network = fresh()
    trained(noise, network, settings(ema=0.5).model_copy(update={"lr": 0.1}))
    assert len(students) == 1
    state = students[-1].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not torch.equal(network.backbone.conv1.weight, fresh().backbone.conv1.weight)
