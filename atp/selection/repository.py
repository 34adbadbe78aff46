"""DVC's experiments of this project, with their state and results."""

import difflib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from atp.errors import InputError
from atp.evaluation.evidence.record import FILE, INDICATORS, SHARES, Evidence, Shares
from atp.evaluation.evidence.vanished import warning
from atp.params import read_params
from atp.registry.origin import git
from atp.runner.project import project_root
from atp.runs import METRICS, RUNS
from atp.selection.lockfile import Listing, outdated, read_stages, why_unmatched

WORKSPACE = "workspace"

Kind = TypeVar("Kind")
State = Literal["finished", "queued", "running", "failed"]


@dataclass(frozen=True)
class Experiment:
    """A run of the pipeline, finished or not.

    Attributes:
        name: DVC's name, or ``workspace`` for the working folder.
        state: state of the run.
        params: its params.yaml.
        evidence: a stage's evidence without labels, if any.
        miou: of that stage's model on the test images, percent; None without labels.
        why: reason why it failed or is not ranked.
        unmatched: reason why a measured mIoU is ignored: it belongs to another model than the evidence.
        vanished: one line on the classes that the model hardly predicts any more.
    """

    name: str
    state: State
    params: Mapping[str, Any]
    evidence: Evidence | None = None
    miou: float | None = None
    why: str = ""
    unmatched: str = ""
    vanished: str = ""


@dataclass(frozen=True)
class Whose:
    """Selects the DVC experiments that a command works on.

    An experiment is a commit of the whole repository, with results of all its pipelines. Names from a grid start with
    the pipeline's folder; all others belong to the pipeline in the root.

    Attributes:
        pipeline: name of a folder with a dvc.yaml; None is the one in the working folder.
        everything: include experiments from other commits than the current one.
    """

    pipeline: str | None = None
    everything: bool = False

    def finished(self, repo: Any, prefix: Path) -> dict[str, str]:
        """Names and revisions of successful experiments."""
        from dvc.repo.experiments.utils import exp_refs

        head = repo.scm.get_rev()
        refs = [info for info in exp_refs(repo.scm) if self.everything or info.baseline_sha == head]
        return {info.name: repo.scm.get_ref(str(info)) for info in refs if self._has(info.name, prefix)}

    def unfinished(self, repo: Any, prefix: Path) -> dict[str, tuple[State, str, str]]:
        """Queued, running and failed experiments: state, revision, and reason of failure."""
        queue, head = repo.experiments.celery_queue, repo.scm.get_rev()
        # In this order, so that one that meanwhile starts or fails is found twice, not missed; its later state counts.
        found: list[tuple[Any, State, str]] = [
            *((entry, "queued", "") for entry in queue.iter_queued()),
            *((entry, "running", "") for entry in queue.iter_active()),
            *((entry, "failed", reason(queue, entry)) for entry, _ in queue.iter_failed()),
        ]
        return {
            name: (state, entry.stash_rev, why)
            for entry, state, why in found
            if self._has(name := str(entry.name or entry.stash_rev[:7]), prefix)
            and (self.everything or entry.baseline_rev == head)
        }

    def _has(self, name: str, prefix: Path) -> bool:
        first = name.partition("-")[0]
        return (first if Path(first, "dvc.yaml").is_file() else "") == (self.pipeline or prefix.name)


HERE = Whose()


