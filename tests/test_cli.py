"""The command line: what it writes, and one line for what is wrong."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from dvc.repo import Repo
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

import atp
from atp.checks.finding import Finding
from atp.cli import app
from atp.data.labels import LabelSpace
from atp.doctor import examine
from atp.errors import InputError
from atp.export import export_state
from atp.models.checkpoint import load_checkpoint, save_checkpoint
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from tests import warm
from tests.black_box.server import BoxServer, png
from tests.models import foreign

SPACE = LabelSpace(("sky", "road", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))
CONFIG = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "model.safetensors", build_network(CONFIG), CONFIG, SPACE, {})
    return tmp_path / "model.safetensors"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in {"a.png": (40, 24), "deeper/b.jpg": (33, 17)}.items():
        Image.fromarray(generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_predict_writes_masks_of_the_images_own_size(images: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["predict", str(images), str(out), "--model", str(model), "--size", "32x16"])
    assert result.exit_code == 0, result.output
    with Image.open(out / "masks/deeper/b.png") as mask:
        assert (mask.mode, mask.size) == ("P", (33, 17))
        assert set(np.unique(np.array(mask))) <= {0, 1, 2}
        assert mask.getpalette()[:9] == [0, 0, 200, 90, 90, 90, 200, 0, 0]  # type: ignore[index]
    assert (out / "overlays/a.jpg").is_file()
    assert f"2 masks in {out / 'masks'}" in result.output


def test_predict_agrees_with_the_network(images: Path, model: Path, tmp_path: Path) -> None:
    CliRunner().invoke(app, ["predict", str(images / "a.png"), str(tmp_path / "out"), "--model", str(model)])
    torch.manual_seed(0)
    network = build_network(CONFIG).eval()
    with Image.open(images / "a.png") as file:
        image = torch.from_numpy(np.array(file)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network(image).argmax(1)[0].numpy()
    with Image.open(tmp_path / "out/masks/a.png") as mask:
        assert np.array_equal(np.array(mask), expected)


def test_an_unreadable_image_is_named_and_the_others_are_done(images: Path, model: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"no image")
    command = ["-m", "atp.cli", "predict", str(images), str(tmp_path / "out"), "--model", str(model)]
    done = warm.run(command, tmp_path, dict(os.environ))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "1 of the inputs could not be predicted in full" in line
    assert "broken.png: cannot be read as an image" in line
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/masks/a.png").is_file()


def test_a_model_that_does_not_exist_is_one_line(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["predict", str(images), "out"])
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith("runs: no such model")
    assert done.output == ""


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_model_of_an_earlier_run_is_told(
    command: str, images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/propagate").mkdir(parents=True)
    model.rename("runs/propagate/model.safetensors")
    Path("params.yaml").write_text("propagate: {lr: 0.1}\n")
    Path("dvc.lock").write_text("stages: {propagate: {params: {params.yaml: {propagate: {lr: 0.1}}}}}\n")
    arguments = [command, *([str(images), "out"] if command == "predict" else ["out.pth"])]
    told = (
        "model: runs/propagate, recommended: the last stage; no stage was judged; nothing was measured with labels, so "
        "look at predictions"
    )
    size = ["size: each image's own; the model's file states no other"] if command == "predict" else []
    assert CliRunner().invoke(app, arguments).stderr.splitlines() == [told, *size]
    Path("params.yaml").write_text("propagate: {lr: 0.2}\n")
    assert CliRunner().invoke(app, arguments).stderr.splitlines()[1:] == [
        "warning: runs/propagate is from an earlier run: propagate.lr in params.yaml was changed since; run "
        "dvc repro to update it",
        *size,
    ]


def test_the_recommended_stage_is_used(
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("source", "align", "teach/first", "teach/later", "propagate"):
        Path("runs", folder).mkdir(parents=True)
        shutil.copy(model, Path("runs", folder, "model.safetensors"))
    Path("params.yaml").write_text("rounds: {later: {model: runs/align}, first: {model: runs/teach/later}}\n")
    Path("runs/evaluate").mkdir()
    miou = {"source": 40.0, "align": 41.0, "teach_later": 43.0, "teach": 45.0, "propagate": 44.0}
    Path("runs/evaluate/metrics.json").write_text(json.dumps({"miou": {}, "validation": {"miou": miou}}))
    told = "model: runs/teach/first, recommended: 45.00 % mIoU on the validation images, propagate 44.00 %"
    assert CliRunner().invoke(app, ["predict", str(images), "out"]).stderr.splitlines()[0] == told
    assert CliRunner().invoke(app, ["export", "out.pth"]).stderr.splitlines() == [told]
    served: list[str] = []
    monkeypatch.setattr("atp.registry.server.serve", lambda model, *rest: served.append(model))
    assert CliRunner().invoke(app, ["serve", "runs"]).stderr.splitlines() == [told]
    assert CliRunner().invoke(app, ["serve", "runs/align"]).stderr == ""
    assert served == ["runs/teach/first", "runs/align"]
    assert CliRunner().invoke(app, ["export", "out.pth", "--model", "runs/align"]).stderr == "model: runs/align\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere: no such model; run dvc repro"),
        (["--size", "big"], "--size big: must be WIDTHxHEIGHT"),
    ],
)
def test_predict_tells_what_is_wrong(images: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["predict", str(images), str(tmp_path / "out"), *arguments])
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_report_needs_a_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", "--runs", str(tmp_path)])
    assert "evaluate/metrics.json: no such file; run dvc repro first" in str(result.exception)


def write_project(folder: Path) -> Path:
    """Two images a split of 12x8 with three classes; blue above, grey below."""
    for shift, split in enumerate(("source", "target", "test", "validation")):
        for index in range(2):
            ids = np.zeros((8, 12), np.uint8)
            ids[4:] = 1
            ids[3:6, 2 * index + 2 : 2 * index + 6] = 2
            colours = np.array([[40, 90, 220], [90, 90, 90], [200, 30, 30]])[ids] + index + 2 * shift
            for kind, array in (("images", colours.astype(np.uint8)), ("labels", ids)):
                (folder / "data" / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / "data" / split / kind / f"{index}.png")
    yaml = YAML(typ="safe")
    classes = [{"name": name, "color": list(color)} for name, color in zip(SPACE.names, SPACE.colors, strict=True)]
    yaml.dump(classes, folder / "data/source/classes.yaml")
    params = yaml.load(Path(__file__).parents[1] / "params.yaml")
    params["data"]["size"] = [12, 8]
    params["model"] |= {"output_stride": 8, "aspp_dilations": [1, 2]}
    params["training"]["precision"] = "fp32"
    yaml.dump(params, folder / "params.yaml")
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_project(tmp_path))
    return tmp_path


def set_params(project: Path, section: str, **changes: object) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load(project / "params.yaml")
    params[section].update(changes)
    yaml.dump(params, project / "params.yaml")


def complaints() -> list[Finding]:
    return [finding for finding in examine(Path("params.yaml")) if finding.level != "ok"]


def test_doctor_finds_nothing_in_a_good_project(project: Path) -> None:
    assert complaints() == []
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "0 errors, 0 warnings" in result.output
    set_params(project, "align", epoch=3)
    assert "1 error, 0 warnings" in CliRunner().invoke(app, ["doctor"]).output


def test_doctor_finds_what_dvc_would_not_find_in_params(project: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "dvc.yaml", project)
    assert complaints() == []
    yaml = YAML(typ="safe")
    params = yaml.load(project / "params.yaml")
    del params["model"]["code"], params["data"]["root"]
    yaml.dump(params, project / "params.yaml")
    assert {finding.text for finding in complaints()} == {
        "params.yaml: model.code: missing, and dvc.yaml needs it; add it, code: atp/models/own.py",
        "params.yaml: data.root: missing, and dvc.yaml needs it; add it, root: data",
    }


def test_doctor_finds_data_that_are_not_what_is_imported(project: Path) -> None:
    (project / "data").rename(project / "mydata")
    with Repo.init(no_scm=True) as repo:
        repo.imp_url("mydata", "data")
        repo.freeze("data.dvc")
        assert complaints() == []
        (project / "mydata/source/model.pth").touch()
        assert [finding.text for finding in complaints()] == [
            "data: older than mydata, which data.dvc imports; dvc update data.dvc imports it again"
        ]
        repo.unfreeze("data.dvc")
    assert told("older than").text.endswith("; dvc repro data.dvc imports it again")
    (project / "data/source/mine.pth").touch()
    assert told("data: changed since data.dvc imported it").level == "warning"
    shutil.rmtree(project / "mydata")
    assert told("mydata, which it imports, is missing").level == "error"


def test_doctor_tells_a_fresh_clone_from_another_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "data").rename(project / "mydata")
    assert [finding.text for finding in complaints()] == [
        "data/source/classes.yaml: no such file; correct its path in params.yaml"
    ]
    (project / "data.dvc").touch()
    assert [finding.text for finding in complaints()] == ["data: not imported yet; run dvc repro data.dvc"]
    classes = [{"name": name, "color": [0, 0, 0]} for name in SPACE.names]
    set_params(project, "data", classes=classes)
    assert [finding.text for finding in complaints()] == ["data: not imported yet; run dvc repro data.dvc"]
    monkeypatch.chdir(project / "mydata")
    assert [finding.text for finding in complaints()] == ["params.yaml: no such file; run from the root of the project"]


def test_doctor_tells_labels_from_images(project: Path) -> None:
    set_params(project, "data", target={"images": "data/target/labels", "labels": None})
    finding = told("data/target/labels: look like labels, class ids alone")
    assert finding.level == "warning"


def test_doctor_proposes_the_checkpoint_that_lies_there(project: Path) -> None:
    for kind in ("images", "labels"):
        shutil.rmtree(project / "data/source" / kind)
    assert "set source.checkpoint" not in told("data/source/images: no such folder").text
    torch.save(network().state_dict(), project / "data/source/model.pth")
    assert told("data/source/images: no such folder").text.endswith(
        "; to start from the model there, set source.checkpoint: data/source/model.pth"
    )
    set_params(project, "source", checkpoint="data/source/model.pth")
    assert complaints() == []


def test_doctor_says_how_to_do_without_labels(project: Path) -> None:
    shutil.rmtree(project / "data/test/labels")
    (project / "data/target/labels/1.png").unlink()
    for part in ("data/test/labels: no such folder of labels", "data/target/images/1.png: its label"):
        assert told(part).text.endswith("; without labels, set labels: null in params.yaml")
    (project / "data/source/labels/1.png").unlink()
    assert "labels: null" not in told("data/source/images/1.png: its label").text


def test_doctor_checks_validation_images_and_says_how_to_do_without(project: Path) -> None:
    label = project / "data/validation/labels/1.png"
    label.write_bytes(b"no image")
    assert told("data/validation/labels/1.png: cannot be read").level == "error"
    label.unlink()
    assert told("data/validation/images/1.png: its label").text.endswith("set labels: null in params.yaml")
    shutil.rmtree(project / "data/validation")
    assert [(finding.level, finding.text) for finding in complaints()] == [
        (
            "warning",
            "params.yaml: data.validation: data/validation/images: no such folder; without validation images, set "
            "data.validation: null",
        )
    ]
    set_params(project, "data", validation=None)
    assert complaints() == []


def test_doctor_finds_every_broken_file_at_once(project: Path) -> None:
    (project / "data/source/images/0.png").write_bytes(b"no image")
    Image.new("L", (12, 8), 9).save(project / "data/target/labels/1.png")
    Image.new("L", (12, 9), 0).save(project / "data/test/labels/1.png")
    texts = [finding.text for finding in complaints() if finding.level == "error"]
    assert len(texts) == 3
    assert "data/source/images/0.png: cannot be read as an image" in texts[0]
    assert "data/target/labels/1.png: label value 9 out of range" in texts[1]
    assert "label is 12x9 but its image data/test/images/1.png is 12x8" in texts[2]
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 2


def test_doctor_counts_errors_alike(project: Path) -> None:
    for index in range(2, 9):
        shutil.copy(project / "data/target/images/0.png", project / f"data/target/images/{index}.png")
        Image.new("L", (12, 8), index).save(project / f"data/target/labels/{index}.png")
    ending = " (6 alike, also 4.png, 5.png, 6.png and 2 more)"
    assert told("data/target/labels/3.png: label value 3 out of range").text.endswith(ending)
    for index in range(2, 9):
        (project / f"data/target/labels/{index}.png").unlink()
    assert told("data/target/images/2.png: its label").text.endswith(" (7 alike, also 3.png, 4.png, 5.png and 3 more)")


def test_doctor_finds_a_checkpoint_that_nothing_uses(project: Path) -> None:
    for path in ("data/source/model.pth", "mine.safetensors"):
        (project / path).write_bytes(b"weights")
    unused = "is not used, and the source model is trained; to start from it, set source.checkpoint: "
    (finding,) = complaints()
    assert finding.level == "warning"
    model = "data/source/model.pth"
    assert finding.text == f"{model}: {unused}{model} (2 alike, also mine.safetensors)"
    (project / model).unlink()
    assert complaints()[0].text.endswith(f"{unused}data/source/mine.safetensors, after moving it there")


def test_doctor_finds_no_images_and_missing_labels(project: Path) -> None:
    shutil.rmtree(project / "data/target/images")
    (project / "data/source/labels/1.png").unlink()
    texts = [finding.text for finding in complaints()]
    assert any("data/target/images: no such folder" in text for text in texts)
    assert any("data/source/images/1.png: its label" in text for text in texts)


def test_doctor_finds_wrong_parameters(project: Path) -> None:
    set_params(project, "align", epoch=3)
    assert [finding.text for finding in complaints()] == ["params.yaml: align.epoch: unknown key; is it epochs?"]


def test_doctor_finds_a_device_that_is_not_there_and_a_precision_that_is_imitated(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atp.checks.machine.computes_bf16", lambda device: False)
    for precision, count in (("auto", 0), ("bf16", 1)):
        set_params(project, "training", precision=precision)
        assert ["which this device only emulates" in finding.text for finding in complaints()] == [True] * count
    set_params(project, "runtime", device="tpu9")
    assert any("no such device 'tpu9'" in finding.text for finding in complaints())


def test_doctor_finds_mixed_sizes(project: Path) -> None:
    set_params(project, "data", size=None)
    for kind in ("images", "labels"):
        path = project / "data/source" / kind / "1.png"
        with Image.open(path) as file:
            file.crop((0, 0, 10, 8)).save(path)
    assert any("2 image sizes; set data.size or data.crop" in finding.text for finding in complaints())


def test_doctor_finds_images_smaller_than_the_windows(project: Path) -> None:
    set_params(project, "data", size=None, window=[12, 8])
    assert complaints() == []
    set_params(project, "data", window=[12, 9])
    found = [finding.text for finding in complaints()]
    line = (
        "12x8: smaller than the windows of 12x9; read it larger, or predict it as a whole: set data.size, or a smaller"
    )
    assert [line in text for text in found] == [True] * 3, "of target, test and validation images"


def test_doctor_finds_a_class_that_never_occurs(project: Path) -> None:
    for path in (project / "data/source/labels").iterdir():
        Image.new("L", (12, 8), 1).save(path)
    assert [finding.level for finding in complaints()] == ["warning"]
    assert "classes that never occur: sky, car" in complaints()[0].text


def test_doctor_finds_the_same_image_in_two_domains(project: Path) -> None:
    shutil.copy(project / "data/target/images/0.png", project / "data/test/images/0.png")
    assert any("one of 1 images in both target and test" in finding.text for finding in complaints())
    shutil.copy(project / "data/test/images/1.png", project / "data/validation/images/1.png")
    assert any("one of 1 images in both test and validation" in finding.text for finding in complaints())


def test_doctor_finds_red_and_blue_swapped(project: Path) -> None:
    for path in (project / "data/target/images").iterdir():
        with Image.open(path) as file:
            Image.fromarray(np.array(file)[..., ::-1].copy()).save(path)
    (finding,) = complaints()
    assert "data/target/images: the upper thirds are redder than the lower ones" in finding.text


def give(project: Path, state: object) -> None:
    torch.save(state, project / "data/source/model.pth")
    set_params(project, "source", checkpoint="data/source/model.pth")


def network(classes: int = 3, dilations: tuple[int, ...] = (1, 2)) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(CONFIG.model_copy(update={"num_classes": classes, "aspp_dilations": dilations}))


def test_doctor_finds_a_source_model_that_knows_nothing(project: Path) -> None:
    give(project, network().state_dict())
    (finding,) = complaints()
    assert finding.level == "warning"
    assert "of its own source images: implausible" in finding.text


def test_doctor_finds_more_classes_than_the_data_have(project: Path) -> None:
    give(project, network(classes=5).state_dict())
    (finding,) = complaints()
    assert finding.level == "error"
    assert "more classes in the checkpoint (5) than in the data (3)" in finding.text


def test_doctor_finds_a_checkpoint_that_needs_unpickling(project: Path) -> None:
    give(project, {"state_dict": Path("an object")})
    (finding,) = complaints()
    assert "contains Python objects, and unpickling" in finding.text


def test_doctor_finds_two_live_branches_of_four(project: Path) -> None:
    trained = network(dilations=(1, 2, 4, 6))
    with torch.no_grad():
        for index in (0, 1):
            # What training does: neighbouring taps move together.
            weight = trained.classifier.branches[index].weight  # type: ignore[index,union-attr]
            weight += 0.05 * torch.randn(weight.shape[:2])[..., None, None]  # type: ignore[operator]
    set_params(project, "model", aspp_dilations=[1, 2, 4, 6])
    give(project, trained.state_dict())
    assert any("only 2 of 4 ASPP branches are trained" in finding.text for finding in complaints())


# A network of the user's own


def own(project: Path, maker: str = "Small", **changes: object) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load(project / "params.yaml")
    params["model"] = {"factory": f"tests.models.foreign:{maker}", **changes}
    yaml.dump(params, project / "params.yaml")


def told(part: str) -> Finding:
    (finding,) = (finding for finding in examine(Path("params.yaml")) if part in finding.text)
    return finding


def test_doctor_proposes_the_classifier(project: Path) -> None:
    own(project, arguments={"aux": True})
    assert told("model.classifier") == Finding(
        "error",
        "model.classifier: missing; decoder.3 (2 of 18 tensors, 12 of 384 parameters) makes the scores, or around it "
        "decoder (9 of 18 tensors, 183 of 384 parameters); set one",
    )
    assert told("model.factory").text == "model.factory: tests.models.foreign:Small: 384 parameters, output stride 2"


def test_doctor_reads_a_checkpoint_before_the_classifier_is_set(project: Path) -> None:
    give(project, foreign.Small(classes=3).state_dict())
    own(project)
    assert told("model.classifier: missing").level == "error"
    assert told("data/source/model.pth: fits the network").level == "ok"
    give(project, foreign.Small(classes=4).state_dict())
    assert told("data/source/model.pth: more classes in the checkpoint (4)").level == "error"


def test_doctor_says_what_would_be_frozen(project: Path) -> None:
    own(project, classifier="decoder")
    finding = told("model.classifier")
    assert finding.level == "ok"
    assert finding.text.startswith(
        "model.classifier: frozen in align: decoder (9 of 16 tensors, 183 of 363 parameters)"
    )
    own(project, classifier="stem")
    finding = told("model.classifier")
    assert finding.level == "warning"
    assert "stem does not compute the scores: what does is not frozen; decoder.3 (2 of 16" in finding.text


@pytest.mark.parametrize("strict", [True, False])
def test_doctor_finds_the_divisor(project: Path, strict: bool) -> None:
    own(project, "Skips", classifier="head", arguments={"strict": strict})
    why = "fails at 12x8 (RuntimeError: sizes must be multiples of 32)"
    if not strict:
        why = "returns 32x32 scores for 12x8 pixels, so it crops or stretches"
    (finding,) = (finding for finding in complaints() if finding.level == "error")
    assert finding.text == (
        f"model.factory: tests.models.foreign:Skips {why} in source, align, teach, propagate, evidence, dump, "
        "evaluate, at 9x6 in evidence at scale 0.75, at 15x10 in evidence at scale 1.25, dump at scale 1.25; set "
        "model.divisor: 32, at multiples of which it works"
    )
    own(project, "Skips", classifier="head", arguments={"strict": strict}, divisor=32)
    assert not complaints()


SCALES = {"dump": {"scales": [1.0, 2.0]}}
LIMITED = "model.factory: tests.models.foreign:Limited fails at "


@pytest.mark.parametrize(
    ("most", "sections", "message"),
    [
        (
            14,
            {},
            f"{LIMITED}15x10 (RuntimeError: too wide) in evidence at scale 1.25, dump at scale 1.25; set data.size",
        ),
        (15, SCALES, f"{LIMITED}24x16 (RuntimeError: too wide) in dump at scale 2; set data.size"),
        (
            16,
            {"data": {"crop": [20, 8]}},
            f"{LIMITED}20x8 (RuntimeError: too wide) in source, align, teach, propagate; ",
        ),
        (
            16,
            {"data": {"source": {"root": "data/source", "size": [20, 10]}}},
            f"{LIMITED}20x10 (RuntimeError: too wide) in source; set data.crop or data.size",
        ),
        (11, {"data": {"size": None}}, f"{LIMITED}12x8 (RuntimeError: too wide) in source, align"),
    ],
)
def test_doctor_tries_the_network_at_every_size(
    project: Path, most: int, sections: dict[str, dict[str, object]], message: str
) -> None:
    own(project, "Limited", classifier="head", arguments={"most": most})
    for section, changes in sections.items():
        set_params(project, section, **changes)
    assert told(LIMITED).text.startswith(message)


def test_doctor_finds_a_batch_of_one_that_cannot_be_normalised(project: Path) -> None:
    own(project, "Pooled", classifier="head")
    assert not complaints()
    set_params(project, "teach", batch_size=1)
    (finding,) = complaints()
    assert "fails at 12x8 (ValueError: Expected more than 1 value per channel when training" in finding.text
    assert finding.text.endswith("in teach; set batch_size there to 2 or more images per process, with which it works")
    set_params(project, "teach", batchnorm="eval")
    assert not complaints()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factory": "no_such_package:make"}, "no_such_package:make cannot be imported (ModuleNotFoundError"),
        (
            {"arguments": {"classes": 4}},
            "returns logits of shape (1, 4, 32, 32), not (N, 3, h, w); check model.arguments",
        ),
        ({"arguments": {"output": "tuple in training"}}, "returns tuple, not a tensor of logits"),
        ({"classifier": "decode"}, "has no decode with parameters; is it decoder?"),
    ],
)
def test_doctor_tells_what_is_wrong_with_a_network(project: Path, changes: dict[str, object], message: str) -> None:
    own(project, **{"classifier": "decoder", **changes})
    (finding,) = (finding for finding in complaints() if message in finding.text)
    assert finding.level == "error"


def test_doctor_notices_a_factory_that_loads_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "loading_net.py").write_text(
        "import torch\nfrom tests.models.foreign import Small\n"
        "def make(path):\n    torch.load(path, weights_only=True)\n    return Small()\n"
    )
    monkeypatch.syspath_prepend(str(project))
    torch.save({}, project / "backbone.pth")
    own(
        project,
        factory="loading_net:make",
        arguments={"path": "backbone.pth"},
        classifier="decoder",
        code="loading_net.py",
    )
    assert "loading_net:make loads backbone.pth at every call" in told("loads").text
    del sys.modules["loading_net"]


def test_doctor_checks_the_checkpoint_of_a_network_against_the_class_map(project: Path) -> None:
    give(project, foreign.Small(classes=4).state_dict())
    own(project, classifier="decoder", arguments={"classes": 4})
    set_params(project, "data", class_map=[{"sky": "sky"}, {"road": "road"}, {"car": "car"}, {"bus": "car"}])
    assert told("fits the network").level == "ok"
    set_params(project, "data", class_map=[{"sky": "sky"}, {"road": "road"}, {"car": "car"}])
    assert any("returns logits of shape (1, 4, 32, 32), not (N, 3" in finding.text for finding in complaints())
    own(project, classifier="decoder", arguments={"classes": 3})
    assert any("more classes in the checkpoint (4) than in the data (3)" in finding.text for finding in complaints())
    set_params(project, "data", class_map=[{"sky": "sky"}, {"road": "road"}, {"car": "cars"}])
    assert "class_map: car: cars: no such class in data.classes; is it car?" in complaints()[0].text


@pytest.fixture
def own_model(project: Path) -> Path:
    """A checkpoint of a network of somebody else's."""
    torch.manual_seed(0)
    config = NetworkConfig(factory="tests.models.foreign:Small", classifier="decoder", num_classes=3)
    save_checkpoint(project / "own.safetensors", build_network(config), config, SPACE, {})
    return project / "own.safetensors"


