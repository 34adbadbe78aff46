"""The result of a check."""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: severity, what is wrong and where, and what to do about it."""

    level: Literal["ok", "warning", "error"]
    text: str


def kind_of(text: str, *names: object) -> str:
    """What a line has in common with those alike: all but the names in it, and numbers."""
    for name in names:
        text = text.replace(str(name), "")
    return re.sub(r"0x[0-9a-f]+|\d+", "#", text)
