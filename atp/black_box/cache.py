"""Permanent cache of valid answers, so that no image is queried twice.

    .atp/answers/IDENTITY/box.json       the box: kind, address, protocol, version, classes, classes kept
    .atp/answers/IDENTITY/KEY.npy.zst    by the image's bytes and the size at which it was shown

Kept outside DVC's outputs, which DVC deletes before a rerun. Answers are in the box's own classes, so changing the
class map repeats no query.
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
    """The settings that decide a box's answers; no secrets.

    Args:
        num_classes: number of classes of the box.
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
    """The answers of one box; safe for several threads that write different answers."""

    def __init__(self, root: Path, box: dict[str, Any]) -> None:
        """Open or create the box's folder.

        Args:
            root: folder of all boxes.
            box: identity of the box.
        """
        described = json.dumps(box, sort_keys=True)
        self._folder = root / sha256(described.encode()).hexdigest()[:16]
        if not (self._folder / "box.json").is_file():
            with atomic_path(self._folder / "box.json") as temporary:
                temporary.write_text(described + "\n")

    def has(self, key: str) -> bool:
        """Whether there is a valid answer; a damaged one is deleted."""
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
        """Store an answer durably: once this returns, it survives a kill or a power cut."""
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
        """Path of an answer's file."""
        return self._folder / f"{key}{SUFFIX}"
