"""What tests of several folders share."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import nn
from xdist.scheduler import LoadScopeScheduling

from atp.data.labels import LabelSpace
from atp.data.reading import Reading
from atp.models.checkpoint import save_checkpoint
from atp.models.network import NetworkConfig, build_network
from atp.models.own import OwnNetwork
from tests.clone import dvc, make_clone
from tests.once import once

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]

pytest_plugins = ["tests.tiny_project"]

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

SHARING = {
    "flow": tuple(f"tests/flows/test_{name}.py" for name in ("adapt", "browser", "elsewhere")),
    "reproduced": ("tests/flows/test_plan.py", "tests/test_pipeline.py", "tests/test_stale.py"),
    "registered": ("tests/registry/", "tests/stages/test_register.py"),
}
"""Tests that share servers or projects which take long to make."""

PROCESSES = (
    "tests/baselines/test_two_processes.py",
    "tests/campaign/",
    "tests/evaluation/evidence/test_guard.py",
    "tests/flows/",
    "tests/project/test_run.py",
    "tests/registry/",
    "tests/runner/",
    "tests/selection/",
    "tests/stages/",
    "tests/studies/",
    "tests/test_black_box.py",
    "tests/test_cli.py",
    "tests/test_containers.py",
    "tests/test_own_model_page.py",
    "tests/test_pipeline.py",
    "tests/test_stale.py",
)
"""Tests that start servers and stages' processes: ``make check`` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(PROCESSES):
            item.add_marker(pytest.mark.processes)


class Together(LoadScopeScheduling):
    """Of several processes one has all the tests that share something; the others go file by file."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((name for name, parts in SHARING.items() if path.startswith(parts)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Together:
    return Together(config, log)


SPACE = LabelSpace(("sky", "road", "car"), ((0, 0, 200), (90, 90, 90), (200, 0, 0)))
MIOU = {"source": 40.5, "align": None, "propagate": 50.25}
IOU = {
    "source": {"sky": 60.0, "road": 21.0, "car": None},
    "propagate": {"sky": 81.0, "road": 19.5, "car": None},
}


def make_project(folder: Path, align_epochs: int = 4, miou: float = MIOU["propagate"]) -> Path:
    """As much of a project as the registry sees: parameters, data, a source and an adapted model, figures.

    Args:
        align_epochs: another number makes another model of it.
        miou: of the adapted model.

    Its models read images of 24x16; the network of ``make_own_project``, as an older file's, those of any size.
    """
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "params.yaml")
    params["align"]["epochs"] = align_epochs
    (folder / "data/source").mkdir(parents=True)
    (folder / "data/source/secret.txt").write_text("source data")
    yaml.dump(params, folder / "params.yaml")
    generator = np.random.default_rng(0)
    for kind, shape, top in (("images", (16, 32, 3), 255), ("labels", (16, 32), 3)):
        (folder / "data/test" / kind).mkdir(parents=True)
        for name in ("a", "b"):
            pixels = generator.integers(0, top, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data/test" / kind / f"{name}.png")
    config = NetworkConfig(backbone="resnet_small", output_stride=8, aspp_dilations=(1, 2), num_classes=3)
    for seed, stage in enumerate(("source", "propagate")):
        torch.manual_seed(seed)
        path = folder / "runs" / stage / "model.safetensors"
        network = build_network(config)
        network.reading = Reading((24, 16))
        save_checkpoint(path, network, config, SPACE, {"stage": stage})
    (folder / "runs/evaluate").mkdir()
    metrics = {"miou": MIOU | {"propagate": miou}, "iou": IOU}
    (folder / "runs/evaluate/metrics.json").write_text(json.dumps(metrics))
    (folder / "runs/evaluate/images.json").write_text(json.dumps({"propagate": {"entropy": {"a": 0.1, "b": 0.2}}}))
    return folder


# A network of the user's own, in two modules of the project.
NETS = {
    "__init__.py": "",
    "blocks.py": """
from packaging.version import Version
from torch import nn
assert Version("2") > Version("1.9")
def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
""",
    "net.py": """
from torch import nn
from .blocks import block
def make(classes):
    return nn.Sequential(block(3, 8), nn.Conv2d(8, classes, 1))
""",
}
OWN = NetworkConfig(
    factory="nets.net:make",
    arguments={"classes": 4},
    classifier="1",
    divisor=32,
    code=Path("nets"),
    num_classes=3,
    class_map=(2, 0, 1, 0),
)


def make_own_project(folder: Path) -> Path:
    """The same with a network of its own, whose classes are mapped, registered under another name."""
    make_project(folder)
    (folder / "nets").mkdir()
    for name, text in NETS.items():
        (folder / "nets" / name).write_text(text)
    yaml = YAML(typ="safe")
    params = yaml.load(folder / "params.yaml")
    params["register"]["name"] = "own"
    params["model"] = {**OWN.model_dump(mode="json", include={"factory", "arguments", "classifier", "divisor", "code"})}
    yaml.dump(params, folder / "params.yaml")
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Conv2d(8, 4, 1)
    nn.init.normal_(head.weight, std=5)  # so that it does not say the same everywhere
    network = OwnNetwork(nn.Sequential(layers, head), OWN)
    save_checkpoint(folder / "runs/propagate/model.safetensors", network, OWN, SPACE, {"stage": "propagate"})
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
    """Three projects, ``first``, its ``twin`` and a better ``second`` with other parameters, that have all registered
    their adapted model at the same moment in one new database, ``mlflow.db``; with them ``own``, whose network is its
    own; and ``user``, where ``tests/registry/user.py`` has used them. Not to be changed.
    """
    return once(tmp_path_factory, "registered", register_all)


def register_all(root: Path) -> None:
    for name, epochs, miou in (("first", 4, 50.25), ("twin", 4, 50.25), ("second", 5, 51.5)):
        make_project(root / name, epochs, miou)
    make_own_project(root / "own")
    (root / "user").mkdir()
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).parent / "registry/user.py"
    folders = [root / name for name in ("user", "first", "twin", "second", "own")]
    done = subprocess.run(
        [sys.executable, "-c", RACE, script, *folders], env=environment, capture_output=True, text=True, check=False
    )
    outputs = [path.read_text() for path in root.glob("*/output.txt")]
    assert done.returncode == 0, "\n".join([done.stderr, *outputs])


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone on tiny data after `dvc repro`. Not to be changed: copy it."""

    def make(folder: Path) -> None:
        make_clone(folder / "clone")
        dvc(folder / "clone", "repro")

    return once(tmp_path_factory, "reproduced", make) / "clone"


@pytest.fixture
def copy(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three projects and their database, to be changed; ``first`` is the working folder."""
    root = Path(shutil.copytree(registered, tmp_path / "copy"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    monkeypatch.chdir(root / "first")
    return root


@pytest.fixture
def client(copy: Path) -> "MlflowClient":
    """Of the copy's database."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{copy}/mlflow.db")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB of tmpfs."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
