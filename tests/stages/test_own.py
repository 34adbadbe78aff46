"""The whole pipeline with networks that nobody here wrote, and with a source model that has other classes."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large, lraspp_mobilenet_v3_large
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from atp.data.tensors import read_image, read_label
from atp.evaluation.metrics import ConfusionMatrix
from atp.export import export_state
from atp.models.checkpoint import load_checkpoint, load_user_state, network_from_checkpoint
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.normalisation import has_batchnorm
from tests import warm
from tests.stages.launch import ORDER, RunStage, forkserver, set_params, stage_process

ROOT = Path(__file__).parents[2]
ONE_ROUND = [stage for stage in ORDER if stage[-1] != "r02"]
MASK2FORMER: dict[str, Any] = {
    **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
    **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 8),
    **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 1, "num_queries": 5, "num_labels": 3},
}
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2}


@dataclass(frozen=True)
class Case:
    """A network of somebody else's.

    Attributes:
        model: the section of params.yaml.
        make: the same without ATP.
        wrap: how its checkpoint is written; None if the source model is trained here.
        scores: what its output holds them as.
        settings: that differ, by section of params.yaml.
    """

    model: dict[str, Any]
    make: Callable[[], nn.Module]
    wrap: Callable[[dict[str, torch.Tensor], Path], None] | None
    scores: Callable[[Any], torch.Tensor]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def saved(wrapped: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[dict[str, torch.Tensor], Path], None]:
    return lambda state, path: torch.save(wrapped(state), path)


def mask2former() -> nn.Module:
    backbone = SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone, **MASK2FORMER))


def as_folder(state: dict[str, torch.Tensor], path: Path) -> None:
    """As transformers writes a model; the folder has the name that other networks' files have."""
    model = mask2former()
    model.load_state_dict(state)
    model.save_pretrained(path)


def query_scores(output: Any) -> torch.Tensor:
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    return torch.einsum("nqc,nqhw->nchw", classes, output.masks_queries_logits.sigmoid()).log()


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