@contextmanager
def open_repository() -> Iterator[tuple[Any, Path]]:
    """Open DVC's repository, change to its root, and yield it with the relative path of the current folder.

    Raises:
        InputError: no DVC or git repository, or DVC fails.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    root = project_root()
    prefix = Path.cwd().relative_to(root)
    if not (root / ".dvc").is_dir():
        raise InputError(f"{root}: no DVC repository; experiments need git init, dvc init and a commit")
    try:
        # DVC runs queued experiments in the folder in which its worker was started.
        with chdir(root), redirect_stdout(io.StringIO()), Repo(".") as repo:
            if repo.config["core"].get("no_scm") or not hasattr(repo.scm, "get_ref"):
                raise InputError(f"{root}: no git repository; experiments need git init and a commit")
            if repo.scm.no_commits:
                raise InputError(f"{root}: git has no commit yet; experiments start from one: run git commit")
            yield repo, prefix
    except (DvcException, SCMError) as error:
        raise InputError(f"DVC: {' '.join(str(error).split())}") from error


def read_experiments(stage: str, *, everything: bool = False) -> list[Experiment]:
    """The workspace and all experiments, with a stage's evidence.

    Args:
        stage: ``propagate``, or an earlier one: ``align``, ``teach@r01``.
        everything: include experiments from other commits than the current one.

    Raises:
        InputError: not a repository.
    """
    with open_repository() as (repo, prefix):
        found, whose = [_workspace(repo, prefix, stage)], Whose(everything=everything)
        names = whose.finished(repo, prefix)
        for name, rev in names.items():
            with repo.switch(rev):
                found.append(_read(repo, prefix, stage, name, "finished"))
        for name, (state, rev, why) in whose.unfinished(repo, prefix).items():
            if name not in names:
                with repo.switch(rev):
                    found.append(_read(repo, prefix, stage, name, state, why))
        return found


def read_results(revisions: Mapping[str, str], path: Path) -> dict[str, bytes]:
    """Read one file from the results of several experiments, skipping those without it in DVC's cache.

    Args:
        revisions: the experiments' revisions, by name.
    """
    found = {}
    with open_repository() as (repo, _):
        for name, rev in revisions.items():
            with repo.switch(rev), suppress(FileNotFoundError), repo.dvcfs.open(path.as_posix(), "rb") as file:
                found[name] = file.read()
    return found


def read_pictures(revision: str, folder: Path) -> dict[str, bytes]:
    """The PNGs in a folder of an experiment's results, by relative path without suffix; empty if it is missing."""
    with open_repository() as (repo, _), repo.switch(revision):
        if not repo.dvcfs.isdir(folder.as_posix()):
            return {}
        paths = [path for path in repo.dvcfs.find(folder.as_posix()) if path.endswith(".png")]
        found = {}
        for path in paths:
            with suppress(FileNotFoundError), repo.dvcfs.open(path, "rb") as file:
                found[Path(path.lstrip("/")).relative_to(folder).with_suffix("").as_posix()] = file.read()
        return found


def complaint(queue: Any, entry: Any) -> str:
    """The error line of the stage that made an experiment fail; empty if it was killed."""
    return _said(queue, entry, "error: ")


def reason(queue: Any, entry: Any) -> str:
    """The stage's error line, or else DVC's; empty if there is neither."""
    return complaint(queue, entry) or _said(queue, entry, "ERROR: ")


def _said(queue: Any, entry: Any, mark: str) -> str:
    """The first line of an experiment's output with a mark: a stage's ``error:``, or DVC's in capitals."""
    process = queue.proc.get(entry.stash_rev)
    path = Path(process.stdout) if process and process.stdout else None
    text = path.read_text(errors="replace") if path and path.is_file() else ""
    line = next((line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark)), "")
    # Rewrite paths to the project's: each experiment ran in its own clone, which is gone.
    return re.sub(r"[^\s'\"]*/\.dvc/tmp/exps/tmp\w+/", "", line)


def _read(repo: Any, prefix: Path, stage: str, name: str, state: State, why: str = "") -> Experiment:
    """Read an experiment at the repository's current revision."""

    def text(path: Path) -> str | None:
        try:
            with repo.dvcfs.open(path.as_posix()) as file:
                return str(file.read())
        except (FileNotFoundError, IsADirectoryError):
            return None

    params = YAML(typ="safe", pure=True).load(text(prefix / "params.yaml") or "{}")
    if state != "finished":
        return Experiment(name, state, params, why=why)
    evidence = _evidence(text(prefix / folder(stage) / FILE), name)
    miou, unmatched = _miou(repo, prefix, stage, params, text)
    vanished = _vanished(text(prefix / folder(stage) / SHARES), name)
    return Experiment(name, state, params, evidence, miou, unmatched=unmatched, vanished=vanished)