def test_predict_calls_nothing_that_only_a_file_names(own_model: Path, images: Path, tmp_path: Path) -> None:
    command = ["predict", str(images), str(tmp_path / "out"), "--model", str(own_model)]
    result = CliRunner().invoke(app, command)
    assert "building its network would call tests.models.foreign:Small, which no params.yaml here names" in str(
        result.exception
    )
    assert CliRunner().invoke(app, [*command, "--trust"]).exit_code == 0
    shutil.rmtree(tmp_path / "out")
    own(tmp_path, classifier="decoder")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/masks/a.png").is_file()


def test_predict_calls_what_a_name_in_params_yaml_means(own_model: Path, images: Path, tmp_path: Path) -> None:
    command = ["predict", str(images), str(tmp_path / "out"), "--model", str(own_model)]
    yaml = YAML(typ="safe")
    params = yaml.load(tmp_path / "params.yaml")
    params["model"] = {"network": "hf:data/source/gone"}
    yaml.dump(params, tmp_path / "params.yaml")
    why = "which no params.yaml here names (data/source/gone: no such folder; pass one with"
    assert why in str(CliRunner().invoke(app, command).exception)
    params["model"] = {"network": "tests.models.foreign:Small?stride=2"}
    yaml.dump(params, tmp_path / "params.yaml")
    assert CliRunner().invoke(app, command).exit_code == 0


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_export_is_what_the_networks_own_class_loads(own_model: Path, name: str) -> None:
    out = own_model.with_name(name)
    result = CliRunner().invoke(app, ["export", str(out), "--model", str(own_model)])
    assert result.exit_code == 0, result.output
    assert result.stderr == f"model: {own_model}\n"
    line = result.stdout.strip()
    assert line.startswith(f"{out}: 16 tensors, 3 classes; load: tests.models.foreign.Small().load_state_dict(")
    theirs = foreign.Small()
    # The line is to be believed.
    state = eval(line.split("load_state_dict")[1], {"torch": torch, "safetensors": safetensors})
    theirs.load_state_dict(state, strict=True)
    given = load_checkpoint(own_model).state
    assert all(torch.equal(value, given[key]) for key, value in theirs.state_dict().items())


