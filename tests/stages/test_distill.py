"""``distill``: a student learns what a black box answered, and nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import Tensor

from atp.black_box.answers import Answer, AnswerWriter
from atp.data.folder import Sample
from atp.data.labels import LabelSpace
from atp.data.loading import Labels, TrainingImages
from atp.data.settings import Augmentation
from atp.method.distill import distill
from atp.method.settings import DistillSettings
from atp.models.checkpoint import load_checkpoint, network_from_checkpoint
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.training.run import Run
from atp.training.runtime import Runtime
from tests.stages.launch import RunStage, give_curious_network, killed_again_and_again, set_params

SPACE = LabelSpace(("sky", "road", "car"), ((0, 90, 120), (80, 90, 120), (160, 90, 120)))
FILES = ["runs/distill/model.safetensors", "runs/distill/history.csv"]


def soft_answer(labels: Path) -> Answer:
    """Right where it answers, of moderate confidence; none in the uppermost lines."""
    ids = torch.from_numpy(np.array(Image.open(labels)))
    second = (ids + 1) % 3
    classes = torch.stack([ids, second])
    classes[:, :4] = 255
    probabilities = torch.tensor([0.6, 0.3])[:, None, None] * (classes != 255)
    return Answer(classes, probabilities)


@pytest.fixture(scope="module")
def answered(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project with a black box for its source, which has answered; not to be changed."""
    project = Path(shutil.copytree(template, tmp_path_factory.mktemp("answered") / "project"))
    shutil.rmtree(project / "data/source")
    yaml = YAML(typ="safe")
    params = yaml.load(project / "params.yaml")
    del params["source"], params["align"]
    params["data"] |= {"source": {"root": "box"}, "classes": "box/classes.yaml"}
    params["query"] = {"box": "folder", "folder": "box/answers"}
    params["distill"] = {"epochs": 10, "batch_size": 4, "lr": 0.04, "augmentation": {"flip": True, "jitter": 0.2}}
    params["rounds"]["r01"]["model"] = "runs/distill"
    yaml.dump(params, project / "params.yaml")
    writer = AnswerWriter(project / "runs/query/target", SPACE, {"box": "folder"})
    for labels in sorted((project / "data/target/labels").iterdir()):
        writer.add(labels.stem, soft_answer(labels))
    writer.finish()
    return project


@pytest.fixture(scope="module")
def distilled(answered: Path, tmp_path_factory: pytest.TempPathFactory, run_stage: RunStage) -> Path:
    """The same with a student."""
    project = Path(shutil.copytree(answered, tmp_path_factory.mktemp("distilled") / "project"))
    ended = run_stage(project, "distill")
    assert ended.code == 0, ended.output
    return project


@pytest.fixture
def project(answered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answered, tmp_path / "project"))


def predictions(project: Path) -> tuple[Tensor, Tensor]:
    """The student's probabilities for the target images, (N, C, H, W), and the true ids."""
    network, space = network_from_checkpoint(project / FILES[0])
    assert space == SPACE
    images, ids = (
        torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in sorted((project / folder).iterdir())])
        for folder in ("data/target/images", "data/target/labels")
    )
    with torch.no_grad():
        return network(images.permute(0, 3, 1, 2)).softmax(1), ids


def test_the_student_learns_what_it_is_told(distilled: Path) -> None:
    losses = [float(line.split(",")[1]) for line in (distilled / FILES[1]).read_text().splitlines()[1:]]
    assert losses[-1] < 0.4 * losses[0]
    probabilities, ids = predictions(distilled)
    assert (probabilities.argmax(1) == ids)[:, 4:].float().mean() > 0.8


def test_hard_answers_make_a_surer_student(distilled: Path, project: Path, run_stage: RunStage) -> None:
    """The answers' probability of the best class is 0.6; of hard ones nothing but the class is learned."""
    set_params(project, "distill", answers="hard")
    assert run_stage(project, "distill").code == 0
    hard, soft = (predictions(folder)[0].amax(1)[:, 4:].mean().item() for folder in (project, distilled))
    assert soft < 0.7 < hard


def test_killed_at_any_moment_it_ends_with_the_same_bits(distilled: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(distilled, tmp_path / "project"))
    killed_again_and_again(project, "distill", (), FILES)


