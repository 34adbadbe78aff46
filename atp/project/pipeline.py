"""The ``dvc.yaml`` of a user's project, made from this repository's own, and what stands in it for the package's code.

The repository's stages depend on files of ``atp/``. Elsewhere the package is merely installed: there, each stage has a
digest of the same files as a parameter, in ``runs/code.json``, which the first stage writes: see ``atp.project.code``.
Upgrading the package makes exactly those stages stale whose code has changed.
"""

import ast
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

import atp
from atp.code import PACKAGE
from atp.files import digest
from atp.params import setting
from atp.runs import CODE
from atp.settings import read_yaml

PIPELINE = Path(__file__).with_name("pipeline.yaml")
"""The repository's dvc.yaml; in the repository, a link to it."""

OURS = f"{PACKAGE.name}/"
OWN_CODE = "${model.code}"
"""The code of the user's own network, which belongs to the digest too: it may not exist, and DVC would miss it."""

ALL_DATA = "${data.root}"

HEAD = """\
The pipeline, made by `atp init` from ATP's own. Each stage runs `python -m atp.stages <name>`, has a section <name> in
params.yaml and output runs/<name>. Only `source` reads the source data; only `evaluate` and later stages read target
labels. The stage `code` writes a digest of the code behind each stage, so that another version of ATP makes those
stages run again whose code differs.
"""


def project_pipeline(outside: Sequence[str] = ()) -> str:
    """The text of a project's dvc.yaml.

    Args:
        outside: names of folders in params.yaml that are not below ``data.root``, such as ``data.target.images``; the
            stages that depend on all data then depend on each of them as well.
    """
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    tree = yaml.load(PIPELINE)
    for name, stage in _stages(tree):
        deps, params = stage["deps"], stage["params"]
        tracked = any(map(_is_code, [*deps, *params]))
        for listed in (deps, params):
            for index in reversed(range(len(listed))):
                if _is_code(listed[index]):
                    del listed[index]
        if tracked:
            params.append(CommentedMap({str(CODE): _flow([name])}))
        if ALL_DATA in deps:
            deps += [f"${{{each}}}" for each in outside if f"${{{each}}}" not in deps]
    code = {
        "cmd": "python -m atp.project.code",
        # The installed package may have changed since.
        "always_changed": True,
        "outs": CommentedSeq([CommentedMap({str(CODE): CommentedMap({"cache": False})})]),
    }
    tree["stages"].insert(0, "code", CommentedMap(code))
    tree["stages"].yaml_set_comment_before_after_key("source", before="\n")
    tree.ca.comment = None
    tree.yaml_set_start_comment(HEAD.rstrip())
    text = io.StringIO()
    yaml.dump(tree, text)
    return text.getvalue()


def code_of_stages(params: Mapping[str, Any], project: Path) -> dict[str, str]:
    """The package's version, and for each stage the digest of the code that decides its result.

    Args:
        params: the project's params.yaml, unchecked, which chooses some of the files.
        project: its folder.
    """
    tree: Any = read_yaml(PIPELINE)
    # Most stages depend on the same folders.
    files = cache(partial(_files, params=params, project=project))
    found = {"atp": atp.__version__}
    for name, stage in _stages(tree):
        parts: dict[str, Any] = {}
        for each in filter(_is_code, (*stage["deps"], *stage["params"])):
            parts |= files(each) if isinstance(each, str) else _defaults(each)
        if parts:
            found[name] = sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return found


def _stages(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The stages by name; of a foreach, what it does."""
    for name, stage in tree["stages"].items():
        yield name, stage.get("do", stage)


def _is_code(listed: object) -> bool:
    """Whether an entry of ``deps`` or ``params`` is of the package's code or the network's."""
    if isinstance(listed, Mapping):
        return any(file.startswith(OURS) for file in listed)
    return isinstance(listed, str) and (listed.startswith(OURS) or listed == OWN_CODE)


def _files(dep: str, params: Mapping[str, Any], project: Path) -> dict[str, str]:
    """The digests of the files that an entry of ``deps`` stands for."""
    root = project if dep == OWN_CODE else PACKAGE.parent
    path = root / re.sub(r"\$\{([\w.]+)\}", lambda name: str(setting(params, name[1])), dep)
    files = [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    # As .dvcignore has it: of the settings, only the defaults count that a stage uses.
    ignored = {
        file for file in files if "__pycache__" in file.parts or (dep != OWN_CODE and file.name == "settings.py")
    }
    return {file.relative_to(root).as_posix(): digest(file) for file in files if file not in ignored}


def _defaults(listed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The defaults that an entry of ``params`` names, ``Class`` or ``Class.setting``, as they stand in their file."""
    found = {}
    for file, names in listed.items():
        nodes = ast.parse((PACKAGE.parent / file).read_bytes()).body
        classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        for name in names:
            kind, _, only = name.partition(".")
            for node in classes[kind].body:
                if isinstance(node, ast.AnnAssign) and node.value and only in ("", ast.unparse(node.target)):
                    found[f"{file}:{kind}.{ast.unparse(node.target)}"] = ast.unparse(node.value)
    return found


def _flow(values: Sequence[str]) -> CommentedSeq:
    listed = CommentedSeq(values)
    listed.fa.set_flow_style()
    return listed
