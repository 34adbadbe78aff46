"""``atp init``: what it writes, guesses and brings along."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from dvc.repo import Repo
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from atp.cli import app
from atp.params import load_params
from atp.project.make import GIVEN, edited
from tests.models.foreign import Small

NET = """
from tests.models.foreign import Small
def make(classes=3):
    return Small(classes)
"""
SIZES = ((70, 50), (100, 75), (1200, 900))


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a state dict, the code of its network, JPEGs of several sizes, and some labels."""
    folder = tmp_path / "user"
    for name in ("images/trip", "labels/trip"):
        (folder / name).mkdir(parents=True)
    for index, size in enumerate(SIZES):
        Image.new("RGB", size, (90, 20 * index, 0)).save(folder / f"images/trip/photo {index}.JPG")
        Image.new("L", size, index).save(folder / f"labels/trip/photo {index}.png")
    (folder / "images/notes.txt").write_text("no image")
    torch.save(Small(3).state_dict(), folder / "given.pth")
    (folder / "my_net.py").write_text(NET)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def init(*arguments: str) -> str:
    """Make the project ``new``; returns what is said."""
    done = CliRunner().invoke(app, ["init", "new", *arguments])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


GIVEN_MODEL = ("--model", "given.pth", "--network", "my_net:make", "--images", "images")


