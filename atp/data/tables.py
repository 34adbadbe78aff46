"""The table of a folder of per-image files, written last, so that a folder with a table is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from atp.data.arrays import damaged
from atp.errors import InputError

Table = TypeVar("Table", bound=Mapping[str, object])


def read_table(folder: Path, table: TypeAdapter[Table], form: tuple[str, int], stage: str, what: str) -> Table:
    """Read the ``table.json`` of a finished folder.

    Args:
        table: type of the table, with ``format`` and ``version``.
        form: the expected format and version.
        stage: name of the stage that writes such folders, for error messages.
        what: description of the folder's contents, for error messages.

    Raises:
        InputError: if the folder does not exist, is unfinished, or has another version.
    """
    path = folder / "table.json"
    try:
        read = table.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{folder}: contains no finished {what} (no table.json); run the {stage} stage") from error
    except ValidationError as error:
        raise damaged(path, stage) from error
    if (read["format"], read["version"]) != form:
        raise InputError(f"{path}: not of version {form[1]} of {form[0]}; run the {stage} stage again")
    return read
