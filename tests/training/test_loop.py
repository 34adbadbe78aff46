"""The training loop: learns, continues after a kill with the same bits, and stops at a loss that is not finite."""

import io
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atp.data.loading import Batch, PairedImages, TrainingImages
from atp.data.settings import Augmentation
from atp.errors import InputError
from atp.losses.supervised import segmentation_cross_entropy
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.ema import AveragedNetwork
from atp.training.loop import Training
from atp.training.run import Run
from atp.training.runtime import Runtime
from atp.training.settings import Optimisation
from tests.halves import halves

CONFIG = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=2)
SECTION = Optimisation(epochs=4, batch_size=2, lr=0.05, augmentation=Augmentation(flip=True, jitter=0.2))


class KillError(Exception):
    """Stands for kill -9 between two steps."""


@pytest.fixture
def images(tmp_path: Path) -> TrainingImages:
    """Four images whose bright half is class 1."""
    return halves(tmp_path, SECTION.augmentation)


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(CONFIG)


def cross_entropy(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    # Draws a random number as ClassMix or dropout would.
    noise = 0.01 * torch.rand(())
    return {"loss": segmentation_cross_entropy(model(batch.strong), batch.labels) + noise}


def run(path: Path | None = None, every_s: float = 0.0) -> Run:
    resume = ResumeFile(path, "fingerprint", every_s) if path else None
    return Run("test", 7, Runtime(torch.device("cpu")), resume)


def test_training_learns(images: TrainingImages) -> None:
    history = Training(fresh(), replace_epochs(20), images, run()).run(cross_entropy)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["step"] == list(range(2, 42, 2))


@pytest.mark.parametrize("killed", [False, True])
def test_a_number_of_steps_may_end_within_an_epoch(images: TrainingImages, tmp_path: Path, killed: bool) -> None:
    """Five steps of an epoch of two, by their own schedule, and recorded and saved at the last."""
    section = SECTION.model_copy(update={"epochs": None, "steps": 5})
    rates: list[float] = []
    seen: list[Tensor] = []

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        seen.append(batch.strong)
        if killed and len(seen) == 4:
            raise KillError
        return cross_entropy(model, batch)

    path = tmp_path / "state.pt"
    training = Training(fresh(), section, images, run(path))
    if killed:
        with pytest.raises(KillError):
            training.run(objective)
        training = Training(fresh(), section, images, run(path))
    history = training.run(lambda model, batch: (rates.append(0), objective(model, batch))[1])
    assert history["step"] == [2, 4, 5]
    assert len(rates) == (3 if killed else 5)
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 5
    # The poly schedule of five steps has ended.
    assert [group["lr"] for group in saved["optimizer"]["param_groups"]] == [0, 0]
    whole = Training(fresh(), SECTION, images, run())
    if not killed:
        epochs: list[Tensor] = []
        whole.run(lambda model, batch: (epochs.append(batch.strong), cross_entropy(model, batch))[1])
        assert all(torch.equal(a, b) for a, b in zip(seen, epochs[:5], strict=True))


def replace_epochs(epochs: int) -> Optimisation:
    return SECTION.model_copy(update={"epochs": epochs})


@pytest.mark.parametrize("killed_at", [1, 3, 4, 7])
def test_a_killed_run_ends_with_the_same_bits(images: TrainingImages, tmp_path: Path, killed_at: int) -> None:
    def train(resume: Path | None, kill_at: int | None = None) -> tuple[SegmentationNetwork, AveragedNetwork, object]:
        network = fresh()
        average = AveragedNetwork(network, 0.9)
        calls = 0

        def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise KillError
            return cross_entropy(model, batch)

        history = Training(network, SECTION, images, run(resume), ema=average).run(objective)
        return network, average, history

    undisturbed = train(None)
    state = tmp_path / "state.pt"
    with pytest.raises(KillError):
        train(state, killed_at)
    assert state.exists() == (killed_at > 2), "saved where figures are recorded, every second step here"
    continued = train(state)
    for first, second in zip(undisturbed[:2], continued[:2], strict=True):
        network, other = (getattr(part, "network", part) for part in (first, second))
        for (name, mine), theirs in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs), name
    assert undisturbed[2] == continued[2]


