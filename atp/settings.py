"""Base types of all settings: validated numbers, and a section that rejects unknown keys."""

import copy
import difflib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from atp.errors import InputError

Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Decay = Annotated[float, Field(gt=0.0, lt=1.0, strict=True)]
Positive = Annotated[float, Field(gt=0.0, strict=True)]
NonNegative = Annotated[float, Field(ge=0.0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]


Channel = Annotated[int, Field(ge=0, le=255, strict=True)]


Flag = Annotated[bool, Field(strict=True)]


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
        # Without a location, the error is about the whole section.
        joint = "." if error.errors()[0]["loc"] else ": "
        raise InputError(f"{where}{joint}{explain(error, kind)}") from error


def read_yaml(path: Path, remedy: str = "correct its path in params.yaml") -> object:
    """Read a YAML file.

    Args:
        remedy: what to do if the file is missing, for the error message.

    Raises:
        InputError: if the file is missing, cannot be read or is not YAML.
    """
    try:
        return copy.deepcopy(_parse(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        check_imported(path)
        raise InputError(f"{path}: no such file; {remedy}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}: line {mark.line + 1 if mark else '?'}: not YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


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


def explain(error: ValidationError, kind: type[BaseModel], unknown: str = "unknown key") -> str:
    """Describe the first error in terms of params.yaml, and count the others.

    Args:
        unknown: what an unknown entry is called.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys([str(part) for part in first["loc"][:-1]], kind)
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        text = f"{where}: {unknown}" + (f"; is it {near[0]}?" if near else f"; known here: {', '.join(known)}")
    elif first["type"] == "missing":
        text = f"{where}: missing; add it"
    elif first["type"] == "value_error":
        text = (f"{where}: " if where else "") + first["msg"].removeprefix("Value error, ")
    else:
        message = first["msg"][0].lower() + first["msg"][1:]
        text = f"{where}: {message}, not {first['input']!r}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _known_keys(loc: list[str], model: type[BaseModel]) -> list[str]:
    for part in loc:
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        annotation = field.annotation if field else None
        # The type of an optional section is a union with None.
        annotation = next((a for a in get_args(annotation) if a is not type(None)), annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [field.alias or name for name, field in model.model_fields.items()]
