"""Every preset is a whole parameter file that validates, builds, and says what its name promises."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from atp.models.network import build_network
from atp.params import load_params

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


def tree(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path)


def test_there_are_six() -> None:
    names = {"official", "paper", "paper-cross-city", "paper-synthia", "paper-vgg16", "streets"}
    assert {path.stem for path in PRESETS} == names


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_it_validates_and_builds(path: Path) -> None:
    params = load_params(path)
    config = params.model.model_copy(update={"num_classes": 19, "weights": "none"})
    with torch.device("meta"):  # shapes alone; a ResNet-101 takes seconds otherwise
        network = build_network(config)
    assert network.num_classes == 19


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_it_leaves_no_setting_of_the_default_file_out(path: Path) -> None:
    """Who copies it over params.yaml gets what it says, whatever the defaults become."""
    default, preset = tree(ROOT / "params.yaml"), tree(path)
    assert default.keys() == preset.keys()
    for section in default.keys() - {"rounds"}:
        assert default[section].keys() <= preset[section].keys(), section


def test_streets_is_the_default() -> None:
    same = (ROOT / "presets/streets.yaml").read_text() == (ROOT / "params.yaml").read_text()
    assert same, "params.yaml has changed: cp params.yaml presets/streets.yaml"


@pytest.mark.parametrize("name", ["paper-synthia", "paper-cross-city"])
def test_another_pair_s_preset_differs_in_its_data_alone(name: str) -> None:
    paper, other = tree(ROOT / "presets/paper.yaml"), tree(ROOT / f"presets/{name}.yaml")
    assert paper["register"].pop("name") != other["register"].pop("name")
    # As many steps on a source of another size.
    images = {"paper-synthia": 9400, "paper-cross-city": 2975}[name]
    assert other["source"].pop("epochs") * images == pytest.approx(paper["source"].pop("epochs") * 24966, rel=0.02)
    assert paper.pop("data") != other.pop("data")
    assert paper == other


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("paper", "resnet101"),
        ("paper-synthia", "resnet101"),
        ("paper-cross-city", "resnet101"),
        ("paper-vgg16", "vgg16"),
    ],
)
def test_the_text_s_values(name: str, backbone: str) -> None:
    params = load_params(ROOT / f"presets/{name}.yaml")
    assert params.model.backbone == backbone
    assert params.align is not None
    assert (params.align.alpha, params.align.gamma, params.align.sharpness) == (0.002, 3.0, 3.0)
    assert (params.dump.keep_ratio, params.dump.negative_threshold) == (0.65, 0.05)
    assert params.split.easy_ratio == 0.5
    for section in (params.align, params.teach, params.propagate):
        assert (section.epochs, section.lr) == (10, 2.5e-4)
    for head in (params.source, params.teach, params.propagate):
        assert head is not None
        assert head.lr * head.classifier_lr_factor == pytest.approx(2.5e-3)
    assert params.propagate.ema is None


def test_the_published_code_s_values() -> None:
    params = load_params(ROOT / "presets/official.yaml")
    align, propagate = params.align, params.propagate
    assert align is not None
    assert (align.alpha, align.gamma, align.diversity, align.sharpness) == (0.001, 5.0, 0.0001, 3.0)
    assert align.weight_grad == "full"
    assert params.dump.negative_threshold == 0.04
    assert params.split.easy_ratio == 0.3
    assert (propagate.mix, propagate.confidence, propagate.ema) == ("class_mix", 0.968, 0.999)
    assert params.teach.ema == 0.999
