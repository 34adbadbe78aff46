"""How often easy images are drawn, and what every variant of mixing promises."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from atp.data.folder import list_samples
from atp.data.loading import FolderLabels, ImageCache, PairBatch, PairedImages, TrainingImages
from atp.data.settings import Augmentation
from atp.method.propagate import propagate, rarity_weights
from atp.method.settings import PropagateSettings, mixes
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.contrast import RegionalContrast
from atp.training.loop import Training
from atp.training.run import Run
from atp.training.runtime import Runtime


def test_no_balance_draws_evenly() -> None:
    assert rarity_weights([torch.tensor([1, 2])], 0.0) is None


def test_rare_classes_come_up_more_often() -> None:
    common, rare = torch.tensor([90, 0]), torch.tensor([80, 10])
    weights = rarity_weights([common, common, rare], 1.0)
    assert weights is not None
    assert weights[2] > 2 * weights[0]
    assert weights.mean() == pytest.approx(1)


def test_worked_by_hand() -> None:
    # Shares overall: 3/4 and 1/4. Image 1: 1 / (3/4) = 4/3; image 2: (1/2) / (3/4) + (1/2) / (1/4) = 8/3; mean 2.
    weights = rarity_weights([torch.tensor([2, 0]), torch.tensor([1, 1])], 1.0)
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 3, 4 / 3])
    half = rarity_weights([torch.tensor([2, 0]), torch.tensor([1, 1])], 0.5)
    assert half is not None
    assert half.tolist() == pytest.approx([5 / 6, 7 / 6])


def test_an_image_without_labels_and_an_absent_class_are_no_trouble() -> None:
    weights = rarity_weights([torch.tensor([0, 0, 0]), torch.tensor([5, 5, 0])], 0.5)
    assert weights is not None
    assert weights.isfinite().all()
    assert (weights > 0).all()


CONFIG = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=2)
MIXES = tuple(mixes())


class KillError(Exception):
    """Stands for kill -9 between two steps."""


@pytest.fixture
def pairs(tmp_path: Path) -> PairedImages:
    """Four easy and four hard images whose bright half is class 1."""
    for index in range(8):
        ids = torch.zeros(16, 24, dtype=torch.uint8)
        ids[:, 3 * index :] = 1
        for kind, array in (("images", (ids * 200)[..., None].expand(-1, -1, 3)), ("labels", ids)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array.numpy()).save(tmp_path / kind / f"{index}.png")
    samples = list_samples(tmp_path / "images", tmp_path / "labels")
    augmentation = Augmentation(jitter=0.2)
    easy = TrainingImages(samples[:4], augmentation, labels=FolderLabels(2, None, ImageCache(1)))
    return PairedImages(easy, TrainingImages(samples[4:], augmentation))


def section(mix: str, ema: float | None) -> PropagateSettings:
    return PropagateSettings.model_validate(
        {"epochs": 3, "batch_size": 2, "lr": 0.05, "mix": mix, "ema": ema, "hand_on": "ema" if ema else "student"}
    )


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(CONFIG)


def run(state: Path | None = None) -> Run:
    resume = ResumeFile(state, "fingerprint", 0.0) if state else None
    return Run("propagate", 7, Runtime(torch.device("cpu")), resume)


@pytest.mark.parametrize("ema", [0.9, None], ids=["ema", "itself"])
@pytest.mark.parametrize("mix", MIXES)
def test_every_variant_killed_ends_with_the_same_bits(
    pairs: PairedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: str, ema: float | None
) -> None:
    undisturbed, history = propagate(fresh(), pairs, section(mix, ema), run())
    steps = 0
    step = Training._step

    def killed(self: Training[PairBatch], *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KillError
        return step(self, *args)

    state = tmp_path / "state.pt"
    monkeypatch.setattr(Training, "_step", killed)
    with pytest.raises(KillError):
        propagate(fresh(), pairs, section(mix, ema), run(state))
    monkeypatch.undo()
    assert state.exists()
    continued, history_continued = propagate(fresh(), pairs, section(mix, ema), run(state))
    assert history == history_continued
    for (name, mine), theirs in zip(undisturbed.state_dict().items(), continued.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert ("contrast" in history) == (mix == "reco")
    assert not undisturbed.head._forward_hooks


def test_variants_differ(pairs: PairedImages) -> None:
    weights = [
        propagate(fresh(), pairs, section(mix, 0.9), run())[0].state_dict()["backbone.conv1.weight"] for mix in MIXES
    ]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(weights, 2))


def test_reco_s_head_learns_and_is_not_handed_on(pairs: PairedImages, tmp_path: Path) -> None:
    network, history = propagate(fresh(), pairs, section("reco", 0.9), run(tmp_path / "state.pt"))
    assert network.state_dict().keys() == fresh().state_dict().keys()
    assert all(math.isfinite(value) and value > 0 for value in history["contrast"])
    torch.manual_seed(7)
    initial = RegionalContrast(96).state_dict()
    learned = torch.load(tmp_path / "state.pt", weights_only=True)["extra"]
    assert learned["head.weight"].shape == initial["head.weight"].shape
    assert not torch.equal(learned["head.weight"], initial["head.weight"])
