"""Every good answer, kept for ever, so that no image is asked about twice.

    .atp/answers/IDENTITY/box.json       what answers: kind, address, protocol, version, classes, classes kept
    .atp/answers/IDENTITY/KEY.npy.zst    by the image's bytes and the size at which it was shown

Outside DVC's outputs, which DVC deletes before a rerun. Answers are in the box's own classes, so that another class map
asks nothing anew.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from atp.black_box.answers import Answer
from atp.black_box.settings import QuerySettings
from atp.data.arrays import SUFFIX, read_arrays
from atp.errors import InputError
from atp.files import atomic_path


def identity(section: QuerySettings, num_classes: int) -> dict[str, Any]:
    """All that decides what a box answers; no secrets.

    Args:
        num_classes: of the box.
    """
    where: Any = getattr(section, section.box)
    return {
        "box": section.box,
        section.box: str(where),
        **({"protocol": section.protocol} if section.box == "endpoint" else {}),
        "version": section.version,
        "classes": num_classes,
        "keep": section.keep,
    }


class AnswerCache:
    """The answers of one box; for several threads, each with answers of its own."""

    def __init__(self, root: Path, box: dict[str, Any]) -> None:
        """Take up the box's folder, or begin one.

        Args:
            root: of all boxes.
            box: its identity.
        """
        described = json.dumps(box, sort_keys=True)
        self._folder = root / sha256(described.encode()).hexdigest()[:16]
        if not (self._folder / "box.json").is_file():
            with atomic_path(self._folder / "box.json") as temporary:
                temporary.write_text(described + "\n")

    def has(self, key: str) -> bool:
        """Whether there is a good answer; a damaged one is not, and is deleted."""
        path = self.path(key)
        if not path.is_file():
            return False
        try:
            read_arrays(path, "query")
        except InputError:
            path.unlink()
            return False
        return True

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer: once this returns, neither a kill nor a power cut loses it."""
        path = self.path(key)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(answer.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def path(self, key: str) -> Path:
        """Of an answer's file."""
        return self._folder / f"{key}{SUFFIX}"
