"""docs/reference/errors.md: every mistake on the page gets the line that it shows, and nothing is half-written."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from ruamel.yaml import YAML

from atp.cli import main
from atp.data.masks import write_mask
from atp.errors import InputError
from atp.media.record import Row, write_record
from atp.models.checkpoint import save_checkpoint
from atp.models.network import build_network
from tests.models.foreign import Small
from tests.test_cli import CONFIG, SPACE, write_project

PAGE = Path(__file__).parents[1] / "docs/reference/errors.md"
# What the user did, the command, and the line of its output.
ROWS = re.findall(r"^\| (.+?) \| `(.+)` \| `(.+)` \|$", PAGE.read_text(), re.MULTILINE)
Spoil = Callable[[], object]

REMOVED = object()


def change(**sections: dict[Any, Any]) -> Spoil:
    """Change entries of sections of params.yaml, or remove them."""

    def spoil() -> None:
        yaml = YAML(typ="safe")
        tree = yaml.load(Path("params.yaml"))
        for section, changes in sections.items():
            for name, value in changes.items():
                if value is REMOVED:
                    del tree[section][name]
                else:
                    tree[section][name] = value
        yaml.dump(tree, Path("params.yaml"))

    return spoil


def own(**model: Any) -> Spoil:
    """A network of the user's own as the section model."""

    def spoil() -> None:
        yaml = YAML(typ="safe")
        tree = yaml.load(Path("params.yaml"))
        tree["model"] = model
        yaml.dump(tree, Path("params.yaml"))

    return spoil


def both(*spoils: Spoil) -> Spoil:
    return lambda: [spoil() for spoil in spoils]


def text(path: str, content: str) -> Spoil:
    return lambda: Path(path).write_text(content)


def picture(path: str, mode: str = "L", size: tuple[int, int] = (12, 8), color: Any = 0) -> Spoil:
    return lambda: Image.new(mode, size, color).save(path)


def removed(*paths: str) -> Spoil:
    return lambda: [shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink() for path in paths]


def moved(path: str, to: str) -> Spoil:
    return lambda: Path(path).rename(to)


def empty(path: str) -> Spoil:
    return both(removed(path), lambda: Path(path).mkdir())


def gif(path: str) -> Spoil:
    return lambda: Image.new("P", (12, 8)).save(path)


def not_utf8() -> None:
    shutil.copy("data/target/images/0.png", b"data/target/images/Stra\xdfe.png")


def given(state: object = None, cut: int = 0) -> Spoil:
    """A checkpoint below data/source, named in params.yaml."""

    def spoil() -> None:
        torch.manual_seed(0)
        path = Path("data/source/model.pth")
        torch.save(build_network(CONFIG).state_dict() if state is None else state, path)
        path.write_bytes(path.read_bytes()[: -cut or None])
        change(source={"checkpoint": str(path)})()

    return spoil


def many_classes() -> None:
    given(build_network(CONFIG.model_copy(update={"num_classes": 5})).state_dict())()


def foreign_weights() -> None:
    safetensors.torch.save_file({"weight": torch.zeros(1)}, "theirs.safetensors")


def colours() -> None:
    """Labels as colours: of the classes, and one of none."""
    Path("colours").mkdir()
    pixels = np.full((4, 6, 3), SPACE.colors[1], np.uint8)
    pixels[0, :2] = 1, 2, 3
    Image.fromarray(pixels).save("colours/0.png")
    Image.fromarray(pixels).save("colours/1.png")


def small() -> None:
    """The state dict of somebody else's network."""
    torch.save(Small(3).state_dict(), "small.pth")


def predictions(mask: bool = True) -> None:
    """What atp predict writes for an image."""
    if mask:
        write_mask(Path("out/masks/0.png"), np.zeros((8, 12), np.uint8), SPACE)
    write_record(Path("out"), "adapted", SPACE, [Row("0", "data/test/images/0.png", 12, 8, 0.5)])


def lacking(*packages: str) -> None:
    """Hide packages, if they are installed, until the command has ended."""
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]


def damaged_results() -> None:
    Path("runs/evaluate").mkdir(parents=True)
    for name in ("metrics", "images", "confusion"):
        Path(f"runs/evaluate/{name}.json").write_text("[]")


def folder_of_five_classes() -> None:
    """A model of transformers, but for its weights."""
    config = {"architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer"}
    Path("data/source/net").mkdir()
    Path("data/source/net/config.json").write_text(json.dumps(config | {"id2label": dict(enumerate("abcde"))}))


CLASSES = "data/source/classes.yaml"
ALIKE = "- {name: a, color: [1, 1, 1]}\n- {name: b, color: [1, 1, 1]}\n"
FOREIGN = "tests.models.foreign"

