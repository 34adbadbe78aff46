"""Several trainings of one schedule are as one training, whether carried on in memory or in a file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from atp.data.loading import Batch, TrainingImages
from atp.data.settings import Augmentation
from atp.errors import InputError
from atp.losses.supervised import segmentation_cross_entropy
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.carried import Carried
from atp.training.ema import AveragedNetwork
from atp.training.loop import Training
from atp.training.run import Run
from atp.training.runtime import Runtime
from atp.training.settings import Optimisation
from tests.halves import halves

# A step sees all images, so that only its number counts.
SECTION = Optimisation(steps=3, batch_size=4, lr=0.02, warmup_steps=2, augmentation=Augmentation(flip=False))
RUN = Run("test", 7, Runtime(torch.device("cpu")))


class KillError(Exception):
    """Stands for kill -9 between two steps."""


@pytest.fixture
def images(tmp_path: Path) -> TrainingImages:
    """Four images whose bright half is class 1."""
    return halves(tmp_path, SECTION.augmentation)


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=2))


def cross_entropy(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"loss": segmentation_cross_entropy(model(batch.strong), batch.labels)}


def part(network: SegmentationNetwork, images: TrainingImages, carried: Carried, ema: float | None = None) -> nn.Module:
    """Train, and hand on the average if there is one."""
    average = AveragedNetwork(network, ema) if ema else None
    Training(network, SECTION, images, RUN, ema=average, carried=carried).run(cross_entropy)
    handed_on = average.network if average else network
    handed_on.release()
    return handed_on


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_parts_are_as_one_training(images: TrainingImages, tmp_path: Path, ema: float | None) -> None:
    whole = fresh()
    average = AveragedNetwork(whole, ema) if ema else None
    longer = SECTION.model_copy(update={"steps": 9})
    Training(whole, longer, images, RUN, ema=average).run(cross_entropy)
    one = average.network if average else whole

    in_memory, by_file, anew = fresh(), fresh(), fresh()
    carried = Carried(3)
    for number in range(3):
        in_memory = part(in_memory, images, carried, ema)
        folder = tmp_path / str(number)
        folder.mkdir()
        read = Carried.read(tmp_path / str(number - 1) / "state", 3)
        by_file = part(by_file, images, read, ema)
        read.write(folder / "state")
        anew = part(anew, images, Carried(), ema)
    for name, value in in_memory.state_dict().items():
        assert torch.equal(value, by_file.state_dict()[name]), name
    assert distance(in_memory, one) < 1e-4
    assert distance(anew, one) > 1e-2
    assert [(tmp_path / str(number) / "state").exists() for number in range(3)] == [True, True, False]
    assert (carried.done, carried.momentum, carried.weights) == (0, {}, {})


def test_only_the_weights_that_are_not_handed_on_are_kept(images: TrainingImages) -> None:
    for ema, kept in ((None, False), (0.5, True)):
        network, carried = fresh(), Carried(2)
        part(network, images, carried, ema)
        assert carried.done == 1
        assert carried.momentum.keys() == dict(network.named_parameters()).keys()
        assert bool(carried.weights) == kept
        for name, value in carried.weights.items():
            assert torch.equal(value, network.state_dict()[name])


def test_one_part_carries_nothing(images: TrainingImages, tmp_path: Path) -> None:
    plain, alone = fresh(), fresh()
    Training(plain, SECTION, images, RUN).run(cross_entropy)
    carried = Carried()
    part(alone, images, carried)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), alone.parameters(), strict=True))
    assert carried == Carried()
    carried.write(tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_part_that_was_killed_ends_with_the_same_bits(images: TrainingImages, tmp_path: Path) -> None:
    first = Carried(2)
    start = part(fresh(), images, first, 0.5).state_dict()
    first.write(tmp_path / "carried")

    def second(kill_at: int | None) -> tuple[dict[str, Tensor], Carried]:
        network, carried, calls = fresh(), Carried.read(tmp_path / "carried", 3), 0
        network.load_state_dict(start)
        average = AveragedNetwork(network, 0.5)
        resume = ResumeFile(tmp_path / "resume.pt", "fingerprint", 0.0) if kill_at else None

        def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise KillError
            return cross_entropy(model, batch)

        job = replace(RUN, resume=resume)
        Training(network, SECTION, images, job, ema=average, carried=carried).run(objective)
        return average.network.state_dict(), carried

    undisturbed, carried = second(None)
    with pytest.raises(KillError):
        second(2)
    assert (tmp_path / "resume.pt").exists()
    continued, carried_on = second(100)
    assert all(torch.equal(value, continued[name]) for name, value in undisturbed.items())
    for kind in ("momentum", "weights"):
        for name, value in getattr(carried, kind).items():
            assert torch.equal(value, getattr(carried_on, kind)[name]), name


def test_equal_contents_give_equal_bytes_and_a_file_is_read_whole_or_refused(
    images: TrainingImages, tmp_path: Path
) -> None:
    carried = Carried(2)
    part(fresh(), images, carried, 0.5)
    for name in ("a", "b"):
        carried.write(tmp_path / name)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    read = Carried.read(tmp_path / "a", 2)
    assert (read.done, read.momentum.keys(), read.weights.keys()) == (
        1,
        carried.momentum.keys(),
        carried.weights.keys(),
    )
    assert Carried.read(tmp_path / "a", 1) == Carried.read(tmp_path / "none", 1) == Carried()
    assert Carried.read(tmp_path / "none", 2) == Carried(2)
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    save_file(load_file(tmp_path / "a"), tmp_path / "plain")
    for name in ("half", "plain"):
        with pytest.raises(InputError, match=f"{name}: not a complete training state .*run its round again"):
            Carried.read(tmp_path / name, 2)