SMP = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3}
CASES = {
    "lraspp": Case(
        {
            "network": "torchvision:lraspp_mobilenet_v3_large",
        },
        lambda: lraspp_mobilenet_v3_large(num_classes=3, weights_backbone=None),
        None,
        lambda output: output["out"],
    ),
    "deeplabv3": Case(
        {
            "factory": "torchvision.models.segmentation:deeplabv3_mobilenet_v3_large",
            "arguments": {"num_classes": 3, "weights_backbone": None, "aux_loss": True},
            "classifier": "classifier",
        },
        lambda: deeplabv3_mobilenet_v3_large(num_classes=3, weights_backbone=None, aux_loss=True),
        saved(lambda state: {"state_dict": prefixed(state, "module."), "epoch": 3}),
        lambda output: output["out"],
    ),
    "unet": Case(
        {
            "factory": "segmentation_models_pytorch:Unet",
            "arguments": SMP,
            "classifier": "segmentation_head",
            "divisor": 32,
            "channels": "bgr",
        },
        lambda: smp.Unet(**SMP),
        saved(lambda state: {"model": state}),
        lambda output: output,
    ),
    "fpn": Case(
        {
            "network": "smp:FPN?encoder_name=resnet18",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        lambda: smp.FPN(**SMP),
        save_file,
        lambda output: output,
    ),
    # Without BatchNorm.
    "mask2former": Case(
        {"network": "hf:data/source/model.pth", "divisor": 32},
        mask2former,
        as_folder,
        query_scores,
        {"training": {"precision": "bf16"}},
    ),
}


@pytest.fixture(scope="module")
def smaller(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the tiny project's images, and one epoch of everything."""
    project = Path(shutil.copytree(template, tmp_path_factory.mktemp("smaller") / "project"))
    for split, kept in (("source", 4), ("target", 4), ("test", 2)):
        for path in (project / "data" / split).rglob("*.png"):
            if int(path.stem) >= kept:
                path.unlink()
    # 48 lines are no multiple of 32, and some encoders want one.
    set_params(project, "data", size=[64, 48])
    set_params(project, "runtime", save_every_s=30)
    set_params(project, "evidence", images=2)
    for stage in ("source", "align", "teach", "propagate"):
        set_params(project, stage, epochs=1, batch_size=2, warmup_steps=0)
    replace(project, rounds={"r01": {"model": "runs/align"}}, split={"model": "runs/teach/r01"})
    return project


def replace(project: Path, **sections: Any) -> None:
    """Replace whole sections of the project's params.yaml."""
    yaml = YAML(typ="safe")
    yaml.dump(yaml.load(project / "params.yaml") | sections, project / "params.yaml")


def run_all(project: Path, run_stage: RunStage) -> None:
    for stage, *arguments in ONE_ROUND:
        ended = run_stage(project, stage, *arguments)
        assert ended.code == 0, ended.output


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def finished(case: Case, smaller: Path, tmp_path_factory: pytest.TempPathFactory, run_stage: RunStage) -> Path:
    """All stages done with this network; not to be changed."""
    project = Path(shutil.copytree(smaller, tmp_path_factory.mktemp("own") / "project"))
    replace(project, model=case.model)
    for section, settings in case.settings.items():
        set_params(project, section, **settings)
    if case.wrap:
        torch.manual_seed(1)
        case.wrap(case.make().state_dict(), project / "data/source/model.pth")
        set_params(project, "source", checkpoint="data/source/model.pth")
    run_all(project, run_stage)
    # The next one finds MLflow's tables made.
    shutil.copy(project / "mlflow.db", smaller)
    return project


def images(project: Path) -> torch.Tensor:
    return torch.stack([read_image(path, (64, 48)) for path in sorted((project / "data/test/images").iterdir())])


def test_the_whole_pipeline(case: Case, finished: Path) -> None:
    path = finished / "runs/source/model.safetensors"
    source, _ = network_from_checkpoint(path)
    config = load_checkpoint(path).config

    # What ATP makes of the source model is what its own class says.
    theirs = case.make()
    theirs.load_state_dict(load_checkpoint(path).state, strict=True)
    if case.wrap:
        given = load_user_state(finished / "data/source/model.pth")
        assert all(torch.equal(value, given[key]) for key, value in theirs.state_dict().items())
    mean, std = (torch.tensor(case.model.get(name, default)).view(3, 1, 1) for name, default in NORMAL.items())
    divided = case.model.get("divisor", config.divisor) == 32
    with torch.no_grad():
        normal = (images(finished).float() / 255 - mean) / std
        normal = normal.flip(1) if case.model.get("channels") == "bgr" else normal
        padded = F.pad(normal, (0, 0, 0, 16 if divided else 0), mode="replicate")
        scores = F.interpolate(case.scores(theirs.eval()(padded)), padded.shape[-2:], mode="bilinear")[..., :48, :]
        torch.testing.assert_close(source(images(finished)), scores)

    # The classifier is as it was after align, and nothing else.
    before, after = (load_checkpoint(finished / "runs" / stage / "model.safetensors").state for stage in STAGES[:2])
    frozen = {key for key in before if key.startswith(f"{config.classifier}.")}
    assert frozen
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert not all(torch.equal(before[key], after[key]) for key in before.keys() - frozen)
    taught = load_checkpoint(finished / "runs/teach/r01/model.safetensors").state
    assert not all(torch.equal(after[key], taught[key]) for key in frozen), "it learns later"

    # The adapted weights go back into their own class and say the same.
    out = finished / "adapted.pth"
    export_state(out, str(finished / "runs/propagate"))
    theirs.load_state_dict(torch.load(out, weights_only=True), strict=True)
    adapted, _ = network_from_checkpoint(finished / "runs/propagate/model.safetensors")
    with torch.no_grad():
        scores = F.interpolate(case.scores(theirs.eval()(padded)), padded.shape[-2:], mode="bilinear")[..., :48, :]
        torch.testing.assert_close(adapted(images(finished)), scores)
        assert not torch.allclose(adapted(images(finished)), source(images(finished)))

    # Nothing is measured of BatchNorm alone where there is none.
    measured = json.loads((finished / "runs/evaluate/metrics.json").read_text())["miou"]
    asked = case.settings.get("evaluate", {}).get("batchnorm_only", True)
    assert ("batchnorm_only" in measured) == (has_batchnorm(source) and asked)
    assert has_batchnorm(source) == (case.make is not mask2former)


NORMAL = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
STAGES = ("source", "align")


# A network in the project's own folder, and a source model of more classes


NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, classes, 1))
        self.auxiliary = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        features = self.stem(images)
        scores = self.head(features)
        return {"out": scores, "aux": self.auxiliary(features)} if self.training else {"out": scores}
