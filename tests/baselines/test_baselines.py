"""What every baseline promises, on a tiny network: what it changes, and the same bits whatever happens."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from atp.data.folder import list_samples
from atp.data.loading import Images, TrainingImages
from atp.errors import InputError
from atp.losses.entropy import entropy_loss
from atp.method.choice import align_with, chosen, method_named
from atp.method.settings import ALIGN, AlignSettings, align_methods
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.loop import History, Training
from atp.training.prediction import reestimate_batchnorm
from atp.training.run import Run
from atp.training.runtime import Runtime

CONFIG = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3)
CPU = Runtime(torch.device("cpu"))
SHORT = {
    "cbst": {"rounds": 3, "epochs": 1},
    "urma": {"epochs": 2},
    "cotta": {"ema": 0.5, "scales": [1.0, 1.5]},
    "dt_st": {"ema": 0.5, "first_check": 2, "check_every": 1, "update_after": 2},
    "mic": {"confidence": 0.3},
    "ubna": {"batches": 4, "batch_size": 2},
}
"""What few steps need to show an effect."""
LONE = {"min_ent": {"weight": 1.0}}
"""Published beside a loss of the source, and of no effect in a few steps without it."""
NAMES = [method.removeprefix("baselines/") for method in align_methods() if method != ALIGN]
every_baseline = pytest.mark.parametrize("name", NAMES)


class KillError(Exception):
    """Stands for kill -9 between two steps."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TrainingImages:
    """Six images, bright at the right."""
    folder = tmp_path_factory.mktemp("images")
    draw = torch.Generator().manual_seed(0)
    for index in range(6):
        pixels = torch.randint(60, (16, 24, 3), generator=draw)
        pixels[:, 3 * index :] += 150
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{index}.png")
    return TrainingImages(list_samples(folder), section("").augmentation)


def section(name: str, **settings: Any) -> AlignSettings:
    """The section ``align`` with a baseline of this name; empty is ATP's own method."""
    tree: dict[str, Any] = {"epochs": 2, "batch_size": 2, "lr": 0.02}
    if name:
        tree |= {"method": f"baselines/{name}", "baseline": settings or SHORT.get(name, {})}
    return AlignSettings.model_validate(tree)


def align(network: SegmentationNetwork, images: TrainingImages, section: AlignSettings, run: Run) -> History:
    """As the stage calls the method that the section names."""
    return method_named(section.method).align(network, images, chosen(section), run)


def fresh() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(CONFIG)


def adapted(images: TrainingImages, name: str, state: Path | None = None) -> tuple[SegmentationNetwork, History]:
    network = fresh()
    resume = ResumeFile(state, "fingerprint", 0.0) if state else None
    return network, align(network, images, section(name), Run("align", 7, CPU, resume))


def changed(network: SegmentationNetwork) -> set[str]:
    """Names of what is no longer as it was."""
    before = fresh().state_dict()
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def test_there_is_a_baseline_for_each_that_the_paper_compares_with() -> None:
    assert set(NAMES) >= {
        "batchnorm", "tent", "min_ent", "max_square", "information_maximization", "cbst", "urma"
    }  # fmt: skip


