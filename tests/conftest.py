"""What tests of several folders share."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from atp.data.labels import LabelSpace
from atp.models.checkpoint import save_checkpoint
from atp.models.network import NetworkConfig, build_network
from tests.clone import dvc, make_clone

ROOT = Path(__file__).parents[1]

# One process imports the slow libraries and forks the others: three that register at the same moment, and when they are
# done one that uses what they registered, without this project and its package.
RACE = """
import os, runpy, sys
import torch, torchvision, mlflow, mlflow.pyfunc, mlflow.types
import mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store

def start(folder, run):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        run()
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

def register():
    sys.argv = ["register"]
    runpy.run_module("atp.stages.register", run_name="__main__")

def failed(children):
    return any([os.waitpid(child, 0)[1] for child in children])

script, user, *projects = sys.argv[1:]
sys.exit(
    failed([start(project, register) for project in projects])
    or failed([start(user, lambda: runpy.run_path(script, run_name="__main__"))])
)
"""

SPACE = LabelSpace(("sky", "road", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))
MIOU = {"source": 40.5, "align": None, "propagate": 50.25}


def make_project(folder: Path, align_epochs: int = 4) -> Path:
    """As much of a project as the registry sees: parameters, data, a source and an adapted model, figures."""
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "params.yaml")
    params["align"]["epochs"] = align_epochs
    (folder / "data/source").mkdir(parents=True)
    (folder / "data/source/secret.txt").write_text("source data")
    yaml.dump(params, folder / "params.yaml")
    config = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3)
    for seed, stage in enumerate(("source", "propagate")):
        torch.manual_seed(seed)
        path = folder / "runs" / stage / "model.safetensors"
        save_checkpoint(path, build_network(config), config, SPACE, {"stage": stage})
    (folder / "runs/evaluate").mkdir()
    (folder / "runs/evaluate/metrics.json").write_text(json.dumps({"miou": MIOU}))
    return folder


@pytest.fixture
def small_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, as the working folder."""
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(scope="session")
def mlflow_imported() -> None:
    """MLflow's stores, whose import warns about their own use of SQLAlchemy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory, mlflow_imported: None) -> Path:
    """Three projects, ``first``, its ``twin`` and a ``second`` with other parameters, that have all registered their
    adapted model at the same moment in one new database, ``mlflow.db``; and ``user``, where ``tests/registry/user.py``
    has used it. Not to be changed.
    """
    root = tmp_path_factory.mktemp("registered")
    for name, epochs in (("first", 4), ("twin", 4), ("second", 5)):
        make_project(root / name, epochs)
    (root / "user").mkdir()
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).parent / "registry/user.py"
    folders = [root / name for name in ("user", "first", "twin", "second")]
    done = subprocess.run(
        [sys.executable, "-c", RACE, script, *folders], env=environment, capture_output=True, text=True, check=False
    )
    outputs = [path.read_text() for path in root.glob("*/output.txt")]
    assert done.returncode == 0, "\n".join([done.stderr, *outputs])
    return root


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone on tiny data after `dvc repro`. Not to be changed: copy it."""
    clone = tmp_path_factory.mktemp("reproduced") / "clone"
    make_clone(clone)
    dvc(clone, "repro")
    return clone
