"""What makes two evaluations the same."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from atp.params import load_params
from atp.registry.comparison import evaluation_digest
from atp.runs import METRICS


def test_what_makes_another_evaluation(small_project: Path) -> None:
    seen = {evaluation_digest(load_params())}
    changes = {"data.size": [80, 40], "data.window": [80, 40], "evaluate.flip": True, "training.precision": "fp32"}
    for override in ({name: value} for name, value in changes.items()):
        seen.add(evaluation_digest(load_params(overrides=override)))
    for kind in ("labels", "images"):
        Image.fromarray(np.zeros((16, 32), np.uint8)).save(f"data/test/{kind}/a.png")
        seen.add(evaluation_digest(load_params()))
    assert len(seen) == 7


def test_what_does_not(small_project: Path) -> None:
    before = evaluation_digest(load_params())
    overrides = {"align.epochs": 9, "register.gain": 2.0, "runtime.device": "cpu", "training.seed": 3}
    assert evaluation_digest(load_params(overrides=overrides)) == before
    assert before is not None
    assert before.startswith("sha256:")


def test_precision_is_what_auto_came_to(small_project: Path) -> None:
    metrics = json.loads(METRICS.read_text())
    seen = set()
    for measured, asked in (("bf16", "auto"), ("bf16", "bf16"), ("fp32", "auto")):
        METRICS.write_text(json.dumps(metrics | {"precision": measured}))
        seen.add(evaluation_digest(load_params(overrides={"training.precision": asked})))
    assert len(seen) == 2


def test_without_labels_there_is_none(small_project: Path) -> None:
    assert evaluation_digest(load_params(overrides={"data.test.labels": None})) is None
