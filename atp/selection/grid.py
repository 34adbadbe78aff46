"""A grid over parameters: every combination checked against params.yaml's model before anything is queued."""

import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atp.errors import InputError
from atp.params import load_params

SEED = "training.seed"
UNSEEN = {
    "runtime": "changes no result",
    "register": "applies after the selection: a grid's experiments are not registered",
}
"""Sections of params.yaml that cannot vary in a grid, and why."""


@dataclass(frozen=True)
class Cell:
    """One combination of a grid, or any other experiment for DVC's queue.

    Attributes:
        name: the experiment's name: the values it sets, and a digest of all parameters and uncommitted changes, so that
            equal names mean equal results.
        values: values by dotted name, or by ``FILE:NAME`` for another file than params.yaml.
        target: the last stage to run, in the pipeline's folder.
    """

    name: str
    values: Mapping[str, Any]
    target: str = "dvc.yaml:evaluate"


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Parse ``align.diversity=0.1,0.3`` into a dotted name and values, any YAML: ``null``, ``[1.0, 1.25]``.

    Raises:
        InputError: wrong format, no or repeated values, or a section that cannot vary.
    """
    name, equals, values = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)+", name):
        raise InputError(f"--grid {text}: must be SECTION.NAME=VALUE,VALUE as in teach.lr=0.01,0.02")
    try:
        parsed = YAML(typ="safe", pure=True).load(io.StringIO(f"[{values}]"))
    except YAMLError as error:
        raise InputError(f"--grid {text}: the values are not YAML; separate them by commas") from error
    if not parsed:
        raise InputError(f"--grid {text}: no value; give at least one, separated by commas")
    twice = [value for index, value in enumerate(parsed) if value in parsed[:index]]
    if twice:
        raise InputError(f"--grid {text}: the value {_text(twice[0])} is repeated")
    if any(isinstance(value, Mapping) for value in parsed):
        # Hydra would merge it into the existing value instead of replacing it.
        raise InputError(f"--grid {text}: a value is a mapping; set its entries one by one: {name}.ENTRY=VALUE")
    section = name.partition(".")[0]
    if section in UNSEEN:
        raise InputError(f"--grid {name}: the section {section} {UNSEEN[section]}; leave it out")
    return name, parsed


def make_cells(axes: Sequence[str], seeds: str, path: Path, changes: str = "", pipeline: str = "") -> list[Cell]:
    """All combinations of the axes, each checked to be a valid params.yaml.

    Args:
        axes: as ``parse_axis`` reads them.
        seeds: comma-separated values of ``training.seed``; empty for none.
        path: path of params.yaml.
        changes: uncommitted changes of the code, as text.
        pipeline: name of the pipeline's folder, used as prefix of the names; empty for the root.

    Raises:
        InputError: an axis is invalid, or a combination is, with the reason.
    """
    given = [*axes, *([f"{SEED}={seeds}"] if seeds else [])]
    parsed = [parse_axis(text) for text in given]
    names = [name for name, _ in parsed]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--grid {name}: given twice; combine its values in one --grid")
    cells = []
    for values in itertools.product(*(values for _, values in parsed)):
        combination = dict(zip(names, values, strict=True))
        try:
            params = load_params(path, combination)
        except InputError as error:
            told = ", ".join(f"{name}={_text(value)}" for name, value in combination.items())
            raise InputError(*(f"--grid {told}: {line}" for line in error.lines)) from error
        tree = params.model_dump(mode="json", by_alias=True, exclude={"runtime", "register_"})
        digest = sha256(f"{json.dumps(tree, sort_keys=True)}\n{changes}".encode()).hexdigest()[:6]
        varied = {name: combination[name] for name, choices in parsed if len(choices) > 1} or combination
        parts = (pipeline, _readable(varied), digest)
        cells.append(Cell("-".join(part for part in parts if part), combination))
    return cells


def _readable(values: Mapping[str, Any]) -> str:
    """A name that is valid in git and needs no quoting in a shell."""
    lasts = [name.rpartition(".")[2] for name in values]
    parts = []
    for name, value in values.items():
        last = name.rpartition(".")[2]
        parts.append(f"{last if lasts.count(last) == 1 else name}={_text(value)}")
    name = re.sub(r"[^\w.=+-]+", "-", "_".join(parts))
    return re.sub(r"\.{2,}", ".", name)[:80].strip(".-")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def override(name: str, value: Any) -> str:
    """Format for ``dvc exp run --set-param``, in Hydra's grammar; missing entries are added."""
    return f"++{name}={_hydra(value)}"


def _hydra(value: Any) -> str:
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{quoted}'"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_hydra(entry)}" for name, entry in value.items()) + "}"
    return json.dumps(value)