def test_a_project_has_what_a_run_needs(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = init(*GIVEN_MODEL, "--epochs", "3", "--seed", "7", "--set", "dump.flip=false")
    assert "classes: 3 (class 0, class 1, class 2), a guess from the size of the network's output; name them by" in said
    assert "size: 96x64, a guess: the images' median size is 100x75" in said
    assert "3 of the 3 images stand in" in said
    monkeypatch.chdir("new")
    params = load_params()
    assert params.source is not None
    assert params.align is not None
    assert (str(params.source.checkpoint), str(params.model.code)) == ("data/source/given.pth", "my_net.py")
    assert (params.data.size, params.data.target.labels, params.data.test.labels) == ((96, 64), None, None)
    assert [each.name for each in params.data.classes] == ["class 0", "class 1", "class 2"]  # type: ignore[union-attr]
    assert (params.align.epochs, params.teach.epochs, params.propagate.epochs) == (3, 3, 3)
    assert (params.training.seed, params.dump.flip) == (7, False)
    found = {path.as_posix() for path in Path().rglob("*") if path.is_file() and not {".git", ".dvc"} & set(path.parts)}
    photos = {f"data/{part}/images/trip/photo {index}.JPG" for part in ("target", "test") for index in range(3)}
    files = {".dvcignore", ".gitignore", "README.md", "data.dvc", "dvc.yaml", "my_net.py", "origin.json", "params.yaml"}
    assert found == files | photos | {"data/source/given.pth"}
    committed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    assert set(committed) == files | {".dvc/.gitignore", ".dvc/config"}
    with Repo() as repo:
        assert repo.status(targets="data.dvc") == {}
        assert {stage.addressing for stage in repo.index.stages} >= {"code", "source", "teach@r01", "register"}
    assert "--epochs 3" in Path("README.md").read_text()


def test_parameters_keep_their_remarks(user: Path) -> None:
    init(*GIVEN_MODEL)
    before, after = (path.read_text() for path in (GIVEN, Path("new/params.yaml")))
    remarks = [set(re.findall(r"# .*", text)) for text in (before, after)]
    # The network's own section takes the place of the example.
    assert {remark for remark in remarks[0] - remarks[1] if "network" not in remark} == set()
    assert "null" in after
    assert "\n\n\n" not in after
    # What is not set stays.
    assert YAML(typ="safe").load(edited(before, {})) == YAML(typ="safe").load(before)


def test_labels_are_brought_along_and_checked(user: Path) -> None:
    test = Path(shutil.copytree("images", "held/images")).parent
    shutil.copytree("labels", test / "labels")
    init(*GIVEN_MODEL, "--labels", "labels", "--test", "held", "--size", "64x32")
    params = load_params(Path("new/params.yaml"))
    assert str(params.data.target.labels) == "data/target/labels"
    assert (str(params.data.test.images), str(params.data.test.labels)) == ("data/test/images", "data/test/labels")
    assert len(list(Path("new/data").rglob("photo*.png"))) == 6
    assert params.data.size == (64, 32)
    Image.fromarray(np.full((50, 70), 5, np.uint8)).save("labels/trip/photo 0.png")
    shutil.rmtree("new")
    done = CliRunner().invoke(app, ["init", "new", *GIVEN_MODEL, "--labels", "labels"])
    assert "photo 0.png: label value 5, but the network has only 3 classes (0..2)" in str(done.exception)
    assert not Path("new").exists()


def test_classes_are_those_of_the_file(user: Path) -> None:
    Path("classes.yaml").write_text("- road\n- car\n- {name: sky, color: [0, 0, 200]}\n")
    assert "classes: 3, as classes.yaml lists them" in init(*GIVEN_MODEL, "--classes", "classes.yaml")
    assert str(load_params(Path("new/params.yaml")).data.classes) == "data/source/classes.yaml"
    assert Path("new/data/source/classes.yaml").read_text() == Path("classes.yaml").read_text()


def test_linked_images_stay_where_they_are(user: Path) -> None:
    init(*GIVEN_MODEL, "--link")
    assert not Path("new/data/target").exists()
    assert load_params(Path("new/params.yaml")).data.target.images == user / "images"
    stages = YAML(typ="safe").load(Path("new/dvc.yaml"))["stages"]
    # Test images are copies of a few, below data.root.
    assert [name for name, stage in stages.items() if "${data.target.images}" in stage.get("deps", [])] == [
        "align",
        "split",
        "propagate",
        "evaluate",
        "report",
    ]


@pytest.mark.parametrize("around", ["git is not installed", "is in a git repository"])
def test_without_a_repository_of_its_own(user: Path, monkeypatch: pytest.MonkeyPatch, around: str) -> None:
    if "not installed" in around:
        monkeypatch.setenv("PATH", "")
    else:
        subprocess.run(["git", "init", "-q"], check=True)
    said = init(*GIVEN_MODEL)
    assert around in said
    assert "experiments (dvc exp, atp select --grid) need one" in said
    assert not Path("new/.git").exists()
    with Repo("new") as repo:
        assert repo.config["core"]["no_scm"]


def test_own_code_in_two_places_is_refused(user: Path) -> None:
    Path("my_blocks.py").write_text("")
    Path("two.py").write_text("import my_blocks\n" + NET)
    done = CliRunner().invoke(
        app, ["init", "new", "--model", "given.pth", "--network", "two:make", "--images", "images"]
    )
    assert "my_blocks.py is part of its code, but not the file" in str(done.exception)
    assert sorted(path.name for path in user.iterdir() if path.name.startswith((".", "new"))) == []


def test_a_checkpoint_of_one_of_our_networks(user: Path) -> None:
    Path("classes.yaml").write_text("[a, b, c]")
    model = "model={backbone: resnet_small, output_stride: 4, aspp_dilations: [1, 2]}"
    init("--model", "given.pth", "--images", "images", "--classes", "classes.yaml", "--set", model)
    params = load_params(Path("new/params.yaml"))
    assert params.source is not None
    assert (params.model.factory, params.model.aspp_dilations) == (None, (1, 2))
    assert params.source.checkpoint == Path("data/source/given.pth")


def test_source_images_train_the_source_model(user: Path) -> None:
    for part in ("source", "target"):
        shutil.copytree("images", f"mine/{part}/images")
        shutil.copytree("labels", f"mine/{part}/labels")
    assert "a guess from the highest id" in init("--data", "mine")
    params = load_params(Path("new/params.yaml"))
    assert params.source is not None
    assert (params.source.checkpoint, params.model.backbone) == (None, "resnet_small")
    assert params.data.source.labels == Path("data/source/labels")
    assert Path("new/data/source/labels/trip/photo 2.png").is_file()
    assert json.loads(Path("new/origin.json").read_text())["options"] == {"data": str(user / "mine")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--images", "labels"), "labels: look like labels, class ids alone; give the folder of the images"),
        (("--images", "given.pth"), "--images given.pth: not a folder but a file"),
        (("--size", "0x64"), "--size 0x64: width and height must be at least 1"),
        (("--size", "64"), "--size 64: must be WIDTHxHEIGHT, as in 1024x512"),
        # The copy in the project, which is gone, is data/source/damaged.pth.
        (("--model", "damaged.pth"), "damaged.pth: not a complete PyTorch"),
    ],
)
def test_what_is_wrong_is_told_by_the_name_that_was_given(user: Path, arguments: tuple[str, str], said: str) -> None:
    (user / "damaged.pth").write_bytes((user / "given.pth").read_bytes()[:99])
    done = CliRunner().invoke(app, ["init", "new", *GIVEN_MODEL, *arguments])
    assert str(done.exception).startswith(said)
    assert not (user / "new").exists()


def test_a_size_by_a_capital_letter(user: Path) -> None:
    init(*GIVEN_MODEL, "--size", "96X64")
    assert load_params(user / "new/params.yaml").data.size == (96, 64)


def test_few_images_have_a_short_warmup(user: Path) -> None:
    init(*GIVEN_MODEL, "--set", "teach.warmup_steps=9", "--epochs", "4")
    params = load_params(user / "new/params.yaml")
    assert params.align is not None
    # A third of four steps, one an epoch.
    assert (params.align.warmup_steps, params.propagate.warmup_steps) == (1, 1)
    assert params.teach.warmup_steps == 9, "as it was asked for"