def test_the_average_is_placed_as_the_network_is(images: TrainingImages) -> None:
    network = fresh()
    average = AveragedNetwork(network, 0.9)
    Training(network, SECTION, images, run(), ema=average).run(cross_entropy)
    for each in (network, average.network):
        kernels = [parameter for parameter in each.parameters() if parameter.ndim == 4]
        assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.parametrize(
    ("scale", "crop", "rank", "warned"),
    [
        ((0.5, 2.0), None, 0, True),
        ((0.5, 2.0), (16, 16), 0, False),
        ((1.0, 1.0), None, 0, False),
        ((0.5, 2.0), None, 1, False),
    ],
)
@pytest.mark.parametrize("paired", [False, True])
def test_zoom_without_a_crop_is_reported(
    images: TrainingImages,
    caplog: pytest.LogCaptureFixture,
    scale: tuple[float, float],
    crop: tuple[int, int] | None,
    rank: int,
    warned: bool,
    paired: bool,
) -> None:
    section = SECTION.model_copy(update={"epochs": 1, "augmentation": Augmentation(scale=scale)})
    given: Any = TrainingImages(images.samples, section.augmentation, crop=crop)
    if paired:
        given = PairedImages(given, given)
    job = replace(run(), runtime=Runtime(torch.device("cpu"), rank=rank))

    def objective(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": model((batch.easy if paired else batch).strong).sum() * 0}

    Training(fresh(), section, given, job).run(objective)
    line = "test: augmentation.scale has no effect without random crops; set data.crop"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [line] * warned


@pytest.mark.parametrize(("warmup", "warned"), [(7, False), (8, True)])
def test_a_training_that_is_all_warm_up_is_reported(
    images: TrainingImages, caplog: pytest.LogCaptureFixture, warmup: int, warned: bool
) -> None:
    Training(fresh(), SECTION.model_copy(update={"warmup_steps": warmup}), images, run()).run(cross_entropy)
    line = f"test: all 8 steps are warm-up ({warmup}), so the learning rate stays low"
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(";")[0] for text in told] == [line] * warned


def test_another_runs_state_is_refused(images: TrainingImages, tmp_path: Path) -> None:
    Training(fresh(), SECTION, images, run(tmp_path / "state.pt")).run(cross_entropy)
    job = run(tmp_path / "state.pt")
    assert job.resume is not None
    job = replace(job, resume=replace(job.resume, fingerprint="another"))
    with pytest.raises(InputError, match="training state from other inputs, parameters or code"):
        Training(fresh(), SECTION, images, job).run(cross_entropy)


def test_a_damaged_state_is_told(images: TrainingImages, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"half")
    with pytest.raises(InputError, match=r"state\.pt: .*delete it to restart the stage"):
        Training(fresh(), SECTION, images, run(tmp_path / "state.pt")).run(cross_entropy)


def saved(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def test_a_flipped_bit_of_a_state_changes_nothing_unnoticed(images: TrainingImages, tmp_path: Path) -> None:
    file = ResumeFile(tmp_path / "state.pt", "fingerprint")
    Training(fresh(), SECTION, images, replace(run(), resume=file)).run(cross_entropy)
    blob, whole, chance = file.path.read_bytes(), saved(file.load()), random.Random(0)
    found = 0
    for _ in range(200):
        damaged = bytearray(blob)
        damaged[chance.randrange(len(blob))] ^= 1 << chance.randrange(8)
        file.path.write_bytes(damaged)
        with suppress(InputError):
            assert saved(file.load()) == whole
            continue
        found += 1
    # The rest is padding between the tensors.
    assert found > 150


def test_a_loss_that_is_not_finite_ends_training(images: TrainingImages) -> None:
    def broken(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": model(batch.strong).sum() * float("nan")}

    with pytest.raises(InputError, match=r"test: the loss is nan by step 2; lower test\.lr"):
        Training(fresh(), SECTION, images, run()).run(broken)


def test_batchnorm_in_eval_mode_keeps_its_statistics(images: TrainingImages) -> None:
    section = SECTION.model_copy(update={"batchnorm": "eval"})
    network = fresh()
    before = {name: value.clone() for name, value in network.named_buffers()}
    Training(network, section, images, run()).run(cross_entropy)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_figures_are_recorded_as_training_goes_on(images: TrainingImages) -> None:
    seen: list[int] = []
    job = replace(run(), record=lambda step, figures: seen.append(step))
    Training(fresh(), SECTION, images, job).run(cross_entropy)
    assert seen == [2, 4, 6, 8]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_same_seed_same_bits(images: TrainingImages, dtype: torch.dtype | None) -> None:
    def train() -> SegmentationNetwork:
        network = fresh()
        Training(network, SECTION, images, replace(run(), runtime=Runtime(torch.device("cpu"), dtype))).run(
            cross_entropy
        )
        return network

    for mine, theirs in zip(train().parameters(), train().parameters(), strict=True):
        assert torch.equal(mine, theirs)
