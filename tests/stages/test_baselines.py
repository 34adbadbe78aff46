"""A baseline in the place of align, as DVC starts it."""

import shutil
from pathlib import Path

from atp.models.checkpoint import load_checkpoint
from tests.stages.launch import RunStage, set_params


def test_a_baseline_is_chosen_by_one_parameter(adapted: Path, tmp_path: Path, run_stage: RunStage) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    before = load_checkpoint(project / "runs/align/model.safetensors").state
    set_params(project, "align", method="baselines/cbst")
    ended = run_stage(project, "align")
    assert ended.code == 0, ended.output
    assert (project / "runs/align/history.csv").read_text().startswith("step,loss,labelled\n")
    after = load_checkpoint(project / "runs/align/model.safetensors").state
    assert before.keys() == after.keys()
    assert not list((project / ".atp/state").glob("align*")), "the rounds' states are deleted on success"
    # The stages that follow take the baseline's model for align's.
    assert run_stage(project, "dump", "--round", "r01").code == 0


def test_a_baseline_without_a_history_and_with_a_wrong_setting(
    adapted: Path, tmp_path: Path, run_stage: RunStage
) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    set_params(project, "align", method="baselines/batchnorm")
    assert run_stage(project, "align").code == 0
    set_params(project, "align", method="baselines/urma", baseline={"dropuot": 0.5})
    ended = run_stage(project, "align")
    assert ended.code == 2
    assert "error: params.yaml: align.baseline.dropuot: unknown key; is it dropout?" in ended.output
