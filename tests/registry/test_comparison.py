"""The same evaluation for two models."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atp.config import load_params
from atp.data.folder import list_samples
from atp.data.labels import LabelSpace
from atp.models.checkpoint import load_checkpoint, network_from_checkpoint, save_checkpoint
from atp.registry import comparison
from atp.registry.comparison import evaluate_again, evaluation_digest
from atp.stages.evaluate import evaluate, percent
from atp.training.runtime import Runtime


def test_what_makes_another_evaluation(small_project: Path) -> None:
    seen = {evaluation_digest(load_params())}
    for override in ({"data.size": [80, 40]}, {"evaluate.flip": True}, {"training.precision": "fp32"}):
        seen.add(evaluation_digest(load_params(overrides=override)))
    for kind in ("labels", "images"):
        Image.fromarray(np.zeros((16, 32), np.uint8)).save(f"data/test/{kind}/a.png")
        seen.add(evaluation_digest(load_params()))
    assert len(seen) == 6


def test_what_does_not(small_project: Path) -> None:
    before = evaluation_digest(load_params())
    overrides = {"align.epochs": 9, "register.gain": 2.0, "runtime.device": "cpu", "training.seed": 3}
    assert evaluation_digest(load_params(overrides=overrides)) == before
    assert before is not None
    assert before.startswith("sha256:")


def test_without_labels_there_is_none(small_project: Path) -> None:
    assert evaluation_digest(load_params(overrides={"data.test.labels": None})) is None


def test_weights_are_evaluated_anew_as_the_stage_does(small_project: Path) -> None:
    """In a process of its own; the expected figure is that of ``evaluate`` in this one."""
    params = load_params()
    path = Path("runs/source/model.safetensors")
    network, _ = network_from_checkpoint(path)
    samples = list_samples(params.data.test.images, params.data.test.labels)
    runtime = Runtime(torch.device("cpu"), dtype=torch.bfloat16)
    expected = percent(evaluate(network, samples, params.data.size, runtime).confusion.mean_iou())
    again = evaluate_again(path.resolve())
    assert (again.miou, again.why) == (expected, "")


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["comparison", *arguments])
    monkeypatch.setattr(comparison, "die_with_parent", lambda: None)
    comparison.main()


def test_other_classes_cannot_be_compared(
    small_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("runs/source/model.safetensors")
    checkpoint = load_checkpoint(path)
    network, space = network_from_checkpoint(path)
    save_checkpoint(path, network, checkpoint.config, LabelSpace(("sky", "car", "road"), space.colors), {})
    run_main(monkeypatch, str(path))
    assert json.loads(capsys.readouterr().out) == {"miou": None, "why": "its classes are others: sky, car, road"}


def test_what_cannot_be_read_is_a_reason(small_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "missing.safetensors")


def test_a_failed_process_is_a_reason(small_project: Path) -> None:
    Path("params.yaml").unlink()
    again = evaluate_again(Path("runs/source/model.safetensors"))
    assert again.miou is None
    assert again.why == "params.yaml: no such file; run from the root of the project"
