from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atp.data.labels import LabelSpace
from atp.params import Params
from atp.report.figures import signed
from atp.report.pictures import CELL, Example, chosen, examples, fitted, legend, mask_picture, predictions
from atp.report.results import read_results
from atp.report.style import class_names, image_names

Finished = Callable[..., Params]
SPACE = LabelSpace(("sky", "road"), ((10, 20, 200), (90, 80, 70)))


def shown_in(params: Params) -> list[Example]:
    results = read_results(params, Path("runs"))
    return examples(results, results.shown)


def test_best_median_and_worst_by_the_last_models_miou(finished: Finished) -> None:
    shown = shown_in(finished())
    assert [(example.group, example.name) for example in shown] == [
        ("best", "a/1"),
        ("best", "a/2"),
        ("median", "b/2"),
        ("median", "b/3"),
        ("worst", "b/5"),
        ("worst", "b/<img src=x onerror=alert(1)>"),
    ]


def test_by_entropy_without_labels(finished: Finished) -> None:
    shown = shown_in(finished(labels=False))
    assert [(example.group, example.name) for example in (shown[0], shown[-1])] == [
        ("surest", "a/1"),
        ("least sure", "b/<img src=x onerror=alert(1)>"),
    ]
    assert [caption for _, caption in shown[0].masks.values()] == ["entropy 0.100"] * 4


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_image_stands_twice(count: int) -> None:
    names = [name for _, name in chosen({str(i): i for i in range(count)}, 2, ("best", "median", "worst"))]
    assert len(names) == len(set(names)) == min(count, 3)


@pytest.mark.parametrize(("labels", "columns"), [(True, 6), (False, 5)])
def test_a_column_for_the_image_the_truth_and_every_model(finished: Finished, labels: bool, columns: int) -> None:
    results = read_results(finished(labels=labels), Path("runs"))
    picture = np.asarray(predictions(results))
    assert picture.shape[1] // CELL == columns
    # The first class's colour is in a prediction and in the legend; in noise it hardly is.
    assert (picture == results.space.colors[0]).all(2).mean() > 0.01


def test_masks_keep_their_colours_and_proportions() -> None:
    ids = np.array([[0, 0, 1], [1, 255, 1]], np.uint8)
    picture = np.asarray(mask_picture(ids, SPACE, (256, 171)))
    assert picture.shape == (171, 256, 3)
    assert picture[10, 10].tolist() == list(SPACE.colors[0])
    assert picture[10, 250].tolist() == list(SPACE.colors[1])
    assert picture[150, 128].tolist() == [255, 255, 255]
    sky = (picture == SPACE.colors[0]).all(2).mean()
    assert sky == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("size", "expected"), [((80, 40), (256, 128)), ((40, 80), (154, 307)), ((2048, 1024), (256, 128))]
)
def test_portraits_and_landscapes_fit(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(Image.new("RGB", size), 256, 1.2).size == expected


def test_legend_of_many_classes_shows_the_frequent_ones() -> None:
    space = LabelSpace(tuple(f"class {i}" for i in range(100)), ((1, 2, 3),) * 100)
    pixels = np.arange(256)
    pixels[100:] = 0
    entries = legend(space, pixels)
    assert len(entries) == 41
    assert entries[0][0] == "class 60"
    assert entries[-1] == ("and 59 more on fewer pixels", None)
    pixels[255] = 1
    assert ("unlabelled", (255, 255, 255)) in legend(space, pixels)


def test_names_are_short_and_drawable() -> None:
    space = LabelSpace(("sky", "信号", "vegetation and terrain of all sorts"), ((0, 0, 0),) * 3)
    assert class_names(space) == ["sky", "class 1", "vegetation…of all sorts"]


def test_image_names_lose_what_they_share_not_what_tells_them_apart() -> None:
    names = [f"frankfurt/frankfurt_{i:06}_leftImg8bit" for i in (12, 17)]
    assert image_names(names, 20) == ["…000012…", "…000017…"]
    assert image_names(["0001", "0002"], 20) == ["0001", "0002"]


@pytest.mark.parametrize(("value", "text"), [(1.25, "+1.2"), (-0.04, "+0.0"), (-3.0, "\N{MINUS SIGN}3.0")])
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text