@every_baseline
def test_it_changes_what_it_promises(images: TrainingImages, name: str) -> None:
    network, history = adapted(images, name)
    names = changed(network)
    assert names
    assert network.state_dict().keys() == fresh().state_dict().keys()
    assert not network.head._forward_hooks
    if name in ("batchnorm", "tent", "ubna"):
        layers = {key for key, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
        assert {key.rpartition(".")[0] for key in names} <= layers
        assert any(key.endswith(".weight") for key in names) == (name == "tent")
    elif name == "information_maximization":
        assert not any(key.startswith("classifier") for key in names)
    else:
        assert {key for key, _ in network.named_parameters()} <= names
    assert bool(history) == chosen(section(name)).trains


@every_baseline
def test_killed_it_ends_with_the_same_bits(
    images: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    undisturbed, history = adapted(images, name)
    state, step, steps = tmp_path / "state.pt", Training._step, 0

    def killed(self: Training[Any], *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KillError
        return step(self, *args)

    if history:
        monkeypatch.setattr(Training, "_step", killed)
        with pytest.raises(KillError):
            adapted(images, name, state)
        monkeypatch.undo()
        assert list(tmp_path.glob("state*.pt")), "it was half done"
    continued, history_continued = adapted(images, name, state)
    assert history == history_continued
    for (key, mine), theirs in zip(undisturbed.state_dict().items(), continued.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), key


@pytest.mark.parametrize("name", ["tent", "min_ent", "urma"])
def test_entropy_falls(images: TrainingImages, name: str) -> None:
    history = align(fresh(), images, section(name, epochs=6, lr_factor=5.0, **LONE.get(name, {})), Run("align", 7, CPU))
    entropy = history.get("entropy", history["loss"])
    assert entropy[-1] < entropy[0] - 0.005


def test_batchnorm_is_the_baseline_of_evaluate(images: TrainingImages) -> None:
    network, _ = adapted(images, "batchnorm")
    other = fresh()
    reestimate_batchnorm(other, images.samples, None, CPU)
    for mine, theirs in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@every_baseline
def test_it_can_begin_from_reestimated_batchnorm(
    images: TrainingImages, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    begun: list[dict[str, Tensor]] = []
    method = method_named(f"baselines/{name}")
    monkeypatch.setattr(method, "align", lambda network, *_: begun.append(copy.deepcopy(network.state_dict())))
    for settings in ({}, {"reestimate_batchnorm": True}):
        align_with(section(name, **settings), fresh(), Images(images.samples), Run("align", 7, CPU))
    expected = fresh()
    reestimate_batchnorm(expected, images.samples, None, CPU)
    assert same_bits(begun[0], fresh().state_dict())
    assert same_bits(begun[1], expected.state_dict())
    assert not same_bits(begun[0], begun[1])


def test_held_statistics_are_the_reestimated_ones(images: TrainingImages) -> None:
    network, target = fresh(), Images(images.samples)
    still = {"lr_factor": 1e-9, "batchnorm": "eval", "epochs": 1, "rounds": 1, "reestimate_batchnorm": True}
    align_with(section("cbst", **still), network, target, Run("align", 7, CPU))
    expected = fresh()
    reestimate_batchnorm(expected, images.samples, None, CPU)
    assert same_bits(dict(network.named_buffers()), dict(expected.named_buffers()))


def test_only_a_network_with_batchnorm_can_be_reestimated(images: TrainingImages) -> None:
    settings = section("min_ent", reestimate_batchnorm=True)
    with pytest.raises(InputError) as caught:
        align_with(settings, Plain(), Images(images.samples), Run("align", 7, CPU))
    assert str(caught.value) == (
        "params.yaml: align.baseline.reestimate_batchnorm: needs BatchNorm layers, which the network lacks; "
        "set it to false"
    )


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(first.values(), second.values(), strict=True))


def test_cbst_labels_more_in_each_round(images: TrainingImages) -> None:
    settings = {"rounds": 3, "epochs": 1, "portion": 0.2, "portion_step": 0.3, "portion_end": 0.7, "lr_factor": 1e-6}
    still = section("cbst", **settings, batchnorm="eval")
    recorded: list[int] = []
    history = align(fresh(), images, still, Run("align", 7, CPU, record=lambda step, means: recorded.append(step)))
    first, second, third = history["labelled"]
    # The portions of a network that hardly moves, and pixels that are labelled as another class than the most probable.
    assert 0.17 < first < 0.4
    assert 0.45 < second < 0.7
    assert 0.65 < third < 0.9
    assert first < second < third
    assert history["step"] == recorded == [3, 6, 9]


def test_its_own_rate_is_in_units_of_align_s() -> None:
    settings = chosen(section("min_ent", lr_factor=0.5, epochs=9))
    assert settings.lr == pytest.approx(0.01)
    assert settings.epochs == 9
    assert settings.batch_size == 2, "what it does not set is align's"
    assert chosen(section("min_ent", lr=0.3, lr_factor=0.5)).lr == 0.3


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cbst", {"lr": 0.4 * 0.02, "epochs": 2}),
        ("urma", {"lr": 0.2 * 0.02, "epochs": 2}),
        ("information_maximization", {"lr": 4 * 0.02}),
        ("tent", {"weight_decay": 0.0, "batchnorm": "train"}),
        ("cotta", {"lr": 0.02, "weight_decay": 0.0, "batchnorm": "eval", "ema": 0.999, "restore": 0.01}),
        ("dt_st", {"lr": 0.02, "classifier_lr_factor": 10, "batchnorm": "eval", "ema": 0.99}),
        ("mic", {"lr": 0.02, "batchnorm": "train", "ema": 0.999, "masked": 0.7, "confidence": 0.968}),
        ("ubna", {"batches": 50, "batch_size": 6, "first_momentum": 0.1, "momentum_decay": 0.08}),
    ],
)
def test_what_it_defines_is_published_whatever_align_has(name: str, published: dict[str, Any]) -> None:
    tree = {"epochs": 9, "batch_size": 2, "lr": 0.02, "weight_decay": 0.1, "batchnorm": "eval"}
    settings = chosen(AlignSettings.model_validate(tree | {"method": f"baselines/{name}"}))
    assert {key: getattr(settings, key) for key in published} == pytest.approx(published)


@pytest.mark.parametrize(
    ("name", "published"), [("min_ent", 0.001), ("max_square", 0.1), ("information_maximization", 1.0)]
)
def test_its_loss_has_its_published_weight_and_not_align_s(images: TrainingImages, name: str, published: float) -> None:
    def loss(alpha: float, **settings: float) -> float:
        mine = section(name, epochs=1, lr_factor=1e-9, **settings).model_copy(update={"alpha": alpha})
        return align(fresh(), images, mine, Run("align", 7, CPU))["loss"][0]

    assert loss(1.0) == loss(0.002) != 0
    assert loss(1.0) == pytest.approx(published * loss(1.0, weight=1.0), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "settings", "complaint"),
    [
        ("max_square", {"balnce": 0.1}, "align.baseline.balnce: unknown key; is it balance?"),
        (
            "max_square",
            {"balance": 2.0},
            "align.baseline.balance: must be at most 1",
        ),
        ("urma", {"decoders": "four"}, "align.baseline.decoders: must be a whole number"),
    ],
)
def test_wrong_settings_are_refused(
    images: TrainingImages, method: str, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError) as caught:
        align(fresh(), images, section(method, **settings), Run("align", 7, CPU))
    assert str(caught.value).startswith(complaint)


