"""What dvc.lock says about results: current, changed since, and whether they belong together."""

import json
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atp.selection.lockfile import Listing, outdated, outdated_result, read_stages, why_unmatched

PARAMS = {"align": {"lr": 0.1}, "teach": {"lr": 0.2}, "rounds": {"r01": {"model": "runs/align"}}}


def entry(outs: dict[str, str], deps: dict[str, str], **params: Any) -> dict[str, Any]:
    listed = {
        kind: [{"path": path, "md5": digest} for path, digest in each.items()]
        for kind, each in (("outs", outs), ("deps", deps))
    }
    return {**listed, "params": {"params.yaml": params}}


def lock() -> dict[str, Any]:
    return {
        "align": entry({"runs/align": "a1"}, {}, align={"lr": 0.1}),
        "teach@r01": entry({"runs/teach/r01": "t1"}, {"runs/align": "a1"}, **{"teach.lr": 0.2}),
        "propagate": entry({"runs/propagate": "p1"}, {"runs/teach/r01": "t1"}),
        "evaluate": entry(
            {"runs/evaluate": "e1"},
            {"data": "d1", "runs/align": "a1", "runs/teach": "all", "runs/propagate": "p1"},
            rounds={"r01": {"model": "runs/align"}},
        ),
    }


def test_a_result_of_the_same_parameters_and_results_is_current() -> None:
    assert not outdated(lock(), PARAMS, "evaluate")
    assert not outdated({}, PARAMS, "propagate"), "made without DVC"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"align": {"lr": 0.3}}, "align.lr in params.yaml was changed since"),
        ({"teach": {"lr": 0.3}}, "teach.lr in params.yaml was changed since"),
        ({"rounds": {"r01": {"model": "runs/source"}}}, "rounds.r01 in params.yaml was changed since"),
    ],
)
def test_a_parameter_of_a_stage_before_it_was_changed(changed: dict[str, Any], why: str) -> None:
    assert outdated(lock(), PARAMS | changed, "propagate") == why


def test_what_comes_after_a_result_does_not_count() -> None:
    assert not outdated(lock(), PARAMS | {"teach": {"lr": 0.3}}, "align")


@pytest.mark.parametrize("stage", ["propagate", "evaluate"])
def test_a_stage_before_it_ran_again(stage: str) -> None:
    stages = lock()
    stages["align"]["outs"][0]["md5"] = "a2"
    assert outdated(stages, PARAMS, stage) == "runs/align was updated since"
    assert not outdated(stages, PARAMS, "align")


def test_what_was_measured_is_of_this_model_or_of_another() -> None:
    stages = lock()
    assert why_unmatched(stages, PARAMS, "align", lambda digest: None) == ""
    stages["align"]["outs"][0]["md5"] = "a2"
    assert why_unmatched(stages, PARAMS, "align", lambda digest: None).startswith("runs/evaluate is of another model")
    assert why_unmatched(stages, PARAMS, "propagate", lambda digest: None) == ""
    del stages["evaluate"]
    assert why_unmatched(stages, PARAMS, "propagate", lambda digest: None).startswith("dvc.lock does not show")


def test_of_rounds_all_together_are_compared() -> None:
    files: dict[str, Listing] = {
        "t1": [{"md5": "m1", "relpath": "model.safetensors"}, {"md5": "e1", "relpath": "evidence.json"}],
        "t2": [{"md5": "m2", "relpath": "model.safetensors"}],
    }
    stages = lock() | {"teach@r02": entry({"runs/teach/r02": "t2"}, {"runs/teach/r01": "t1"})}
    stages["teach@r09"] = entry({"runs/teach/r09": "t9"}, {})  # gone; DVC keeps its entry
    params = PARAMS | {"rounds": {"r01": {"model": "runs/align"}, "r02": {"model": "runs/teach/r01"}}}
    # As DVC 3 writes it; checked on a finished run of ours.
    together = [
        {"md5": "e1", "relpath": "r01/evidence.json"},
        {"md5": "m1", "relpath": "r01/model.safetensors"},
        {"md5": "m2", "relpath": "r02/model.safetensors"},
    ]
    digest = md5(json.dumps(together).encode(), usedforsecurity=False).hexdigest()
    stages["evaluate"]["deps"][2]["md5"] = f"{digest}.dir"
    assert why_unmatched(stages, params, "teach@r01", files.get) == ""
    assert why_unmatched(stages, params, "teach@r01", lambda digest: None).startswith(
        "DVC's cache lacks runs/teach/r01"
    )
    stages["teach@r01"]["outs"][0]["md5"] = "t2"
    assert why_unmatched(stages, params, "teach@r01", files.get).startswith("runs/evaluate is of another model")


def test_a_round_that_is_gone_does_not_count() -> None:
    stages = lock() | {"teach@r09": entry({"runs/teach/r09": "t9"}, {}, **{"teach.lr": 0.9})}
    assert not outdated(stages, PARAMS, "evaluate")
    del stages["evaluate"]["params"]
    there = PARAMS | {"rounds": {"r01": {"model": "runs/align"}, "r09": {}}}
    assert outdated(stages, there, "evaluate") == "teach.lr in params.yaml was changed since"


def write(folder: Path, stages: dict[str, Any], params: dict[str, Any], data: str) -> None:
    yaml = YAML(typ="safe")
    yaml.dump({"stages": stages}, folder / "dvc.lock")
    yaml.dump(params, folder / "params.yaml")
    yaml.dump({"outs": [{"path": "data", "md5": data}]}, folder / "data.dvc")
    for name in ("teach/r01", "propagate", "evaluate"):
        (folder / "runs" / name).mkdir(parents=True, exist_ok=True)
        (folder / "runs" / name / "model.safetensors").touch()


def test_a_folder_or_a_file_below_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, lock(), PARAMS, "d1")
    monkeypatch.chdir(tmp_path)
    assert not outdated_result(Path("runs/propagate"))
    assert not outdated_result(Path("runs/evaluate"))
    write(tmp_path, lock(), PARAMS | {"teach": {"lr": 0.3}}, "d2")
    for folder in (tmp_path / "runs", Path("runs")):
        for name in ("propagate", "propagate/model.safetensors", "teach/r01"):
            assert outdated_result(folder / name) == "teach.lr in params.yaml was changed since"
    assert not outdated_result(Path("adapted.safetensors"))
    write(tmp_path, lock(), PARAMS, "d2")
    assert outdated_result(Path("runs/evaluate")) == "data was imported again since"
    (tmp_path / "params.yaml").write_text("{")
    assert not outdated_result(Path("runs/propagate")), "told by whoever runs the pipeline"
    (tmp_path / "dvc.lock").write_text("<<<<<<< HEAD\n")
    assert not outdated_result(Path("runs/evaluate"))
    assert read_stages(None) == {}
