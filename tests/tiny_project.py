"""A tiny project on disk, and stages run in it as DVC runs them: each a process of its own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.once import once
from tests.stages.launch import ORDER, Ended, RunStage, forkserver, stage_process

ROOT = Path(__file__).parents[1]


def make_template(root: Path) -> Path:
    """Eight source, eight target, four test and two validation images of 32x24, three classes, and their parameters."""
    generator = np.random.default_rng(0)
    for split, count, shift in (("source", 8, 0), ("target", 8, 40), ("test", 4, 40), ("validation", 2, 40)):
        for index in range(count):
            ids = np.zeros((24, 32), dtype=np.uint8)
            ids[10:, :] = 1
            left = int(generator.integers(2, 20))
            ids[6:16, left : left + 8] = 2
            colours = np.array([[60, 120, 200], [90, 80, 90], [200, 60, 40]])[ids] + shift
            image = np.clip(colours + generator.normal(0, 12, (24, 32, 3)), 0, 255).astype(np.uint8)
            for kind, array in (("images", image), ("labels", ids)):
                folder = root / "data" / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"{index:02}.png")
    classes = [{"name": name, "color": [80 * index, 90, 120]} for index, name in enumerate(("sky", "road", "car"))]
    yaml = YAML(typ="safe")
    yaml.dump(classes, root / "data/source/classes.yaml")
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {"size": [32, 24], "protocols": {"ground": ["road", "car"]}}
    params["model"] |= {"output_stride": 8, "aspp_dilations": [1, 2]}
    params["training"]["precision"] = "fp32"
    params["runtime"] |= {"threads": 1, "workers": 0, "save_every_s": 0, "system_metrics_s": 0}
    params["source"] |= {"epochs": 6, "batch_size": 4, "warmup_steps": 2}
    for stage in ("align", "teach"):
        params[stage] |= {"epochs": 3, "batch_size": 4}
    params["propagate"] |= {"epochs": 4, "batch_size": 2}
    # What so short a training is worth is chance, and a test that compares models must have those that were trained.
    params["evidence"]["on_collapse"] = "warn"
    params["rounds"]["r02"] = {"model": "runs/teach/r01"}
    params["split"]["model"] = "runs/teach/r02"
    yaml.dump(params, root / "params.yaml")
    return root


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A fresh copy of the tiny project."""
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture(scope="session")
def run_stage() -> RunStage:
    """``run_stage(project, "teach", "--round", "r01")`` runs a stage's command in a process forked from one that has
    everything imported, which saves the seconds that importing torch takes."""
    context = forkserver()

    def run(project: Path, stage: str, *arguments: str) -> Ended:
        process = context.Process(target=stage_process, args=(project, stage, arguments))
        process.start()
        process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, (project / "output.txt").read_text())

    return run


@pytest.fixture(scope="session")
def adapted(template: Path, tmp_path_factory: pytest.TempPathFactory, run_stage: RunStage) -> Path:
    """The tiny project with every stage up to ``evaluate`` done; not to be changed."""

    def make(folder: Path) -> None:
        project = Path(shutil.copytree(template, folder / "project"))
        for stage, *arguments in ORDER:
            ended = run_stage(project, stage, *arguments)
            assert ended.code == 0, ended.output

    return once(tmp_path_factory, "adapted", make) / "project"
