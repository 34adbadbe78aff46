"""What the written files say is the mask, by the rules of each format."""

import json
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from atp.annotations.runs import Runs, brush
from atp.annotations.write import write_annotations
from atp.cli import app
from atp.data.labels import LabelSpace
from atp.data.masks import write_classes, write_mask
from atp.errors import InputError
from atp.media.record import Row, write_record

SPACE = LabelSpace(("sky & air", "road", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))
ENTROPIES = {"deeper/b": 0.2, "a": 0.7, "c": 0.4}
ORDER = ["1_a", "2_c", "3_deeper_b"]

Masks = dict[str, NDArray[np.uint8]]


def predicted(folder: Path, space: LabelSpace = SPACE) -> Masks:
    """What ``atp predict`` writes for three images; returns the masks by their new names."""
    generator = np.random.default_rng(0)
    rows, masks = [], {}
    for index, (name, entropy) in enumerate(ENTROPIES.items()):
        height, width = 5 + index, 9
        ids = generator.integers(0, 3, (height, width), dtype=np.uint8)
        ids[:, 4:] = ids[:, 4:5]
        # Without a class, which a black box may leave; and a class that touches both ends.
        ids[2, 2], ids[0, 0], ids[-1, -1] = 255, 1, 1
        write_mask(folder / f"out/masks/{name}.png", ids, space)
        image = folder / f"images/{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(image)
        rows.append(Row(name, str(image), width, height, entropy))
        masks[name] = ids
    write_record(folder / "out", "runs/propagate", space, rows)
    return {new: masks[new.partition("_")[2].replace("_", "/")] for new in ORDER}


@pytest.fixture
def masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Masks:
    monkeypatch.chdir(tmp_path)
    return predicted(tmp_path)


def test_coco(masks: Masks) -> None:
    line = write_annotations(Path("out"), Path("new"), "coco")
    assert line == "3 images, the least certain first, in new: annotations.json and images/"
    found = json.loads(Path("new/annotations.json").read_text())
    assert [each["name"] for each in found["categories"]] == list(SPACE.names)
    assert [(each["id"], each["file_name"], each["entropy"]) for each in found["images"]] == [
        (1, "1_a.png", 0.7),
        (2, "2_c.png", 0.4),
        (3, "3_deeper_b.png", 0.2),
    ]
    assert len({each["id"] for each in found["annotations"]}) == len(found["annotations"])
    for image in found["images"]:
        mask = masks[Path(image["file_name"]).stem]
        assert (image["height"], image["width"]) == mask.shape
        decoded = np.full(mask.shape, 255)
        for each in found["annotations"]:
            if each["image_id"] == image["id"]:
                counts, shape = each["segmentation"]["counts"], each["segmentation"]["size"]
                flat = np.repeat(np.arange(len(counts)) % 2, counts)
                padded = np.pad(flat, (0, mask.size - len(flat)))
                own = padded.reshape(shape, order="F") == 1
                decoded[own] = each["category_id"] - 1
                left, top, width, height = each["bbox"]
                assert each["area"] == own.sum() == own[top : top + height, left : left + width].sum()
                assert own[:, left].any()
                assert own[top + height - 1].any()
        assert np.array_equal(decoded, mask)


def unpacked(rle: list[int]) -> NDArray[np.uint8]:
    """Label Studio's run lengths, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == total
    assert len(bits) - place < 8
    return np.array(values, np.uint8)


def test_label_studio(masks: Masks) -> None:
    write_annotations(Path("out"), Path("new"), "label-studio")
    tasks = json.loads(Path("new/tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d=new/images/{name}.png" for name in ORDER
    ]
    assert [task["predictions"][0]["score"] for task in tasks] == [0.3, 0.6, 0.8]
    for name, task in zip(ORDER, tasks, strict=True):
        decoded = np.full(masks[name].shape, 255)
        for result in task["predictions"][0]["result"]:
            assert (result["original_height"], result["original_width"]) == masks[name].shape
            channels = unpacked(result["value"]["rle"]).reshape(*masks[name].shape, 4)
            assert (channels == channels[..., :1]).all()
            (label,) = result["value"]["brushlabels"]
            decoded[channels[..., 3] == 255] = SPACE.names.index(label)
        assert np.array_equal(decoded, masks[name])
    interface = ElementTree.parse("new/interface.xml")
    labels = {label.get("value"): label.get("background") for label in interface.iter("Label")}
    assert labels == {"sky & air": "#0000c8", "road": "#5a5a5a", "car": "#c80000"}


@pytest.mark.parametrize("lengths", [[3], [0, 1], [0, 2, 16384, 16385, 1], [70000, 2, 4, 64]])
def test_runs_of_every_length(lengths: list[int]) -> None:
    """A run of more than 16384 pixels is split, since its four channels are more than 16 bits count."""
    expected = np.repeat(np.arange(len(lengths)) % 2 * 255, 4 * np.array(lengths))
    assert np.array_equal(unpacked(brush(np.array(lengths))), expected)
    flat = np.repeat(np.arange(len(lengths), dtype=np.uint8) % 2, lengths)
    assert Runs.of(flat).alternating(1).tolist() == lengths


@pytest.mark.parametrize("black", [False, True])
def test_cvat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, black: bool) -> None:
    """A class in the background's colour gets another."""
    monkeypatch.chdir(tmp_path)
    space = LabelSpace(SPACE.names, ((0, 0, 0), *SPACE.colors[1:])) if black else SPACE
    masks = predicted(tmp_path, space)
    write_annotations(Path("out"), Path("new"), "cvat")
    with zipfile.ZipFile("new/annotations.zip") as archive:
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == ORDER
        lines = [line.split(":") for line in archive.read("labelmap.txt").decode().splitlines()[1:]]
        colors = {name: tuple(map(int, color.split(","))) for name, color, *_ in lines}
        pictures = {
            (kind, name): np.array(Image.open(BytesIO(archive.read(f"Segmentation{kind}/{name}.png"))))
            for kind in ("Class", "Object")
            for name in ORDER
        }
    assert list(colors) == ["background", *space.names]
    assert len(set(colors.values())) == 4
    assert colors["background"] == (0, 0, 0)
    assert (colors["sky & air"] == space.colors[0]) is not black
    labels = json.loads(Path("new/labels.json").read_text())
    assert [each["name"] for each in labels] == list(space.names)
    assert labels[1]["color"] == "#{:02x}{:02x}{:02x}".format(*colors["road"])
    for name, mask in masks.items():
        decoded = np.full(mask.shape, 255)
        for index, label in enumerate(space.names):
            decoded[(pictures["Class", name] == colors[label]).all(2)] = index
        assert np.array_equal(decoded, mask)
        # One object for each class: as many colours, at the same places.
        both = np.concatenate([pictures["Class", name], pictures["Object", name]], 2).reshape(-1, 6)
        assert len(np.unique(both, axis=0)) == len(np.unique(mask))