def test_export_of_our_own_network(model: Path, tmp_path: Path) -> None:
    line = export_state(tmp_path / "weights.pt", str(model))
    maker = line.split("load: ")[1].split(".load_state_dict")[0]
    again = eval(maker, {"atp": atp, "NetworkConfig": NetworkConfig})
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)


def test_export_refuses_other_files(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights.onnx: must end in .safetensors or .pth or .pt"):
        export_state(tmp_path / "weights.onnx", str(model))
    with pytest.raises(InputError, match="nowhere: no such model"):
        export_state(tmp_path / "weights.pth", "nowhere")


@pytest.fixture
def boxed(project: Path) -> Path:
    """The project with a black box for its source: a folder of predictions, which are the labels."""
    yaml = YAML(typ="safe")
    params = yaml.load(project / "params.yaml")
    del params["source"], params["align"]
    params["data"] |= {"source": {"root": "box"}, "classes": "box/classes.yaml"}
    params["query"] = {"box": "folder", "folder": "box/predictions"}
    params["distill"] = {"epochs": 1, "batch_size": 1, "lr": 0.1}
    params["rounds"]["r01"]["model"] = "runs/distill"
    yaml.dump(params, project / "params.yaml")
    (project / "data/source").rename(project / "box")
    for part in ("target", "test"):
        shutil.copytree(project / "data" / part / "labels", project / "box/predictions" / part)
    return project


def test_doctor_reads_the_predictions_of_a_box(boxed: Path) -> None:
    assert complaints() == []
    (boxed / "box/predictions/target/1.png").unlink()
    Image.new("L", (12, 8), 9).save(boxed / "box/predictions/test/0.png")
    texts = [finding.text for finding in complaints()]
    assert len(texts) == 2
    assert texts[0].startswith("query.folder: target/1: there must be one prediction")
    assert texts[1].startswith("query.folder: test/0:")
    shutil.rmtree(boxed / "box/predictions")
    assert [finding.text for finding in complaints()] == [
        "params.yaml: query.folder: box/predictions: no such folder of predictions"
    ]


def test_doctor_asks_a_callable_about_one_image_and_says_what_it_would_send(
    boxed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (boxed / "box/answering.py").write_text(
        "import numpy as np\ndef predict(image):\n    return np.zeros(image.shape[:2], np.uint8)\n"
        "def fail(image):\n    raise ValueError('no model')\n"
    )
    monkeypatch.syspath_prepend(boxed / "box")
    set_params(boxed, "query", box="callable", callable="answering:predict")
    assert complaints() == []
    said = "\n".join(finding.text for finding in examine(Path("params.yaml")))
    assert "query.callable: answering:predict: the stage query would send 4 images of target, test" in said
    assert "answered for data/target/images/0.png: ids only, 1 classes per pixel" in said
    set_params(boxed, "query", callable="answering:fail")
    (finding,) = complaints()
    assert finding.level == "error"
    assert "query of data/target/images/0.png: ValueError: no model" in finding.text


def test_doctor_says_that_nobody_listens(boxed: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/invocations"
        set_params(boxed, "query", box="endpoint", endpoint=address)
        (finding,) = complaints()
    assert finding.text.startswith(f"params.yaml: query.endpoint: {address}: no server answers there (")


def test_what_doctor_asked_an_endpoint_is_kept_and_not_asked_again(boxed: Path) -> None:
    with BoxServer(lambda image: png(np.zeros(image.shape[:2], np.uint8))) as box:
        set_params(boxed, "query", box="endpoint", endpoint=box.address, protocol="plain")
        for _ in range(5):
            assert complaints() == []
        said = "\n".join(finding.text for finding in examine(Path("params.yaml")))
    assert "has already answered for all 4 images" in said
    assert list(box.good.values()) == [1] * 4