"""
STREETS = ROOT / "assets/streets"
TARGETS = {
    "ground": ["road", "sidewalk"],
    "thing": ["building", "fence", "pole", "traffic sign", "person", "bicycle"],
    "nature": ["vegetation", "sky"],
    "vehicle": ["car", "truck"],
}


@pytest.fixture(scope="module")
def mapped(smaller: Path, tmp_path_factory: pytest.TempPathFactory, run_stage: RunStage) -> Path:
    """Streets with four classes, adapted from a source model that knows the twelve; not to be changed."""
    project = tmp_path_factory.mktemp("mapped") / "project"
    (project / "data/source").mkdir(parents=True)
    yaml = YAML(typ="safe")
    names = [entry["name"] for entry in yaml.load(STREETS / "source/classes.yaml")]
    target_of = {name: target for target, names in TARGETS.items() for name in names}
    # Of people nothing is asked in the target's labels either.
    pairs = [{name: "ignore" if name == "person" else target_of[name]} for name in names]
    (project / "data/source/class_map.yaml").write_text(
        "".join(f"- {name}: {to}\n" for p in pairs for name, to in p.items())
    )
    ids = [255 if name == "person" else list(TARGETS).index(target_of[name]) for name in names]
    table = np.array([*ids, *[255] * (256 - len(ids))], np.uint8)
    for split, count in (("target", 4), ("test", 2)):
        for kind in ("images", "labels"):
            (project / "data" / split / kind).mkdir(parents=True)
            for path in sorted((STREETS / split / kind).iterdir())[:count]:
                if kind == "images":
                    shutil.copy(path, project / "data" / split / kind)
                    continue
                with Image.open(path) as file:
                    Image.fromarray(table[np.asarray(file)]).save(project / "data" / split / kind / path.name)
    (project / "mapped_net.py").write_text(NET)
    torch.manual_seed(0)
    torch.save(own_net(len(names)).state_dict(), project / "data/source/model.pth")
    for name in ("params.yaml", "mlflow.db"):
        if (smaller / name).is_file():
            shutil.copy(smaller / name, project)
    colors = [{"name": name, "color": [60 * index, 90, 120]} for index, name in enumerate(TARGETS)]
    set_params(project, "data", classes=colors, class_map="data/source/class_map.yaml", protocols={})
    set_params(project, "source", checkpoint="data/source/model.pth")
    arguments = {"classes": len(names)}
    model = {"factory": "mapped_net:Net", "arguments": arguments, "classifier": "head", "code": "mapped_net.py"}
    replace(project, model=model)
    run_all(project, run_stage)
    return project


def own_net(classes: int) -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    made: nn.Module = namespace["Net"](classes)
    return made


def test_twelve_classes_become_four(mapped: Path) -> None:
    """The source model's figure is that of its own probabilities, added up by hand."""
    metrics = json.loads((mapped / "runs/evaluate/metrics.json").read_text())
    assert list(metrics["iou"]["propagate"]) == list(TARGETS)
    names = [entry["name"] for entry in YAML(typ="safe").load(STREETS / "source/classes.yaml")]
    model = own_net(12)
    model.load_state_dict(load_user_state(mapped / "data/source/model.pth"))
    confusion = ConfusionMatrix(4)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMAL.values())
    for path in sorted((mapped / "data/test/images").iterdir()):
        image = read_image(path, (64, 48))[None].float() / 255
        with torch.no_grad():
            scores = F.interpolate(model.eval()((image - mean) / std)["out"], (48, 64), mode="bilinear")
        probabilities = scores.softmax(1)
        groups = [[names.index(name) for name in group if name != "person"] for group in TARGETS.values()]
        summed = torch.stack([probabilities[:, group].sum(1) for group in groups], 1)
        summed /= summed.sum(1, keepdim=True)
        labels = read_label(mapped / "data/test/labels" / path.name, 4)
        full = F.interpolate(summed, labels.shape, mode="bilinear")
        confusion.update(full.argmax(1)[0].to(torch.uint8), labels)
    assert metrics["miou"]["source"] == pytest.approx(100 * confusion.mean_iou(), abs=0.02)
    store = PseudoLabelStore(mapped / "runs/dump/r01")
    assert all(int(ids[ids != 255].max()) < 4 for ids in map(store.positive, store.names))
    # The unused auxiliary classifier is handed on as it was.
    adapted = load_checkpoint(mapped / "runs/propagate/model.safetensors").state
    assert torch.equal(
        adapted["auxiliary.weight"], load_user_state(mapped / "data/source/model.pth")["auxiliary.weight"]
    )


