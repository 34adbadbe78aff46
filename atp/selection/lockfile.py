"""What dvc.lock says about results: with which parameters, and of which others, each was made.

``dvc status`` knows more, but needs the repository's lock, which a running pipeline holds, and hashes all data: too
much for a line of warning in ``atp predict``.
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
"""Of each file of a folder ``md5`` and ``relpath``, as DVC's cache keeps it."""


def read_stages(text: str | None) -> Stages:
    """The stages of a dvc.lock; none where there is no such file, or git's marks of a conflict stand in it."""
    try:
        tree = YAML(typ="safe", pure=True).load(text or "")
    except YAMLError:
        tree = None
    stages: Stages = (tree.get("stages") if isinstance(tree, dict) else None) or {}
    return stages


def outdated(stages: Stages, params: Mapping[str, Any], stage: str) -> str:
    """Why a stage's result is not what params.yaml and the results before it would make now.

    Args:
        params: the whole of params.yaml, unchecked.
        stage: as in dvc.lock.

    Returns:
        What was changed since; empty if nothing was, or where DVC knows nothing of the stage.
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
                    return f"{path} was made anew since"
        return ""

    return reason(stage)


def outdated_result(folder: Path) -> str:
    """The same of a result by its folder, or by its model's file, below the ``runs`` of any project.

    Data that were brought in anew count where a stage depends on all of them.
    """
    folder = folder.parent if folder.is_file() else folder
    runs = next((parent for parent in folder.parents if parent.name == RUNS.name), None)
    if runs is None or not all((runs.parent / name).is_file() for name in ("dvc.lock", "params.yaml")):
        return ""
    stages = read_stages((runs.parent / "dvc.lock").read_text())
    try:
        params = read_params(runs.parent / "params.yaml")
    except InputError:
        # Whoever runs the pipeline is told; a result can be used without.
        return ""
    name = "@".join(folder.relative_to(runs).parts)
    why = outdated(stages, params, name)
    root = str(setting(params, "data.root") or "data")
    described = runs.parent / f"{root}.dvc"
    brought = _digests(read_file(described), "outs").get(Path(root).name) if described.is_file() else None
    worked_on = _digests(stages.get(name, {}), "deps").get(root)
    if not why and brought and worked_on and brought != worked_on:
        why = f"{root} was brought in anew since"
    return why


def read_file(path: Path) -> Mapping[str, Any]:
    """One of DVC's files; empty if it is none."""
    try:
        tree = YAML(typ="safe", pure=True).load(path)
    except YAMLError:
        tree = None
    return tree if isinstance(tree, dict) else {}


def why_unmatched(
    stages: Stages, params: Mapping[str, Any], stage: str, listing: Callable[[str], Listing | None]
) -> str:
    """Why what ``evaluate`` measured is not known to be of the model that a stage hands on.

    Args:
        params: the whole of params.yaml, unchecked.
        stage: as in dvc.lock.
        listing: reads a folder's files from DVC's cache by the folder's digest; None where it lacks that.

    Returns:
        Empty where it is of that very model.
    """
    another = "runs/evaluate is of another model than this evidence; dvc repro evaluate"
    ((path, made),) = _digests(stages.get(stage, {}), "outs").items() or [("", "")]
    measured = _digests(stages.get("evaluate", {}), "deps")
    if not (made and measured):
        return "dvc.lock does not say that runs/evaluate is of this evidence's model; dvc repro evaluate"
    if path in measured:
        return "" if measured[path] == made else another
    # A stage with rounds, of all of which evaluate reads the folder.
    rounds = path.rpartition("/")[0]
    files: Listing = []
    for maker, entry in stages.items():
        for where, digest in _digests(entry, "outs").items():
            if where.startswith(f"{rounds}/") and _is_there(maker, params):
                listed = listing(digest)
                if listed is None:
                    return f"DVC's cache lacks {where}, so that runs/evaluate is of it cannot be told; dvc repro"
                name = where.removeprefix(f"{rounds}/")
                files += [{"md5": each["md5"], "relpath": f"{name}/{each['relpath']}"} for each in listed]
    return "" if measured.get(rounds) == _folder_digest(files) else another


def _is_there(maker: str, params: Mapping[str, Any]) -> bool:
    """Whether a stage is none of a round that params.yaml no longer has; DVC keeps the entries of those."""
    key = maker.partition("@")[2]
    return not key or setting(params, f"rounds.{key}") is not None


def _folder_digest(files: Listing) -> str:
    """As DVC makes it."""
    text = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return f"{md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"


def _digests(entry: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Of what a stage read or wrote, by path."""
    return {each["path"]: each.get("md5", "") for each in entry.get(kind, [])}


def _changed(dotted: str, old: Any, new: Any) -> str:
    """The first entry below a name that is not the same, by its own name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        key = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        return _changed(f"{dotted}.{key}", old.get(key), new.get(key))
    return dotted