def test_corrected_masks_become_labels(masks: Masks) -> None:
    """Colours of CVAT's export, by ``atp labels convert``."""
    write_annotations(Path("out"), Path("new"), "cvat")
    with zipfile.ZipFile("new/annotations.zip") as archive:
        archive.extractall("corrected")
    write_classes(Path("classes.yaml"), SPACE)
    options = ["--classes", "classes.yaml", "--unlabelled", "0,0,0"]
    result = CliRunner().invoke(app, ["labels", "convert", "corrected/SegmentationClass", "labels", *options])
    assert result.exit_code == 0, result.exception
    for name, mask in masks.items():
        with Image.open(f"labels/{name}.png") as file:
            assert np.array_equal(np.array(file), mask)


def test_the_images_are_beside_it_in_their_order(masks: Masks) -> None:
    write_annotations(Path("out"), Path("new"), "coco", most=2)
    assert sorted(path.name for path in Path("new/images").iterdir()) == ["1_a.png", "2_c.png"]
    assert Path("new/images/1_a.png").read_bytes() == Path("images/a.png").read_bytes()
    assert len(json.loads(Path("new/annotations.json").read_text())["images"]) == 2


def test_fiftyone(masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is asked for; the package, with its database, is not installed for the tests."""
    made: dict[str, Any] = {}

    class Dataset:
        def __init__(self, name: str, persistent: bool) -> None:
            made.update(name=name, persistent=persistent)

        def add_samples(self, samples: list[dict[str, Any]]) -> None:
            made["samples"] = samples

        def sort_by(self, field: str, reverse: bool) -> tuple[str, bool]:
            return field, reverse

        def save_view(self, name: str, view: object) -> None:
            made[name] = view, vars(self)["default_mask_targets"]

    package: Any = ModuleType("fiftyone")
    package.Dataset, package.Sample, package.Segmentation = Dataset, dict, dict
    package.dataset_exists = lambda name: name == "taken"
    config: Any = ModuleType("fiftyone.core.config")
    config.FiftyOneConfigError = ValueError
    for name, module in (("fiftyone", package), ("fiftyone.core", package), ("fiftyone.core.config", config)):
        monkeypatch.setitem(sys.modules, name, module)
    line = write_annotations(Path("out"), Path("streets"), "fiftyone")
    assert line.endswith("open it with: fiftyone app launch streets")
    targets = {"#0000c8": "sky & air", "#5a5a5a": "road", "#c80000": "car"}
    assert (made["name"], made["persistent"]) == ("streets", True)
    assert made["least certain first"] == (("entropy", True), targets)
    first = made["samples"][0]
    assert (first["entropy"], first["filepath"]) == (0.7, str(Path("images/a.png").absolute()))
    assert first["prediction"]["mask_path"] == str(Path("out/masks/a.png").absolute())
    with pytest.raises(InputError, match=r"^taken: FiftyOne has a data set of this name"):
        write_annotations(Path("out"), Path("taken"), "fiftyone")


def test_a_mask_of_another_image_is_named_and_nothing_is_left(masks: Masks) -> None:
    write_mask(Path("out/masks/c.png"), np.zeros((3, 3), np.uint8), SPACE)
    with pytest.raises(InputError, match=r"^out/masks/c.png: is not 9x7 as its image; run atp predict again"):
        write_annotations(Path("out"), Path("new"), "coco")
    assert sorted(path.name for path in Path().iterdir()) == ["images", "out"]