class Plain(SegmentationNetwork):
    """Without BatchNorm, and with a classifier that returns more than scores."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(num_classes=2))
        self.stem, self.classifier = nn.Conv2d(3, 4, 1), Wrapped()

    def scores(self, images: Tensor) -> Tensor:
        return self.classifier(self.stem(images))["scores"]


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"scores": self.conv(features)}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("batchnorm", "align.method: needs BatchNorm layers, which the network lacks"),
        ("tent", "align.method: needs BatchNorm layers, which the network lacks"),
        ("ubna", "align.method: needs BatchNorm layers, which the network lacks"),
        ("urma", "model.classifier: returns dict; urma needs a classifier that returns logits (N, C, h, w)"),
    ],
)
def test_a_network_that_a_baseline_cannot_adapt_is_refused(images: TrainingImages, name: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        align(Plain(), images, section(name), Run("align", 7, CPU))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", ["min_ent", "max_square", "information_maximization", "cbst", "cotta", "dt_st", "mic"])
def test_any_other_network_can_be_adapted(images: TrainingImages, name: str) -> None:
    torch.manual_seed(0)
    network = Plain()
    before = copy.deepcopy(network.stem.weight)
    align(network, images, section(name), Run("align", 7, CPU))
    assert not torch.equal(network.stem.weight, before)


def test_the_loss_that_tent_minimises_is_the_entropy(images: TrainingImages) -> None:
    _, history = adapted(images, "tent")
    network = fresh().train()
    batch = images.collate([images[index, 0] for index in range(6)])
    untrained = entropy_loss(network(batch.strong), batch.valid).item()
    assert history["loss"][0] == pytest.approx(untrained, abs=0.05)
