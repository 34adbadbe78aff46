"""A clone of the project on tiny data, and DVC in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from tests import warm

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TINY = {
    "training": {"precision": "fp32"},
    "runtime": {"threads": 2, "workers": 0},
    "source": {"epochs": 2, "batch_size": 4},
    "align": {"epochs": 1, "batch_size": 4},
    "teach": {"epochs": 1, "batch_size": 4},
    "propagate": {"epochs": 1, "batch_size": 2},
    "dump": {"scales": [1.0]},
    # Six views of every image and of every stage's model. So short a training may collapse.
    "evidence": {"images": 2, "on_collapse": "warn"},
    "rounds": {"r02": {"model": "runs/teach/r01"}},
    "split": {"model": "runs/teach/r02"},
}


# The environment of this interpreter, activated or not.
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"


def dvc(clone: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    path = f"{warm.binaries()}{os.pathsep}{PATH}"
    done = warm.run(["-m", "dvc", *arguments], clone, {**environment, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(clone: Path, *arguments: str) -> None:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    subprocess.run(["git", *who, *arguments], cwd=clone, check=True, capture_output=True)


def make_clone(clone: Path) -> None:
    """The project's tracked files, few of its images, and parameters for seconds instead of minutes."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        source = ROOT / name
        # The first ten images of each split stand for all.
        if not source.is_file() or (
            name.startswith("assets/streets/") and source.stem.isdigit() and int(source.stem) > 9
        ):
            continue
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, clone / name)
    (clone / "dvc.lock").unlink(missing_ok=True)
    yaml = YAML()
    params = yaml.load(clone / "params.yaml")
    for section, changes in TINY.items():
        params[section].update(changes)
    yaml.dump(params, clone / "params.yaml")
    git(clone, "init", "-q")
    # The embedded data are another folder now than the one that data.dvc knows.
    dvc(clone, "update", "data.dvc")
    git(clone, "add", "--all")
    git(clone, "commit", "-qm", "tiny")


def box_in(clone: Path) -> Path:
    """Give the clone's black-box pipeline predictions for its box, and parameters for seconds; returns its folder.

    The box knows the labels, but for every fifth column, which it takes for the first class.
    """
    folder = clone / "black_box"
    for part in ("target", "test"):
        (folder / "box/predictions" / part).mkdir(parents=True)
        for path in sorted((clone / "assets/streets" / part / "labels").glob("*.png")):
            ids = np.array(Image.open(path))
            ids[:, ::5] = 0
            Image.fromarray(ids).save(folder / "box/predictions" / part / path.name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["query"].update({"box": "folder", "folder": "box/predictions", "endpoint": None})
    params["distill"].update({"epochs": 2, "batch_size": 4, "warmup_steps": 1})
    for section in ("training", "runtime", "teach", "propagate", "dump", "evidence"):
        params[section].update(TINY[section])
    yaml.dump(params, folder / "params.yaml")
    return folder
