"""A finished run in small, as the stages leave it, without having run them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from atp.params import Params, load_params
from atp.report.page import build_report

ROOT = Path(__file__).parents[2]
MODELS = ("source", "align", "teach_r01", "teach", "propagate", "batchnorm_only")
MARKUP = "<img src=x onerror=alert(1)>"
NAMES = ("a/1", "a/2", "b/1", "b/2", "b/3", "b/4", "b/5", f"b/{MARKUP}")
CLASSES = ("sky", MARKUP, "_a class whose name is much too long for a picture_", "信号")
"""Names that HTML, matplotlib and a font without Chinese would each stumble over."""


def write_json(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def write_image(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_run(
    folder: Path, *, labels: bool = True, classes: tuple[str, ...] = CLASSES, black_box: tuple[str, ...] = ()
) -> Params:
    """A project whose run is finished; ``folder`` must be the working folder.

    Args:
        black_box: models to have instead, of a run without a source model.

    The models grow better from source to propagate, and the images worse from the first to the last: image i has the
    mIoU 80 - 5 i by propagate, and the entropy 0.1 (i + 1).
    """
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "params.yaml")
    params["rounds"]["r02"] = {"model": "runs/teach/r01"}
    params["data"]["classes"] = [{"name": name, "color": [i, 2 * i % 256, 255 - i]} for i, name in enumerate(classes)]
    if not labels:
        params["data"]["test"]["labels"] = params["data"]["target"]["labels"] = None
    models = MODELS
    if black_box:
        models = black_box
        del params["source"], params["align"]
        params |= {
            "query": {"box": "folder", "folder": "box/answers"},
            "distill": {"epochs": 1, "batch_size": 1, "lr": 1.0},
        }
        params["rounds"]["r01"]["model"] = "runs/distill"
        params["data"] |= {"source": {"root": "box"}}
        colors = [entry["color"] for entry in params["data"]["classes"]]
        write_json(folder / "runs/query/target/table.json", {"classes": classes, "colors": colors})
        params["data"]["classes"] = "box/classes.yaml"  # which is not there
    yaml.dump(params, folder / "params.yaml")
    rng = np.random.default_rng(0)
    count, evaluation = len(classes), folder / "runs/evaluate"
    for index, name in enumerate(NAMES):
        # Landscape and portrait, small and less small.
        height, width = ((8, 16), (16, 8), (40, 80))[index % 3]
        write_image(folder / f"data/test/images/{name}.png", rng.integers(0, 256, (height, width, 3), np.uint8))
        write_image(folder / f"data/target/images/{name}.png", rng.integers(0, 256, (height, width, 3), np.uint8))
        ids = rng.integers(0, count, (height, width)).astype(np.uint8)
        for model in (name for name in models if name != "batchnorm_only"):
            write_image(evaluation / f"predictions/{model}/{name}.png", ids)
        if labels:
            ids[:2] = 255
            write_image(folder / f"data/test/labels/{name}.png", ids)
    shares = {name: None if i == 1 else 50.0 + i / 10 for i, name in enumerate(classes)}
    metrics: dict[str, Any] = {"miou": {}, "iou": {}, "entropy": dict.fromkeys(models, 0.25)}
    if labels:
        metrics["miou"] = dict(zip(models, (40.0, 44.4, 46.6, 48.8, 52.3, 45.2), strict=False))
        metrics["protocols"] = {MARKUP: {"source": 31.25, "align": None, "propagate": 43.75}}
        metrics["iou"] = dict.fromkeys(models, shares)
        metrics["iou"]["propagate"] = {**shares, classes[0]: 61.7}
    rounds = {key: {"coverage": 0.65} for key in ("r01", "r02", "split")}
    for key, row in rounds.items():
        if labels:
            accuracy = dict.fromkeys(classes, 90.0) | {classes[-1]: None}
            row |= {"accuracy": 88.8, "negative_accuracy": 98.7, "accuracy_per_class": accuracy}
        entries = [{"name": name, "threshold": None if i == 2 else 0.9} for i, name in enumerate(classes)]
        write_json(
            folder / "runs" / ("split/labels" if key == "split" else f"dump/{key}") / "table.json", {"classes": entries}
        )
    write_json(evaluation / "metrics.json", {**metrics, "pseudo_labels": rounds})
    miou = {name: 80.0 - 5 * i for i, name in enumerate(NAMES)} if labels else {}
    entropy = {name: 0.1 * (i + 1) for i, name in enumerate(NAMES)}
    write_json(evaluation / "images.json", {model: {"miou": miou, "entropy": entropy} for model in models})
    counts = (rng.integers(0, 1000, (count, count)) * labels).tolist()
    write_json(evaluation / "confusion.json", dict.fromkeys(models, counts))
    write_json(folder / "runs/split/ranking.json", {"easy": NAMES[:4], "hard": NAMES[4:], "entropy": entropy})
    for stage in ("distill" if black_box else "align", "teach/r01", "teach/r02", "propagate"):
        path = folder / "runs" / stage / "history.csv"
        path.parent.mkdir(parents=True)
        path.write_text("step,loss,part\n2,0.5,0.25\n4,0.4,-0.125\n")
    figures = {"scale_iou": 0.4, "flip_iou": 0.5, "photometric_iou": 0.6, "marginal_kl": 0.0}
    for index, stage in enumerate(("distill" if black_box else "align", "teach/r01", "teach/r02", "propagate"), 1):
        after = figures | {"scale_iou": 0.4 + index / 20, "marginal_kl": index / 10}
        told = {"images": 8, "verdict": "improved", "why": f"more & more {MARKUP}", "reverted": False}
        write_json(
            folder / "runs" / stage / "evidence.json", {**told, "source": figures, "before": figures, "after": after}
        )
    # A source model that was given has no history.
    (folder / "runs/source").mkdir()
    (folder / "runs/source/history.csv").write_text("\n")
    return load_params(folder / "params.yaml")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with the report of one run whose data DVC brought. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = make_run(folder)
        (folder / "data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n  path: data\n")
        for name in ("first", "second"):
            (folder / name).mkdir()
            build_report(params, Path("runs"), folder / name)
    return folder / "first", folder / "second"


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """Makes a finished run in a folder of its own, which is then the working folder."""
    monkeypatch.chdir(tmp_path)
    return lambda **kind: make_run(tmp_path, **kind)
