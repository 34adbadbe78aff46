"""A run with changed parameters works in a copy of the project, so that the user's ``params.yaml`` stays as it is.

The copy is to DVC what an experiment's temporary folder is: it shares the cache, and its stages keep unfinished states
and runs in MLflow with the project. When the run has ended, its results are a DVC experiment (``dvc exp show``, ``dvc
exp apply``). Without git there are no experiments, and the copy is kept.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atp.errors import InputError
from atp.files import atomic_path
from atp.params import replaced
from atp.registry.origin import git
from atp.runner.project import project_root
from atp.runs import RUNS
from atp.selection.repository import without_warnings

PARAMS = Path("params.yaml")

NOT_OURS = {".git", ".dvc", ".atp", ".venv", "__pycache__", "runs", "mlartifacts", "mlruns"}
"""What a project without git has beside its own files."""


@dataclass(frozen=True)
class Copy:
    """A copy of the project, in which a run works.

    Attributes:
        name: of the DVC experiment; equal changes have the same, so that a killed run continues.
        root: the project's root in it.
        versioned: it is a git repository, so that results can become an experiment.
    """

    name: str
    root: Path
    versioned: bool


@contextmanager
def overridden(overrides: Mapping[str, Any]) -> Iterator[Copy | None]:
    """Change to a copy of the project with other parameters; without any, stay here and yield None.

    Call this under the lock of the flow: it deletes the copies of killed runs.

    Args:
        overrides: values by dotted name, ``{"teach.epochs": 2}``.

    Raises:
        InputError: a parameter that does not exist, or DVC cannot read the project.
    """
    if not overrides:
        yield None
        return
    from dvc.exceptions import DvcException

    text = changed_text(PARAMS.read_text(), overrides)
    project = project_root()
    folder = Path.cwd().relative_to(project)
    changes = json.dumps(dict(sorted(overrides.items())), default=str)
    prefix = "-".join([*folder.parts, "flow"])
    name = f"{prefix}-{sha256(changes.encode()).hexdigest()[:8]}"
    copies = project / ".dvc/tmp/flow"
    for old in copies.glob(f"{prefix}-*"):
        # Without git, the copies of other runs are kept, since they have their results.
        if old.name == name or (old / ".git").exists():
            shutil.rmtree(old)
    try:
        copy = make_copy(project, copies / name)
        here = copy.root / folder
        with atomic_path(here / PARAMS) as temporary:
            temporary.write_text(text)
        with _environment(DVC_ROOT=str(project), DVC_EXP_NAME=name), chdir(here):
            yield copy
    except DvcException as error:
        raise InputError(f"{project}: {' '.join(str(error).split())}") from error
    finally:
        if (copies / name / ".git").exists():
            shutil.rmtree(copies / name)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set the variables that tell an experiment's stages of which project they are."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def changed_text(text: str, overrides: Mapping[str, Any]) -> str:
    """The text of a params.yaml with other values and the same comments.

    Raises:
        InputError: a section that does not exist.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    buffer = StringIO()
    yaml.dump(replaced(yaml.load(text), overrides), buffer)
    return buffer.getvalue()


def make_copy(project: Path, place: Path) -> Copy:
    """Copy a project with its uncommitted changes; data and results are links to DVC's cache, where it can link.

    Args:
        project: folder with ``.dvc``, perhaps below the root of its git repository.
        place: a new folder.
    """
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        versioned = not repo.config["core"].get("no_scm") and git("rev-parse", "HEAD") is not None
        outs = {Path(out.fs_path) for out in repo.index.outs if out.is_in_repo}
        deps = {Path(dep.fs_path) for dep in repo.index.deps if dep.is_in_repo}
        shared, remotes = {"dir": repo.cache.local.path.rpartition("/files/")[0]}, repo.config["remote"]
        shared["type"] = repo.config["cache"].get("type", "reflink,hardlink,symlink,copy")
    root = place
    if versioned:
        top = Path(str(git("rev-parse", "--show-toplevel")))
        root = place / project.relative_to(top)
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", top, place], check=True)
        subprocess.run(["git", "reset", "--quiet"], cwd=place, check=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=top,
            capture_output=True,
            check=True,
        ).stdout
        for name in filter(None, os.fsdecode(listed).split("\0")):
            source = top / name
            if source.is_symlink() or source.is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, place / name, follow_symlinks=False)
    else:
        _mirror(project, root, outs)
        (root / ".dvc").mkdir()
        if (project / ".dvc/config").is_file():
            shutil.copy2(project / ".dvc/config", root / ".dvc")
    for dep in deps:
        # What git ignores, such as own images. Results are brought by DVC.
        if dep.exists() and not any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in outs):
            _link(dep, root / dep.relative_to(project))
    with Repo(str(root)) as repo, repo.config.edit("local") as config:
        config["cache"].update(shared)
        # Their paths are relative to the project's.
        config["remote"].update(remotes)
    without_warnings()
    with Repo(str(root)) as repo:
        repo.checkout(allow_missing=True, force=True)
    return Copy(place.name, root, versioned)


def keep(copy: Copy, pipeline: str, stages: Sequence[str]) -> str:
    """Save the results of a run in its copy as an experiment of the project; returns where they are.

    Args:
        pipeline: name of the dvc.yaml in the working folder.
        stages: names of those that ran. DVC would take others, which the changed parameters make stale, for up to date.

    Raises:
        InputError: DVC or git fails.
    """
    if not copy.versioned:
        return f"results in {Path.cwd() / RUNS}"
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    folder = Path.cwd().relative_to(copy.root)
    # `stage` is of this pipeline, `../data.dvc` a file beside it.
    targets = [
        os.path.normpath(folder / name) if name.endswith(".dvc") else f"{folder / pipeline}:{name}" for name in stages
    ]
    try:
        with chdir(copy.root), Repo(".") as repo:
            repo.experiments.save(targets=targets, name=copy.name, force=True)
            repo.experiments.push("origin", copy.name, force=True)
    except SCMError as error:
        raise InputError(f"{copy.root}: {' '.join(str(error).split())}") from error
    return f"results in the DVC experiment {copy.name}: dvc exp show, python -m flows.adapt --apply {copy.name}"


def _mirror(source: Path, target: Path, outs: set[Path]) -> None:
    """Link a project's folders and copy its files and its pipelines' folders."""
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry in outs or entry.name in NOT_OURS or entry.name.startswith("mlflow.db"):
            continue
        if (entry / "dvc.yaml").is_file():
            _mirror(entry, target / entry.name, outs)
        elif entry.is_dir():
            (target / entry.name).symlink_to(entry)
        else:
            shutil.copy2(entry, target)


def _link(source: Path, target: Path) -> None:
    """Link what is missing below ``target``."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    elif source.is_dir() and not target.is_symlink():
        for entry in source.iterdir():
            if entry.name != "__pycache__":
                _link(entry, target / entry.name)
