"""Provenance of results from dvc.lock: the parameters and inputs of each.

``dvc status`` knows more, but needs the repository's lock, which a running pipeline holds, and hashes all data, which
is too expensive for a warning in ``atp predict``.
"""

import json
from collections.abc import Callable, Mapping
from hashlib import md5
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atp.errors import InputError
from atp.params import read_params, setting
from atp.runs import RUNS

Stages = Mapping[str, Mapping[str, Any]]
"""The entries of a dvc.lock, by stage: ``align``, ``teach@r01``."""

Listing = list[dict[str, str]]
"""``md5`` and ``relpath`` of each file in a folder, as in DVC's cache."""


def read_stages(text: str | None) -> Stages:
    """The stages of a dvc.lock; empty if it is missing or contains git's conflict markers."""
    try:
        tree = YAML(typ="safe", pure=True).load(text or "")
    except YAMLError:
        tree = None
    stages: Stages = (tree.get("stages") if isinstance(tree, dict) else None) or {}
    return stages


def outdated(stages: Stages, params: Mapping[str, Any], stage: str) -> str:
    """Why a stage's result does not match the current params.yaml and upstream results.

    Args:
        params: the whole of params.yaml, unchecked.
        stage: as in dvc.lock.

    Returns:
        What has changed since; empty if nothing has, or if dvc.lock lacks the stage.
    """
    makers = {path: name for name, entry in stages.items() for path in _digests(entry, "outs")}
    seen: set[str] = set()

    def reason(name: str) -> str:
        if name in seen or name not in stages:
            return ""
        seen.add(name)
        entry, read = stages[name], _digests(stages[name], "deps")
        key = name.partition("@")[2]
        if key and setting(params, f"rounds.{key}.model") not in (None, *read):
            return f"rounds.{key} in params.yaml was changed since"
        for dotted, value in entry.get("params", {}).get("params.yaml", {}).items():
            if (now := setting(params, dotted)) != value:
                return f"{_changed(dotted, value, now)} in params.yaml was changed since"
        for path, digest in read.items():
            for where, maker in makers.items():
                if where != path and not (where.startswith(f"{path}/") and _is_there(maker, params)):
                    continue
                if earlier := reason(maker):
                    return earlier
                if where == path and _digests(stages[maker], "outs")[where] != digest:
                    return f"{path} was updated since"
        return ""

    return reason(stage)


def outdated_result(folder: Path) -> str:
    """The same for a result given by its folder or its model's file, below the ``runs`` of any project.

    Re-imported data count if a stage depends on all of them.
    """
    folder = folder.parent if folder.is_file() else folder
    runs = next((parent for parent in folder.parents if parent.name == RUNS.name), None)
    if runs is None or not all((runs.parent / name).is_file() for name in ("dvc.lock", "params.yaml")):
        return ""
    stages = read_stages((runs.parent / "dvc.lock").read_text())
    try:
        params = read_params(runs.parent / "params.yaml")
    except InputError:
        # Not an error here: a result can be used without a valid params.yaml.
        return ""
    name = "@".join(folder.relative_to(runs).parts)
    why = outdated(stages, params, name)
    root = str(setting(params, "data.root") or "data")
    described = runs.parent / f"{root}.dvc"
    brought = _digests(read_file(described), "outs").get(Path(root).name) if described.is_file() else None
    worked_on = _digests(stages.get(name, {}), "deps").get(root)
    if not why and brought and worked_on and brought != worked_on:
        why = f"{root} was imported again since"
    return why


def read_file(path: Path) -> Mapping[str, Any]:
    """Read one of DVC's files; empty if it is missing or invalid."""
    try:
        tree = YAML(typ="safe", pure=True).load(path)
    except YAMLError:
        tree = None
    return tree if isinstance(tree, dict) else {}


def why_unmatched(
    stages: Stages, params: Mapping[str, Any], stage: str, listing: Callable[[str], Listing | None]
) -> str:
    """Why the results of ``evaluate`` cannot be attributed to a stage's current model.

    Args:
        params: the whole of params.yaml, unchecked.
        stage: as in dvc.lock.
        listing: reads a folder's files from DVC's cache by the folder's digest; None if not cached.

    Returns:
        Empty if they belong to that model.
    """
    another = "runs/evaluate is of another model than this evidence; run dvc repro evaluate"
    ((path, made),) = _digests(stages.get(stage, {}), "outs").items() or [("", "")]
    measured = _digests(stages.get("evaluate", {}), "deps")
    if not (made and measured):
        return "dvc.lock does not show that runs/evaluate is of this evidence's model; run dvc repro evaluate"
    if path in measured:
        return "" if measured[path] == made else another
    # A stage with rounds: evaluate reads the folder of all rounds.
    rounds = path.rpartition("/")[0]
    files: Listing = []
    for maker, entry in stages.items():
        for where, digest in _digests(entry, "outs").items():
            if where.startswith(f"{rounds}/") and _is_there(maker, params):
                listed = listing(digest)
                if listed is None:
                    return f"DVC's cache lacks {where}, so runs/evaluate cannot be matched to it; run dvc repro"
                name = where.removeprefix(f"{rounds}/")
                files += [{"md5": each["md5"], "relpath": f"{name}/{each['relpath']}"} for each in listed]
    return "" if measured.get(rounds) == _folder_digest(files) else another


def _is_there(maker: str, params: Mapping[str, Any]) -> bool:
    """Whether a stage still exists: DVC keeps entries of rounds that params.yaml no longer has."""
    key = maker.partition("@")[2]
    return not key or setting(params, f"rounds.{key}") is not None


def _folder_digest(files: Listing) -> str:
    """A folder's digest, computed as DVC does."""
    text = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return f"{md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"


def _digests(entry: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Digests of a stage's inputs or outputs, by path."""
    return {each["path"]: each.get("md5", "") for each in entry.get(kind, [])}


def _changed(dotted: str, old: Any, new: Any) -> str:
    """Dotted name of the first entry that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        key = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        return _changed(f"{dotted}.{key}", old.get(key), new.get(key))
    return dotted
