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
    tree = YAML(typ="safe", pure=True).load(PIPELINE)
    found = {"atp": atp.__version__}
    for name, stage in _stages(tree):
        parts = dict(part for each in (*stage["deps"], *stage["params"]) for part in _parts(each, params, project))
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


def _parts(listed: object, params: Mapping[str, Any], project: Path) -> Iterator[tuple[str, Any]]:
    """The files and defaults that an entry of ``deps`` or ``params`` stands for, with the digest or value of each."""
    if not _is_code(listed):
        return
    if isinstance(listed, Mapping):
        for file, names in listed.items():
            for name in names:
                yield f"{file}:{name}", _defaults(PACKAGE.parent / file, name)
        return
    name = re.sub(r"\$\{([\w.]+)\}", lambda found: str(setting(params, found[1])), str(listed))
    root = project if listed == OWN_CODE else PACKAGE.parent
    path = root / name
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        # As .dvcignore has it: of the settings, only the defaults count that a stage uses.
        if file.is_file() and "__pycache__" not in file.parts and (root == project or file.name != "settings.py"):
            yield file.relative_to(root).as_posix(), digest(file)


def _defaults(file: Path, name: str) -> dict[str, str]:
    """The defaults of a class of settings, or the one named ``Class.setting``, as they stand in its file."""
    kind, _, setting = name.partition(".")
    nodes = ast.parse(file.read_bytes()).body
    (found,) = (node for node in nodes if isinstance(node, ast.ClassDef) and node.name == kind)
    defaults = {
        ast.unparse(node.target): ast.unparse(node.value)
        for node in found.body
        if isinstance(node, ast.AnnAssign) and node.value is not None
    }
    return {setting: defaults[setting]} if setting else defaults


def _flow(values: Sequence[str]) -> CommentedSeq:
    listed = CommentedSeq(values)
    listed.fa.set_flow_style()
    return listed
