"""Algorithm 1 as a whole: what follows what, and which network labels."""

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from atp.data.folder import list_samples
from atp.data.loading import Images
from atp.errors import InputError
from atp.method.adapt import adapt
from atp.method.dump import dump
from atp.method.settings import STRONG, AdaptSettings, PropagateSettings
from atp.method.teach import teach
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.loop import Training
from atp.training.run import part_seed
from atp.training.runtime import Runtime

CONFIG = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3)
SHORT: dict[str, Any] = {
    "align": {"epochs": 1, "batch_size": 2},
    "teach": {"epochs": 1, "batch_size": 2, "warmup_steps": 0},
    "propagate": {"epochs": 1, "batch_size": 2},
}


@pytest.fixture
def target(tmp_path: Path) -> Images:
    """Six images of 24x16."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(6):
        pixels = generator.integers(0, 255, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{index}.png")
    return Images(list_samples(tmp_path / "images"))


@pytest.fixture
def source() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(CONFIG)


@pytest.fixture
def run(target: Images, tmp_path: Path) -> Any:
    """``run(network, "name", **settings)`` adapts with the labels in the folder of that name."""

    def adapted(network: SegmentationNetwork, name: str, **changes: Any) -> SegmentationNetwork:
        settings = AdaptSettings(**SHORT | changes)
        return adapt(network, target, settings, Runtime(torch.device("cpu")), tmp_path / name)

    return adapted


def state(network: SegmentationNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_part_by_part_is_the_whole(source: SegmentationNetwork, run: Any) -> None:
    before = state(source)
    whole = run(source, "whole")
    aligned = run(source, "aligned", rounds=0, propagate=None)
    taught = run(aligned, "taught", align=None, propagate=None)
    parts = run(taught, "parts", align=None, rounds=0)
    assert same(state(whole), state(parts))
    for earlier, later in ((source, aligned), (aligned, taught), (taught, parts)):
        assert not same(state(earlier), state(later))
    assert same(before, state(source)), "the source model stays"
    assert not whole.training
    assert all(parameter.requires_grad for parameter in whole.parameters())


def test_what_is_left_out_writes_no_labels(source: SegmentationNetwork, run: Any, tmp_path: Path) -> None:
    run(source, "none", align=None, rounds=0, propagate=None)
    assert not (tmp_path / "none").exists()
    run(source, "one", align=None, propagate=None)
    assert [path.parent for path in (tmp_path / "one").glob("**/table.json")] == [tmp_path / "one/dump/r01"]


def test_every_round_and_the_split_label_with_the_network_of_the_moment(
    source: SegmentationNetwork, run: Any, tmp_path: Path
) -> None:
    run(source, "labels", rounds=2)
    tables = [PseudoLabelStore(tmp_path / "labels" / name).table for name in ("dump/r01", "dump/r02", "split")]
    assert len({str(table["images"]) for table in tables}) == 3


def test_the_source_model_has_its_share_of_the_labels(source: SegmentationNetwork, run: Any, tmp_path: Path) -> None:
    def entropies(name: str) -> dict[str, float]:
        return PseudoLabelStore(tmp_path / name / "dump/r01").entropies

    run(source, "source", align=None, propagate=None)
    gaps = []
    for name, share in (("without", 0.0), ("with", 0.999)):
        # Far away from the source model, so that the labels show whose they are.
        run(source, name, align=SHORT["align"] | {"lr": 0.5}, propagate=None, dump={"source_weight": share})
        gaps.append(max(abs(entropies(name)[image] - value) for image, value in entropies("source").items()))
    assert gaps[1] < 0.02 * gaps[0]


def test_what_was_frozen_learns(source: SegmentationNetwork, run: Any) -> None:
    free = run(source, "free", rounds=0, propagate=None)
    source.requires_grad_(False)
    assert same(state(free), state(run(source, "frozen", rounds=0, propagate=None)))


def test_a_mapping_says_what_differs_from_the_default() -> None:
    default = AdaptSettings()
    values: dict[str, Any] = {"teach": {"epochs": 2, "augmentation": {"jitter": 0.1}}, "propagate": None, "rounds": 2}
    changed = AdaptSettings(**values)
    augmentation = STRONG.model_copy(update={"jitter": 0.1})
    assert changed.teach == default.teach.model_copy(update={"epochs": 2, "augmentation": augmentation})
    assert (changed.propagate, changed.rounds, changed.align) == (None, 2, default.align)
    assert changed.model_copy().teach.steps is None
    by_steps = AdaptSettings(teach={"steps": 7}).teach  # type: ignore[arg-type]
    assert by_steps == default.teach.model_copy(update={"epochs": None, "steps": 7})
    own = PropagateSettings(epochs=1, batch_size=1, lr=0.1)
    assert AdaptSettings(propagate=own).propagate == own, "whole settings are taken as they are"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sise": (32, 24)}, "sise: no such setting; is it size?"),
        ({"teach": {"epoch": 2}}, "teach.epoch: no such setting; is it epochs?"),
        ({"align": {"augmentation": {"jiter": 0.1}}}, "align.augmentation.jiter: no such setting; is it jitter?"),
        ({"taught": {}}, f"taught: no such setting; known here: {', '.join(AdaptSettings.model_fields)}"),
        ({"teach": {"epochs": 0}}, "teach.epochs: must be at least 1, not 0"),
        ({"propagate": {"hand_on": "em"}}, "propagate.hand_on: must be ema or student, not 'em'"),
        ({"propagate": {"mix": "cutmix"}}, "propagate: mix cutmix: no such mix; is it cut_mix?"),
        ({"seed": -1, "rounds": -1}, "seed: must be at least 0, not -1 (2 alike, also rounds)"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        AdaptSettings(**values)
    assert str(caught.value) == f"AdaptSettings: {message}"
    shown = "".join(traceback.format_exception(caught.value))
    assert "pydantic_core" not in shown, "one line alone ends the script"


@dataclass(frozen=True)
class Watched(Runtime):
    """Keeps the networks whose buffers are shared."""

    shared: list[Any] = field(default_factory=list)

    def share_buffers(self, network: nn.Module) -> None:
        self.shared.append(network)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_every_part_has_its_stages_name_and_seed(
    source: SegmentationNetwork, target: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """By their names they draw as the pipeline's stages do."""
    jobs, labelled, thresholds, carried = [], [], [], []

    def train(self: Training[Any], objective: Any) -> dict[str, list[float]]:
        jobs.append((self.job.name, self.job.seed, self.weights is not None))
        return {}

    def taught(*args: Any) -> Any:
        thresholds.append((args[3].negative_threshold, args[3].negative_cap))
        carried.append(args[5])
        return teach(*args)

    def watched(networks: Any, *args: Any, **kwargs: Any) -> Any:
        labelled.append((kwargs["name"], [part for _, part in networks], networks[-1][0] is source))
        return dump(networks, *args, **kwargs)

    monkeypatch.setattr(Training, "run", train)
    monkeypatch.setattr("atp.method.adapt.dump", watched)
    monkeypatch.setattr("atp.method.adapt.teach", taught)
    runtime = Watched(torch.device("cpu"))
    short = SHORT | {"teach": SHORT["teach"] | {"rounds_per_schedule": 3}}
    settings = AdaptSettings(
        **short, seed=5, rounds=2, dump={"source_weight": share, "negative_threshold": 0.07, "negative_cap": False}
    )
    adapted = adapt(source, target, settings, runtime, tmp_path / "labels")
    names = ["align", "teach@r01", "teach@r02", "propagate"]
    # Propagate alone draws some images more often than others.
    assert jobs == [(name, part_seed(5, name), name == "propagate") for name in names]
    assert carried[0] is carried[1], "what goes on from round to round"
    assert carried[0].parts == 3
    assert thresholds == [(0.07, False)] * 2
    parts = [0.75, 0.25] if share else [1.0]
    assert labelled == [(name, parts, bool(share)) for name in ("dump@r01", "dump@r02", "split")]
    # After each part, what the processes have must be one and the same.
    assert len(runtime.shared) == 4
    assert runtime.shared[-1] is adapted
    assert all(isinstance(network, SegmentationNetwork) for network in runtime.shared)
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["dump", "split"]
