"""The table of a folder of files by image: written last, so that a folder that has one is a whole one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from atp.data.sealed import Kind
from atp.errors import InputError

Table = TypeVar("Table", bound=Mapping[str, object])


def read_table(folder: Path, table: TypeAdapter[Table], form: tuple[str, int], files: Kind, what: str) -> Table:
    """The ``table.json`` of a finished folder.

    Args:
        table: has ``format`` and ``version``.
        form: those of the tables that this ATP reads.
        files: what lies in the folder, and which stage puts it there.
        what: the same in words, for the message.

    Raises:
        InputError: no such folder, an unfinished one, or one of another version.
    """
    path = folder / "table.json"
    try:
        read = table.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no finished {what} here (no table.json); run the {files.stage} stage") from error
    except ValidationError as error:
        raise files.damaged(path) from error
    if (read["format"], read["version"]) != form:
        raise InputError(f"{path}: not of version {form[1]} of {form[0]}; run the {files.stage} stage again")
    return read
