"""Base types of all settings: validated numbers, and a section that rejects unknown keys."""

import copy
import difflib
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from atp.errors import InputError, first_line, grouped

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Decay = Annotated[float, Field(gt=0.0, lt=1.0, strict=True)]
Positive = Annotated[float, Field(gt=0.0, strict=True)]
NonNegative = Annotated[float, Field(ge=0.0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]


Channel = Annotated[int, Field(ge=0, le=255, strict=True)]


Flag = Annotated[bool, Field(strict=True)]


def _size(value: Any) -> Any:
    """Accept ``WIDTHxHEIGHT``, as on the command line."""
    if isinstance(value, str) and (sides := re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", value)):
        value = [int(side) for side in sides.groups()]
    if value is not None and not (isinstance(value, list | tuple) and len(value) == 2):
        raise ValueError(f"must be [width, height] in pixels, such as [160, 80], not {value!r}")
    return value


Size = Annotated[tuple[Count, Count], BeforeValidator(_size)]
"""(width, height), also as ``WIDTHxHEIGHT``."""


WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text",
    "string_pattern_mismatch": "must have the form {pattern}",
    "path_type": "must be a path",
    "literal_error": "must be {expected}",
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list in brackets"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a section with entries of its own"),
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
}
"""What pydantic's types of errors mean, for people who write params.yaml."""


MOST_BYTES = 2**20
"""Size of a file of settings or classes."""
MOST_VALUES = 20_000

EMPTY: Mapping[str, Any] = MappingProxyType({})


class Section(BaseModel):
    """A read-only section of params.yaml that rejects unknown keys and does not convert types silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


SectionType = TypeVar("SectionType", bound=Section)


def checked(kind: type[SectionType], values: Mapping[str, Any], where: str) -> SectionType:
    """Validate settings whose type the schema of params.yaml leaves open.

    Args:
        where: their location, for the error message.

    Raises:
        InputError: if an entry is unknown, missing, of the wrong type or out of range.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(*problems(error, kind, where)) from error


def read_yaml(path: Path, remedy: str = "correct its path in params.yaml") -> object:
    """Read a YAML file.

    Args:
        remedy: what to do if the file is missing, for the error message.

    Raises:
        InputError: if the file is missing, cannot be read, is not YAML, or holds far more than any settings do.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: larger than {MOST_BYTES // 2**20} MiB; is it the right file?")
        tree = _parse(path.read_text(encoding="utf-8"))
        if _expanded(tree, {}) > MOST_VALUES:
            raise InputError(f"{path}: stands for more than {MOST_VALUES} values; is it the right file?")
        return copy.deepcopy(tree)
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply; is it the right file?") from error
    except FileNotFoundError as error:
        check_imported(path)
        raise InputError(f"{path}: no such file; {remedy}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        what = "a tab; indent with spaces" if "'\\t'" in str(error.problem) else error.problem
        raise InputError(f"{path}: line {mark.line + 1 if mark else '?'}: not YAML: {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (YAMLError, ValueError, TypeError) as error:
        # A character that YAML forbids, or a number or a date that none can be; these have no mark.
        raise InputError(f"{path}: not YAML: {first_line(error).partition(': ')[2]}") from error


def _expanded(node: object, known: dict[int, float]) -> float:
    """Number of values that a tree stands for, its aliases written out: a few lines can stand for billions."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) not in known:
        # Within itself it has no end.
        known[id(node)] = math.inf
        parts = [*node, *node.values()] if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


@lru_cache(maxsize=16)
def _parse(text: str) -> object:
    """Parse YAML; a study reads the same parameters for each of its cells, and parsing them takes 50 ms."""
    # YAML 1.2, as in DVC: in YAML 1.1, 1e-3 is a string and `no` a boolean.
    return YAML(typ="safe", pure=True).load(text)


def check_imported(path: Path) -> None:
    """Check that DVC has imported the folder in which a path is; in a fresh clone, it has not.

    Raises:
        InputError: if that folder is missing, but not the file that describes its import, such as ``data.dvc``.
    """
    for folder in (path, *path.parents):
        described = Path(f"{folder}.dvc")
        if described.is_file() and not folder.exists():
            raise InputError(f"{folder}: not imported yet; run dvc repro {described}")


def problems(error: ValidationError, kind: type[BaseModel], where: str = "", unknown: str = "unknown key") -> list[str]:
    """Describe all errors in terms of params.yaml, one line each; those alike share a line.

    Args:
        where: location of the section.
        unknown: what an unknown entry is called.
    """
    told = []
    for one in error.errors(include_url=False):
        # The keys of a mapping have a place of their own after them.
        name = ".".join([*([where] if where else []), *(str(part) for part in one["loc"] if part != "[key]")])
        for what in _in_words(one, kind, unknown).split("\n"):
            told.append((what.partition(", not ")[0], name, f"{name}: {what}" if name else what))
    return grouped(told)


def _in_words(one: "ErrorDetails", kind: type[BaseModel], unknown: str) -> str:
    if one["type"] == "extra_forbidden":
        known = _known_keys([str(part) for part in one["loc"][:-1]], kind)
        near = difflib.get_close_matches(str(one["loc"][-1]), known, n=1)
        return f"{unknown}; " + (f"is it {near[0]}?" if near else f"known here: {', '.join(known)}")
    if one["type"] == "missing":
        return "missing; add it"
    if one["type"] == "value_error":
        return one["msg"].removeprefix("Value error, ")
    words = WORDS.get(one["type"], one["msg"][0].lower() + one["msg"][1:]).format(**one.get("ctx", {}))
    return f"{words.replace(chr(39), '')}, not {one['input']!r}"


def _known_keys(loc: list[str], model: type[BaseModel]) -> list[str]:
    for part in loc:
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        if field is None:
            # A key of a mapping, as of ``rounds``.
            continue
        # The type of an optional section is a union with None, and that of a mapping has its keys' first.
        parts = (field.annotation, *get_args(field.annotation))
        found = next((each for each in parts if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if found is None:
            return []
        model = found
    return [field.alias or name for name, field in model.model_fields.items()]
