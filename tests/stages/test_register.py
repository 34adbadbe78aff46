"""Stage ``register``: once per model, with the alias, and quickly when there is nothing to do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from atp.params import load_params
from atp.registry.comparison import evaluation_digest
from atp.registry.gate import JUDGEMENT
from atp.registry.origin import identify
from atp.runner.tracking import Tracker
from atp.stages.register import described, register, upload_picture

# Runs the stage and says whether it imported PyTorch, which takes longer than all that it does.
LEAN = """
import runpy, sys
sys.argv = ["register"]
runpy.run_module("atp.stages.register", run_name="__main__")
print("torch" in sys.modules)
"""


def run_lean() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=False)


def version_of(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "runs/register/version.json").read_text())
    return found


def test_three_at_once_make_two_versions(registered: Path) -> None:
    """All on a new database; the first and its twin have the same model, data and parameters."""
    first, twin, second = (version_of(registered / name) for name in ("first", "twin", "second"))
    assert first == twin
    assert {first["version"], second["version"]} == {"1", "2"}
    client = MlflowClient(f"sqlite:///{registered}/mlflow.db")
    assert len(client.search_model_versions("name = 'atp'")) == 2
    for told in (first, second):
        version = client.get_model_version("atp", told["version"])
        assert {k: v for k, v in version.tags.items() if not k.startswith(JUDGEMENT)} == told["tags"]
        assert version.run_id == told["run_id"]


def test_the_better_of_two_at_once_is_champion(registered: Path) -> None:
    """Whichever of them came first: the second project's model has 51.5 % mIoU, the first's 50.25 %."""
    first, second = (version_of(registered / name)["version"] for name in ("first", "second"))
    client = MlflowClient(f"sqlite:///{registered}/mlflow.db")
    champion = client.get_model_version_by_alias("atp", "champion")
    assert str(champion.version) == second
    assert str(client.get_model_version_by_alias("atp", "candidate").version) in (first, second)
    assert champion.tags["atp.promoted_by"] == "gate"
    assert champion.tags["atp.gate"].startswith("promoted: 51.50 % mIoU")
    if champion.tags["atp.promoted_over"] == "none":
        loser = client.get_model_version("atp", first)
        assert loser.tags["atp.gate"] == f"not promoted: 50.25 % mIoU against 51.50 % of version {second}"
    else:
        assert champion.tags["atp.promoted_why"] == f"51.50 % mIoU against 50.25 % of version {first}"


def test_a_version_has_its_card(registered: Path) -> None:
    client = MlflowClient(f"sqlite:///{registered}/mlflow.db")
    card = client.get_model_version("atp", version_of(registered / "first")["version"]).description
    assert "**50.25 % mIoU**" in card
    assert "the 2 images of `data/test/images`" in card
    assert "got worse: road (21.00 to 19.50)" in card
    assert "![" not in card, "there is no report"


def test_the_card_has_the_reports_picture_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert upload_picture(Tracker()) == ""
    Path("runs/report").mkdir(parents=True)
    Image.new("RGB", (3000, 2000)).save("runs/report/predictions.png")
    uploaded = []

    class Uploads(Tracker):
        def artifacts(self, path: Path, to: str | None = None) -> None:
            with Image.open(path) as picture:
                uploaded.append((path.name, to, picture.size))

    address = upload_picture(Uploads(run_id="abc"))
    assert uploaded == [("predictions.jpg", "card", (720, 480))]
    assert address == "get-artifact?path=card%2Fpredictions.jpg&run_uuid=abc"


def test_the_pipelines_run_has_the_model_and_what_sums_it_up(registered: Path) -> None:
    client = MlflowClient(f"sqlite:///{registered}/mlflow.db")
    parent = client.get_run(version_of(registered / "first")["run_id"])
    assert parent.data.metrics == {"miou_source": 40.5, "miou_propagate": 50.25}
    assert parent.info.status == "FINISHED"
    assert len(parent.outputs.model_outputs) == 1
    model = client.get_logged_model(parent.outputs.model_outputs[0].model_id)
    assert model.params["align.epochs"] == "4"
    assert {metric.key for metric in model.metrics} == {"miou_source", "miou_propagate"}
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    (child,) = client.search_runs([parent.info.experiment_id], query)
    assert (child.data.tags["atp.stage"], child.info.status) == ("register", "FINISHED")
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["metrics.json"]


def test_again_nothing_is_new_and_pytorch_is_not_imported(copy: Path, client: MlflowClient) -> None:
    client.set_registered_model_alias("atp", "candidate", version_of(copy / "first")["version"])
    before = (copy / "first/runs/register/version.json").read_bytes()
    shutil.rmtree(copy / "first/runs/register")
    done = run_lean()
    assert done.returncode == 0, done.stderr
    assert "(candidate) already holds this model" in done.stderr
    assert done.stdout.strip() == "False"
    assert (copy / "first/runs/register/version.json").read_bytes() == before
    assert not list((copy / "first/runs").glob(".*"))


def test_the_alias_comes_back_without_a_new_version(copy: Path, client: MlflowClient) -> None:
    first, second = version_of(copy / "first"), version_of(copy / "second")
    client.set_registered_model_alias("atp", "candidate", second["version"])
    params = load_params()
    version = register(params, identify(params), evaluation_digest(params))
    assert described(version, "candidate") == first
    assert str(client.get_model_version_by_alias("atp", "candidate").version) == first["version"]
    assert len(client.search_model_versions("name = 'atp'")) == 2
    client.delete_registered_model_alias("atp", "candidate")
    register(params, identify(params), evaluation_digest(params))
    assert str(client.get_model_version_by_alias("atp", "candidate").version) == first["version"]


def test_no_adapted_model_is_one_line(small_project: Path) -> None:
    shutil.rmtree("runs/propagate")
    done = run_lean()
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: runs/propagate/model.safetensors: no such file; run the stage that makes it: dvc repro propagate"
    ]


def test_a_registry_that_does_not_answer_is_one_line(small_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = run_lean()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: MLflow at http://127.0.0.1:9 does not work (")
    assert not Path("runs/register").exists()


def test_who_went_back_by_hand_is_not_overruled(copy: Path, client: MlflowClient) -> None:
    first, second = (version_of(copy / name)["version"] for name in ("first", "second"))
    client.set_registered_model_alias("atp", "champion", first)
    client.set_registered_model_alias("atp", "candidate", second)
    params = load_params(copy / "second/params.yaml", {"register.gain": 0.1})
    identity = identify(params)
    register(params, identity, evaluation_digest(params))
    assert str(client.get_model_version_by_alias("atp", "champion").version) == first