def test_killed_and_continued_it_ends_with_the_same_bits(mapped: Path, tmp_path: Path, run_stage: RunStage) -> None:
    project = Path(shutil.copytree(mapped, tmp_path / "project"))
    expected = (project / "runs/teach/r01/model.safetensors").read_bytes()
    shutil.rmtree(project / "runs/teach")
    set_params(project, "runtime", save_every_s=0)
    arguments = (project, "teach", ("--round", "r01"), 0.3)
    process = forkserver().Process(target=stage_process, args=arguments)
    process.start()
    while not list((project / ".atp/state").glob("teach*.pt")):
        assert process.is_alive(), (project / "output.txt").read_text()
        time.sleep(0.01)
    process.kill()
    process.join()
    ended = run_stage(project, "teach", "--round", "r01")
    assert ended.code == 0, ended.output
    assert (project / "runs/teach/r01/model.safetensors").read_bytes() == expected


def test_two_processes_leave_what_has_no_part_alone(mapped: Path, tmp_path: Path) -> None:
    """DistributedDataParallel with parameters that get no gradient."""
    project = Path(shutil.copytree(mapped, tmp_path / "project"))
    shutil.rmtree(project / "runs/align")
    set_params(project, "runtime", processes=2)
    done = warm.run(["-m", "atp.stages", "align"], project, {**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    before, after = (load_checkpoint(project / "runs" / stage / "model.safetensors").state for stage in STAGES)
    for key, value in before.items():
        assert torch.equal(value, after[key]) == key.startswith(("head.", "auxiliary.")), key


def test_code_that_changes_makes_another_source_model(mapped: Path, tmp_path: Path, run_stage: RunStage) -> None:
    """Else DVC would take what was made of the former code for the latter's."""
    project = Path(shutil.copytree(mapped, tmp_path / "project"))
    before = (project / "runs/source/model.safetensors").read_bytes()
    (project / "mapped_net.py").write_text(
        NET.replace("scores = self.head(features)", "scores = 2 * self.head(features)")
    )
    assert run_stage(project, "source").code == 0
    assert (project / "runs/source/model.safetensors").read_bytes() != before
    (project / "mapped_net.py").unlink()
    ended = run_stage(project, "align")
    assert ended.code == 2
    (line,) = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: model.factory: mapped_net:Net cannot be imported (ModuleNotFoundError: No module named"
    )