MISTAKES: dict[str, Spoil] = {
    # params.yaml
    "a misspelt entry": change(align={"epoch": 3}),
    "text in place of a number": change(teach={"epochs": "many"}),
    "the same mistake in two sections": change(align={"lr": 0}, propagate={"lr": -1}),
    "a value that is not offered": change(training={"precision": "int8"}),
    "a required entry left out": change(teach={"lr": REMOVED}),
    "one number for a size": change(data={"size": 160}),
    "epochs and steps": change(align={"steps": 100}),
    "a round's key that is a number": change(rounds={1: {"model": "runs/align"}}),
    "a model that no round makes": change(split={"model": "runs/teach/r07"}),
    "a misspelt method": change(align={"method": "baselines/tend"}),
    "a checkpoint outside the source's folder": change(source={"checkpoint": "model.pth"}),
    "a device that is not there": change(runtime={"device": "tpu9"}),
    "a tab in params.yaml": text("params.yaml", "data:\n\tsize: null\n"),
    "the wrong working folder": removed("params.yaml"),
    "a fresh clone": both(removed("data"), text("data.dvc", "")),
    # classes
    "no file of classes": removed(CLASSES),
    "a colour out of range": text(CLASSES, "- {name: road, color: [0, 0, 300]}\n- car\n- sky\n"),
    "one class twice": text(CLASSES, "- road\n- road\n"),
    "classes as a mapping": text(CLASSES, "road: 0\ncar: 1\n"),
    # images and labels
    "no folder of images": removed("data/target/images"),
    "an empty folder of images": empty("data/target/images"),
    "GIFs alone": both(empty("data/target/images"), gif("data/target/images/a.gif")),
    "a GIF among the images": gif("data/target/images/a.gif"),
    "a name that is not UTF-8": not_utf8,
    "two images of one name": picture("data/target/images/0.jpg", "RGB"),
    "a damaged image": text("data/target/images/0.png", "no image"),
    "images of 16 bits": picture("data/target/images/0.png", "I;16"),
    "images of several sizes": both(
        change(data={"size": None}),
        picture("data/target/images/0.png", "RGB", (14, 8)),
        picture("data/target/labels/0.png", "L", (14, 8)),
    ),
    "no labels": removed("data/source/labels/0.png", "data/source/labels/1.png"),
    "labels under another name": moved("data/source/labels/0.png", "data/source/labels/0_gt.png"),
    "labels as GIF": both(gif("data/source/labels/0.gif"), removed("data/source/labels/0.png")),
    "no folder of labels": removed("data/test/labels"),
    "labels as colours": picture("data/source/labels/0.png", "RGB"),
    "an id that is no class": picture("data/source/labels/0.png", color=7),
    "a label of another size": picture("data/source/labels/0.png", size=(12, 9)),
    # models
    "no checkpoint": change(source={"checkpoint": "data/source/model.pth"}),
    "a checkpoint that nothing uses": lambda: torch.save({}, "data/source/model.pth"),
    "an incomplete checkpoint": given(cut=100),
    "a pickled model": given({"state_dict": Path("an object")}),
    "a checkpoint of other classes": many_classes,
    "a network that cannot be imported": own(factory="my_network:make", classifier="head"),
    "a misspelt factory": own(factory=f"{FOREIGN}:Smal", classifier="decoder"),
    "no classifier": own(factory=f"{FOREIGN}:Small"),
    "a network that fails at a size": own(factory=f"{FOREIGN}:Limited", arguments={"most": 12}, classifier="head"),
    "a network that needs multiples of 32": own(
        factory=f"{FOREIGN}:Skips", arguments={"strict": True}, classifier="head"
    ),
    "a name of no network": own(network="deeplab"),
    "a misspelt network": own(network="torchvision:deeplabv3_resnet5"),
    "a folder of transformers that is not there": own(network="hf:data/source/nett"),
    "a folder of transformers elsewhere": own(network="hf:segformer"),
    "a folder of transformers with other classes": both(folder_of_five_classes, own(network="hf:data/source/net")),
    "a folder of transformers without safetensors": both(
        folder_of_five_classes, change(source={"checkpoint": "data/source/net"})
    ),
    # making a project
    "no source model": lambda: None,
    "a source model that is not there": lambda: None,
    "a checkpoint of an unnamed network": small,
    "no target images": small,
    "target images that are not there": small,
    "a folder without target images": both(small, lambda: Path("none").mkdir()),
    "a project's folder that is in use": lambda: None,
    "more classes than the network has": both(small, text("five.yaml", "- a\n- b\n- c\n- d\n- e\n")),
    "labels of more classes": both(small, picture("data/target/labels/0.png", color=7)),
    "a size that is not one": lambda: None,
    "a setting without a value": lambda: None,
    "a setting that does not exist": lambda: None,
    "other options than before": both(lambda: Path("made").mkdir(), text("made/origin.json", '{"options": {}}')),
    "a study in an own project": text("origin.json", "{}"),
    # commands
    "images that are not there": lambda: None,
    "a file that is no image": text("notes.txt", "a note"),
    "a folder without images": lambda: Path("none").mkdir(),
    "a model that is not there": lambda: None,
    "a model that is not ATP's": foreign_weights,
    "a size that is none": lambda: None,
    "a file where a folder is to be": text("taken", ""),
    "a device that does not exist": lambda: None,
    "two images with the mask of one name": lambda: None,
    "a pattern that matches nothing": lambda: None,
    "a video without its package": both(text("drive.mp4", ""), lambda: lacking("av")),
    "weights in another format": lambda: None,
    "ONNX without its packages": lambda: lacking("onnx", "onnxscript", "onnxruntime"),
    "weights into a folder": lambda: Path("folder.pth").mkdir(),
    "a tool that is not known": predictions,
    "annotations of nothing": lambda: None,
    "a mask that is gone": lambda: predictions(mask=False),
    "an image that is gone": both(predictions, removed("data/test/images/0.png")),
    "annotations into a folder that exists": both(predictions, lambda: Path("taken").mkdir()),
    "a record of another version": both(predictions, text("out/predictions.json", "[]")),
    "FiftyOne without its package": both(predictions, lambda: lacking("fiftyone")),
    "a report before the run": lambda: None,
    "damaged results": damaged_results,
    "labels that are not there": lambda: None,
    "colours of no class": colours,
    "a folder that exists": both(colours, lambda: Path("taken").mkdir()),
    "classes that share a colour": both(colours, text("classes.yaml", ALIKE)),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without mistakes, and a model."""
    folder = write_project(tmp_path_factory.mktemp("template"))
    torch.manual_seed(0)
    save_checkpoint(folder / "model.safetensors", build_network(CONFIG), CONFIG, SPACE, {})
    (folder / "model.safetensors").rename(folder / "adapted")
    return folder


@pytest.fixture(autouse=True)
def packages() -> Iterator[None]:
    """Undo ``lacking``."""
    yield
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(template, tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


class Ran:
    """What a command printed, and its exit code."""

    def __init__(self, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "argv", command.split())
        with pytest.raises(SystemExit) as ended:
            main()
        self.code = ended.value.code
        printed = capsys.readouterr()
        # The levels of doctor's lines are aligned.
        plain = re.sub(r"  +", " ", printed.out + printed.err)
        self.lines = plain.replace(str(Path.cwd()), "/home/me/project").splitlines()


def files() -> set[Path]:
    return set(Path().rglob("*"))


def test_the_page_lists_every_mistake_that_is_tested() -> None:
    assert [mistake for mistake, *_ in ROWS] == list(MISTAKES)
    assert PAGE.read_text().count("| `atp ") == len(ROWS)


@pytest.mark.parametrize(("mistake", "command", "line"), ROWS, ids=[mistake for mistake, *_ in ROWS])
def test_a_mistake_gets_its_line(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mistake: str,
    command: str,
    line: str,
) -> None:
    MISTAKES[mistake]()
    before = files()
    ran = Ran(command, monkeypatch, capsys)
    assert line in ran.lines
    if line.startswith("error"):
        assert ran.code == 2
    if not command.startswith("atp doctor"):
        assert len([printed for printed in ran.lines if printed.startswith("error")]) == 1
        assert "params.yaml" not in line
        assert files() == before


def mounted(folder: Path, *options: str) -> None:
    """Mount a file system of its own, which needs root."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")


