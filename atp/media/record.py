"""The record of predicted images beside their masks, the least certain first."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from atp.data.labels import LabelSpace
from atp.errors import InputError
from atp.files import atomic_path

RECORD = "predictions.json"
_FORMAT = "atp predictions"


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        name: its mask is ``masks/NAME.png``.
        image: the image's file, absolute.
        width, height: its own size, and that of its mask.
        entropy: mean normalised entropy of its prediction, 0 to 1 (Eq. 9).
    """

    name: str
    image: str
    width: int
    height: int
    entropy: float


@dataclass(frozen=True)
class Record:
    """Contents of the file.

    Attributes:
        model: the model that predicted, as it was given.
        classes: names and colours.
        images: the least certain first.
    """

    format: str
    model: str
    classes: LabelSpace
    images: list[Row]


_RECORD = TypeAdapter(Record)


def write_record(folder: Path, model: str, space: LabelSpace, rows: Iterable[Row]) -> None:
    """Write the record of the images that were predicted into ``folder``, replacing an earlier one."""
    ordered = sorted(rows, key=lambda row: (-row.entropy, row.name))
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(asdict(Record(_FORMAT, model, space, ordered)), indent=1) + "\n")


def read_record(folder: Path) -> Record:
    """Read what ``write_record`` wrote.

    Raises:
        InputError: if there is none, or the file is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{path}: no such file; pass the folder that atp predict wrote, or run it again")
    try:
        record = _RECORD.validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: damaged or of another version; run atp predict again") from error
    return record


def mask_of(folder: Path, row: Row) -> Path:
    """The file of an image's mask."""
    return folder / "masks" / f"{row.name}.png"
