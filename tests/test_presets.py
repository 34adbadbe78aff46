"""Every preset is a whole parameter file that validates, builds, and says what its name promises."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from atp.datasets.label_maps import CLASS_SETS
from atp.models.network import build_network
from atp.params import load_params

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
TEXT = ROOT.parent / "shared/paper.txt"

_SGD = "learning rate 2.5x 10-4, momentum 0.9, and weight decay 5x 10-4"
_OPTIMISATION = {
    "lr": (2.5e-4, _SGD),
    "momentum": (0.9, _SGD),
    "weight_decay": (5e-4, _SGD),
    "power": (0.9, "the learning rate is multiplied by (1 - iter max iter ) 0.9"),
}
_CLASSIFIER = {"classifier_lr_factor": (10.0, "the classifier is optimized with the learning rate 2.5x 10-3")}
PRINTED: dict[str, tuple[Any, str]] = {
    "model.backbone": ("resnet101", "the DeepLab [6] architecture with ResNet-101 [30]"),
    "model.weights": ("imagenet", "pre-trained on ImageNet [16]"),
    "source.steps": (80_000, "80k iterations to obtain a high-quality source model"),
    **{f"align.{name}": entry for name, entry in _OPTIMISATION.items()},
    "align.alpha": (0.002, "choose @ = 0.002 from the range"),
    "align.gamma": (3.0, "the value of @ is selected as 3"),
    "align.sharpness": (3.0, "we empirically set @ = 3 in all experiments"),
    "align.weighted": (True, "confidence-weighted diversity objective"),
    "align.per_image": (True, "is the weighted mean output embedding of the target image xt"),
    "align.freeze_classifier": (True, "In the entropy min- imization stage, we fix the classifier"),
    "dump.keep_ratio": (0.65, "top K = 65% target predictions"),
    "dump.negative_threshold": (0.05, "@neg is assigned as 0.05"),
    "dump.negative_cap": (False, "where @neg is the negative threshold"),
    "teach.epochs": (1, "We update pseudo labels epoch by epoch"),
    **{f"teach.{name}": entry for name, entry in (_OPTIMISATION | _CLASSIFIER).items()},
    "teach.positive": (1.0, "Lbst = Lppl + Lnpl"),
    "teach.negative": (1.0, "Lbst = Lppl + Lnpl"),
    "teach.negatives": ("dumped", "to epochs do 13 Get negative pseudo labels"),
    "split.easy_ratio": (0.5, "ranked top 50% as the easy group"),
    **{f"propagate.{name}": entry for name, entry in (_OPTIMISATION | _CLASSIFIER).items()},
    "propagate.mix": ("class_mix", "the best result obtained from Class- Mix model (f)"),
    "propagate.ema": (None, "of target modelMt without gradient optimization"),
    "propagate.consistency": (1.0, "Lssl =Lce(Mt(xte), y\u0302te)+"),
    "propagate.negative": (0.0, "Lssl =Lce(Mt(xte), y\u0302te)+"),
    "propagate.hand_on": ("student", "25 ReturnMt"),
}
"""What presets/paper.yaml marks as the paper's, with a piece of the sentence that prints it."""

OTHERWISE: dict[str, dict[str, tuple[Any, str] | None]] = {
    "paper": {},
    "paper-synthia": {
        "data.protocols": ({"classes_13": list(CLASS_SETS[13])}, "54.8 33.7 58.3 49.0 57.9"),
    },
    "paper-cross-city": {},
    "paper-vgg16": {
        "model.backbone": ("vgg16", "we utilize VGG-16 [85] networks as a seg- mentation feature extractor"),
        "model.weights": None,
    },
}
"""Where another of the paper's presets differs in that."""


def marks(path: Path) -> dict[str, str]:
    """Whose each value is, by the first comment beside it."""
    found, section = {}, ""
    for line in path.read_text().splitlines():
        if top := re.match(r"(\w+):", line):
            section = top[1]
        if marked := re.match(r"  (\w+):.*?# (Paper|Official code|Field|Ours):", line):
            found[f"{section}.{marked[1]}"] = marked[2]
    return found


def tree(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path)


def test_there_are_seven() -> None:
    names = {"given-model", "official", "paper", "paper-cross-city", "paper-synthia", "paper-vgg16", "streets"}
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
    # A network of another kind has none of the settings of ATP's own.
    other = {"model"} if "factory" in preset["model"] else set()
    for section in default.keys() - {"rounds"} - other:
        assert default[section].keys() <= preset[section].keys(), section


def test_streets_is_the_default() -> None:
    same = (ROOT / "presets/streets.yaml").read_text() == (ROOT / "params.yaml").read_text()
    assert same, "params.yaml has changed: cp params.yaml presets/streets.yaml"


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_marked_as_the_paper_s_is_printed_and_nothing_else(name: str) -> None:
    path = ROOT / f"presets/{name}.yaml"
    printed = {key: entry for key, entry in (PRINTED | OTHERWISE[name]).items() if entry is not None}
    assert {key for key, mark in marks(path).items() if mark == "Paper"} == printed.keys()
    values = tree(path)
    for key, (value, _) in printed.items():
        section, entry = key.split(".")
        assert values[section][entry] == value, key


@pytest.mark.parametrize("name", [*OTHERWISE, "official"])
def test_the_source_model_s_optimiser_is_ours(name: str) -> None:
    """Sec. 4.2 prints the optimiser without saying whether it is the source model's, too."""
    marked = marks(ROOT / f"presets/{name}.yaml")
    assert {marked[f"source.{setting}"] for setting in _OPTIMISATION | _CLASSIFIER} == {"Ours"}


@pytest.mark.skipif(not TEXT.is_file(), reason="needs the paper's text in ../shared/paper.txt")
def test_what_is_said_to_be_printed_stands_in_the_text() -> None:
    text = " ".join(TEXT.read_text().split())
    for letter, instead in {"\u00d7": "x", "\u2212": "-", "\u03b1": "@", "\u03b3": "@", "\u03bb": "@"}.items():
        text = text.replace(letter, instead)
    for key, entry in [*PRINTED.items(), *(item for entries in OTHERWISE.values() for item in entries.items())]:
        assert entry is None or entry[1] in text, key
    assert "is empirically set as 10." in text, "the epochs of self-training, each of them a round"


@pytest.mark.parametrize("name", OTHERWISE)
def test_pseudo_labels_are_updated_epoch_by_epoch_for_ten_epochs(name: str) -> None:
    params = load_params(ROOT / f"presets/{name}.yaml")
    assert [str(entry.model) for entry in params.rounds.values()] == [
        "runs/align",
        *(f"runs/teach/r{number:02}" for number in range(1, 10)),
    ]
    assert (params.teach.epochs, str(params.split.model)) == (1, "runs/teach/r10")


@pytest.mark.parametrize("name", ["paper-synthia", "paper-cross-city"])
def test_another_pair_s_preset_differs_in_its_data_alone(name: str) -> None:
    paper, other = tree(ROOT / "presets/paper.yaml"), tree(ROOT / f"presets/{name}.yaml")
    assert paper["register"].pop("name") != other["register"].pop("name")
    assert paper.pop("data") != other.pop("data")
    assert paper == other


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
    for section in (align, params.teach, propagate):
        assert (section.power, section.warmup_steps) == (1.0, 1500)
    path = ROOT / "presets/official.yaml"
    values = tree(path)
    for key in [key for key, mark in marks(path).items() if mark == "Paper"]:
        section_name, entry = key.split(".")
        assert values[section_name][entry] == PRINTED[key][0], key
