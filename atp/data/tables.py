"""The table of a folder of files by image: written last, so that a folder that has one is a whole one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from atp.data.arrays import damaged
from atp.errors import InputError

Table = TypeVar("Table", bound=Mapping[str, object])


def read_table(folder: Path, table: TypeAdapter[Table], form: tuple[str, int], stage: str, what: str) -> Table:
    """The ``table.json`` of a finished folder.

    Args:
        table: has ``format`` and ``version``.
        form: those of the tables that this ATP reads.
        stage: that makes such folders, for the messages.
        what: lies in the folder, in words.

    Raises:
        InputError: no such folder, an unfinished one, or one of another version.
    """
    path = folder / "table.json"
    try:
        read = table.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no finished {what} here (no table.json); run the {stage} stage") from error
    except ValidationError as error:
        raise damaged(path, stage) from error
    if (read["format"], read["version"]) != form:
        raise InputError(f"{path}: not of version {form[1]} of {form[0]}; run the {stage} stage again")
    return read