def test_it_needs_the_target_images_and_the_answers_alone(distilled: Path, project: Path, run_stage: RunStage) -> None:
    """The box's folder, the labels and the held-out images are not there, and the same bytes come out."""
    for folder in ("target/labels", "test", "validation"):
        shutil.rmtree(project / "data" / folder)
    assert not (project / "box").exists()
    ended = run_stage(project, "distill")
    assert ended.code == 0, ended.output
    assert all((project / name).read_bytes() == (distilled / name).read_bytes() for name in FILES)


def test_photometric_augmentation_is_a_parameter_away(distilled: Path, project: Path, run_stage: RunStage) -> None:
    set_params(project, "distill", augmentation={"flip": True})
    assert run_stage(project, "distill").code == 0
    with_it, without = (
        load_checkpoint(folder / FILES[0]).state["classifier.branches.0.weight"] for folder in (distilled, project)
    )
    assert not torch.equal(with_it, without)


def test_an_image_without_an_answer_is_told(project: Path, run_stage: RunStage) -> None:
    Image.new("RGB", (32, 24)).save(project / "data/target/images/99.png")
    ended = run_stage(project, "distill")
    assert ended.code == 2
    assert ended.output.splitlines()[-1] == (
        "error: runs/query/target: no answer for the image 99; run the query stage again"
    )


def learned(project: Path, answer: Callable[[Sample], Labels], answers: str = "soft") -> SegmentationNetwork:
    """A student of some answers."""
    section = DistillSettings.model_validate(
        {"epochs": 1, "batch_size": 2, "lr": 0.05, "weight_decay": 0.0, "answers": answers}
    )
    paths = sorted((project / "data/target/images").iterdir())[:4]
    images = TrainingImages([Sample(path.stem, path, None) for path in paths], Augmentation(), labels=answer)
    torch.manual_seed(0)
    config = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3)
    network = build_network(config)
    distill(network, images, section, Run("distill", 0, Runtime(torch.device("cpu"))))
    return network


@pytest.mark.parametrize("answers", ["soft", "hard"])
def test_pixels_without_an_answer_change_nothing(answered: Path, answers: str) -> None:
    """Whatever stands beside a missing answer, and with no answer at all no parameter moves."""

    def told(first: int, beside: int) -> Callable[[Sample], Labels]:
        def labels(sample: Sample) -> Labels:
            answer = soft_answer(answered / f"data/target/labels/{sample.name}.png")
            nothing = answer.classes[0] == 255
            nothing |= torch.tensor(first == 255)
            classes = torch.stack(
                [answer.classes[0].masked_fill(nothing, 255), answer.classes[1].masked_fill(nothing, beside)]
            )
            probabilities = answer.probabilities.masked_fill(nothing, 0.4)
            return Labels(classes[0], classes=classes, probabilities=probabilities)

        return labels

    one, other, none = (
        dict(learned(answered, told(*how), answers).named_parameters()) for how in ((0, 1), (0, 2), (255, 1))
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    torch.manual_seed(0)
    config = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3)
    fresh = dict(build_network(config).named_parameters())
    assert all(torch.equal(none[name], fresh[name]) for name in none)
    assert not all(torch.equal(one[name], fresh[name]) for name in one)


def test_it_cannot_open_what_it_must_not_see(project: Path, run_stage: RunStage) -> None:
    """Nor can code of the user's own: neither the box nor what it answered about the test images."""
    (project / "runs/query/test").mkdir()
    (project / "runs/query/test/00.answer").write_bytes(b"answer")
    (project / "box").mkdir(exist_ok=True)
    (project / "box/key.txt").write_text("key")
    sealed = [
        "box/key.txt",
        "runs/query/test/00.answer",
        "data/target/labels/00.png",
        "data/test/images/00.png",
        "data/test/labels/00.png",
    ]
    give_curious_network(project, [*sealed, "data/target/images/00.png"])
    ended = run_stage(project, "distill")
    assert ended.code == 0, ended.output
    refused = {f"refused {path}: sealed: this stage must not read source data or target labels" for path in sealed}
    assert refused | {"opened data/target/images/00.png"} <= set(ended.output.splitlines())
    assert not [path for path in sealed if f"opened {path}" in ended.output]
