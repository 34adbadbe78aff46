"""What a check reports."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: how bad it is, what is wrong where, and what to do about it."""

    level: Literal["ok", "warning", "error"]
    text: str