def _workspace(repo: Any, prefix: Path, stage: str) -> Experiment:
    def text(path: Path) -> str | None:
        return path.read_text() if path.is_file() else None

    params = read_params(prefix / "params.yaml")
    evidence = _evidence(text(prefix / folder(stage) / FILE), WORKSPACE)
    changed = outdated(read_stages(text(prefix / "dvc.lock")), params, stage)
    if evidence is not None and changed:
        return Experiment(WORKSPACE, "finished", params, why=f"{changed}; run dvc repro to update it")
    miou, unmatched = _miou(repo, prefix, stage, params, text)
    vanished = _vanished(text(prefix / folder(stage) / SHARES), WORKSPACE)
    return Experiment(WORKSPACE, "finished", params, evidence, miou, unmatched=unmatched, vanished=vanished)


def folder(stage: str) -> Path:
    """Folder of a stage's result: ``teach@r01`` is in ``runs/teach/r01``."""
    return RUNS / stage.replace("@", "/")


def _evidence(text: str | None, name: str) -> Evidence | None:
    return None if text is None else _parsed(text, TypeAdapter(Evidence), f"{name}: its {FILE}")


def _vanished(text: str | None, name: str) -> str:
    return "" if text is None else warning(_parsed(text, TypeAdapter(Shares), f"{name}: its {SHARES}"))


def _parsed(text: str, kind: "TypeAdapter[Kind]", what: str) -> Kind:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise InputError(f"{what} is damaged or of another version; run it again") from error


def _miou(
    repo: Any, prefix: Path, stage: str, params: Mapping[str, Any], text: Callable[[Path], str | None]
) -> tuple[float | None, str]:
    """mIoU of the stage's model, and the reason if a measured one is ignored.

    Evaluate names a round's model ``teach_r01``, and that of the last round ``teach``.
    """

    def listing(digest: str) -> Listing | None:
        path = Path(repo.cache.local.oid_to_path(digest))
        files: Listing | None = json.loads(path.read_text()) if path.is_file() else None
        return files

    figures = json.loads(text(prefix / METRICS) or "{}").get("miou", {})
    names = (stage.replace("@", "_"), stage.partition("@")[0])
    miou = next((figures[name] for name in names if name in figures), None)
    unmatched = ""
    if miou is not None:
        unmatched = why_unmatched(read_stages(text(prefix / "dvc.lock")), params, stage, listing)
    return None if unmatched else miou, unmatched


def pipeline_name() -> str:
    """Name of the current pipeline's folder; empty in the root of the project."""
    return Path.cwd().relative_to(project_root()).name


def code_changes() -> str:
    """The diff of tracked files to the commit, without parameters and results."""
    return (
        git("diff", "HEAD", "--", ":(top)", ":(top,exclude,glob)**/params.yaml", ":(top,exclude,glob)**/dvc.lock") or ""
    )


def without_warnings() -> None:
    """Keep DVC from warning of every stage that never ran, such as those of other pipelines, when it brings results."""
    for name in ("dvc", "dvc_data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def apply(name: str) -> None:
    """Bring an experiment's parameters and results into the working folder.

    Raises:
        InputError: DVC fails.
    """
    without_warnings()
    with open_repository() as (repo, _):
        # A grid's experiments end with evaluate, so report and register may be missing.
        repo.experiments.apply(name, allow_missing=True)


def valid_indicator(by: str) -> str:
    """Return the indicator; raises InputError if it does not exist."""
    if by not in INDICATORS:
        near = difflib.get_close_matches(by, INDICATORS, n=1)
        hint = f"is it {near[0]}? " if near else ""
        raise InputError(f"--by {by}: no such indicator; {hint}choose from {', '.join(INDICATORS)}")
    return by


def valid_stage(stage: str) -> str:
    """Return the stage; raises InputError if it has no evidence."""
    if not re.fullmatch(r"(align|distill|propagate|teach@\w+)", stage):
        raise InputError(
            f"--stage {stage}: not a stage with evidence; choose from align, distill, teach@ROUND and propagate"
        )
    return stage
