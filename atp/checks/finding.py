"""The result of a check."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: severity, what is wrong and where, and what to do about it."""

    level: Literal["ok", "warning", "error"]
    text: str
