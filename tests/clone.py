"""A clone of the project on tiny data, and DVC in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

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
    "rounds": {"r02": {"model": "runs/teach/r01"}},
    "split": {"model": "runs/teach/r02"},
}


# The environment of this interpreter, activated or not.
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"


def dvc(clone: Path, *arguments: str) -> str:
    environment = {**os.environ, "PATH": PATH, "MLFLOW_TRACKING_URI": f"sqlite:///{clone}/mlflow.db"}
    done = subprocess.run(
        [str(BIN / "dvc"), *arguments],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
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
