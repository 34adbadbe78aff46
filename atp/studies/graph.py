"""The stages behind a model, as DVC resolves dvc.yaml for a cell's parameters; its identity across commits.

DVC itself identifies an experiment by its commit, so a change to the docs would recompute every cell.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from dvc.parsing import DataResolver
from dvc.repo import Repo
from dvc.utils.serialize import load_py
from ruamel.yaml import YAML

from atp.errors import InputError
from atp.params import setting
from atp.selection.repository import open_repository


@dataclass(frozen=True)
class Step:
    """A stage for one set of parameters; paths are relative to the root of the project.

    Attributes:
        command: the command it runs.
        params: parameter values by dotted name.
        deps, outs: input and output files and folders.
    """

    command: str
    params: Mapping[str, Any]
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def steps(trees: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    """All stages of the given pipelines.

    Args:
        trees: parameters by pipeline folder.
    """
    found = []
    for folder in trees:
        parsed = _parsed(Path(folder) / "dvc.yaml")
        resolver = DataResolver(_repository(), folder, parsed)
        # Replace the parameters read from the files by the cell's.
        for path in (*parsed.get("vars", []), "params.yaml"):
            resolver.context.update(trees[os.path.normpath(Path(folder, path).parent)])
        for name in resolver.get_keys():
            (entry,) = resolver.resolve_one(name).values()
            found.append(_step(entry, folder, trees))
    return found


def _step(entry: Mapping[str, Any], folder: str, trees: Mapping[str, Mapping[str, Any]]) -> Step:
    where = os.path.normpath(Path(folder, entry.get("wdir", ".")))

    def paths(key: str) -> tuple[str, ...]:
        listed = (path if isinstance(path, str) else next(iter(path)) for path in entry.get(key, []))
        return tuple(os.path.normpath(Path(where, path)) for path in listed)

    params: dict[str, Any] = {}
    for listed in entry.get("params", []):
        if isinstance(listed, str):
            params[listed] = setting(trees[where], listed)
            continue
        # Defaults in code, which DVC also tracks as parameters.
        for file, chosen in listed.items():
            defaults = _defaults(os.path.normpath(Path(where, file)))
            params |= {f"{file}:{name}": setting(defaults, name) for name in chosen}
    return Step(entry["cmd"], params, paths("deps"), paths("outs"))


@cache
def _defaults(path: str) -> dict[str, Any]:
    """Defaults in a Python file, as DVC reads them."""
    tree: dict[str, Any] = load_py(path)
    return tree


@cache
def _repository() -> Repo:
    """DVC's repository for parsing dvc.yaml; only its file system is used."""
    return Repo(uninitialized=True)


@cache
def _parsed(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; studies run in the root of the project")
    tree: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return tree


def upstream(last: str, all_steps: Sequence[Step]) -> list[Step]:
    """The stage that makes a folder and all stages it depends on, in order.

    Raises:
        InputError: no stage makes it.
    """
    makers = {out: step for step in all_steps for out in step.outs}
    if last not in makers:
        raise InputError(f"{last}: no stage of the pipeline makes it for these parameters")
    found: list[Step] = []

    def add(step: Step) -> None:
        for dep in step.deps:
            # A stage may depend on a single file or subfolder of another's output.
            maker = next((makers[path] for path in (dep, *map(str, Path(dep).parents)) if path in makers), None)
            if maker is not None and maker not in found:
                add(maker)
        if step not in found:
            found.append(step)

    add(makers[last])
    return found


def identity(chain: Sequence[Step]) -> str:
    """A digest of the stages' commands, parameters, code and data; equal digests mean equal results."""
    made = [out for step in chain for out in step.outs]
    parts = []
    for step in chain:
        given = [dep for dep in step.deps if not any(Path(dep).is_relative_to(out) for out in made)]
        contents = {dep: content(dep) for dep in given}
        parts.append([step.command, step.params, contents, sorted(step.deps), step.outs])
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _remembered(path: Path) -> str:
    """DVC's digest of a path outside the project; unchanged files are not read again."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build

    with open_repository() as (repo, _):
        cache = repo.cache.local
        _, _, found = build(cache, str(path), LocalFileSystem(), cache.hash_name, dry_run=True)
    return str(found.hash_info.value)


@cache
def content(path: str) -> str:
    """A digest of a file or folder: DVC's if imported by DVC or outside the project, else of its bytes.

    Raises:
        InputError: it does not exist.
    """
    for known in sorted(Path().glob("?*.dvc")):
        for out in _parsed(known)["outs"]:
            if Path(path).is_relative_to(out["path"]):
                return str(out["md5"])
    start = Path(path)
    if not start.exists():
        raise InputError(f"{path}: no such file or folder; a stage needs it")
    if start.is_absolute():
        return _remembered(start)
    files = [start] if start.is_file() else sorted(p for p in start.rglob("*") if p.is_file())
    total = sha256()
    for file in files:
        if "__pycache__" not in file.parts:
            total.update(f"{file.as_posix()}\0{sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
