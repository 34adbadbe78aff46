"""The champion's weights in the evaluation of today."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from atp.data.folder import list_samples
from atp.data.labels import LabelSpace
from atp.evaluation.evaluate import evaluate, percent
from atp.models.checkpoint import load_checkpoint, network_from_checkpoint, save_checkpoint
from atp.params import load_params
from atp.stages import champion
from atp.stages.champion import evaluate_again
from atp.training.runtime import open_runtime
from tests.conftest import make_own_project


def test_weights_are_evaluated_anew_as_the_stage_does(small_project: Path) -> None:
    """In a process of its own; the expected figure is that of ``evaluate`` in this one."""
    params = load_params()
    path = Path("runs/source/model.safetensors")
    network, _ = network_from_checkpoint(path)
    samples = list_samples(params.data.test.images, params.data.test.labels)
    with open_runtime(params.training, params.runtime) as runtime:
        # At its own size, not at that of this project's data.
        assert network.reading.size != params.data.size
        figures = [percent(evaluate(network, samples, size, runtime).confusion.mean_iou()) for size in ((24, 16), None)]
    assert figures[0] != figures[1]
    again = evaluate_again(path.resolve())
    assert (again.miou, again.why) == (figures[0], "")


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["champion", *arguments])
    monkeypatch.setattr(champion, "die_with_parent", lambda: None)
    champion.main()


def test_other_classes_cannot_be_compared(
    small_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("runs/source/model.safetensors")
    checkpoint = load_checkpoint(path)
    network, space = network_from_checkpoint(path)
    save_checkpoint(path, network, checkpoint.config, LabelSpace(("sky", "car", "road"), space.colors), {})
    run_main(monkeypatch, str(path))
    assert json.loads(capsys.readouterr().out) == {"miou": None, "why": "its classes differ: sky, car, road"}


def test_what_cannot_be_read_is_a_reason(small_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "missing.safetensors")


def test_a_failed_process_is_a_reason(small_project: Path) -> None:
    Path("params.yaml").unlink()
    again = evaluate_again(Path("runs/source/model.safetensors"))
    assert again.miou is None
    assert again.why == "params.yaml: no such file; run from the root of the project"


def test_a_champion_with_a_network_of_its_own_brings_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, model = make_own_project(tmp_path / "project"), tmp_path / "model"
    monkeypatch.chdir(project)
    (model / "artifacts").mkdir(parents=True)
    shutil.copy(project / "runs/propagate/model.safetensors", model / "artifacts")
    checkpoint = model / "artifacts/model.safetensors"
    # The project has another network by now.
    Path("nets").rename("nets_of_old")
    why = evaluate_again(checkpoint).why
    assert why.startswith(
        "model.factory: nets.net:make cannot be imported (ModuleNotFoundError: No module named 'nets')"
    )
    (model / "MLmodel").touch()
    (model / "code").mkdir()
    Path("nets_of_old").rename(model / "code/nets")
    again = evaluate_again(checkpoint)
    assert again.why == ""
    assert again.miou is not None