@pytest.mark.parametrize(
    ("option", "why"), [("size=8k", "the disk is full; free some space"), ("ro", "the disk is read-only; correct")]
)
def test_a_disk_that_cannot_be_written(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, why: str
) -> None:
    """Each command ends with one line, whichever library writes, and leaves nothing."""
    colours()
    mounted(project / "disk", "-o", option)
    # Pillow compresses an even image too well.
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("large.png")
    predictions()
    try:
        for command in (
            "atp predict large.png disk/out --model adapted",
            "atp export disk/weights.safetensors --model adapted",
            "atp export disk/weights.pth --model adapted",
            "atp annotations out disk/coco --format coco",
            "atp annotations out disk/cvat --format cvat",
            "atp annotations out disk/tasks --format label-studio",
            "atp labels convert colours disk/labels --classes data/source/classes.yaml --unlabelled 1,2,3",
        ):
            if "labels" in command or "annotations" in command:
                # They are so small that they would fit.
                with suppress(OSError):
                    (project / "disk/filled").write_bytes(bytes(2**13))
            ran = Ran(command, monkeypatch, capsys)
            (line,) = [printed for printed in ran.lines if printed.startswith("error")]
            assert ran.code == 2
            assert line.startswith("error: disk/")
            assert why in line
            assert not [path for path in (project / "disk").rglob("*") if path.suffix not in ("", ".png")]
    finally:
        subprocess.run(["umount", "--lazy", str(project / "disk")], check=True)


def test_a_line_that_quotes_a_damaged_file_is_cut() -> None:
    """Of several lines, each on its own."""
    short, cut = str(InputError("a.json: damaged", f"b.json: not JSON ({'9' * 10**6})")).splitlines()
    assert short == "a.json: damaged"
    assert cut.startswith("b.json: not JSON (999")
    assert len(cut) < 2100
