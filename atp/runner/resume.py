"""Training state that survives kill -9.

The state is kept outside DVC's outputs (DVC deletes those before a rerun), in a file named after the stage, together
with the fingerprint of everything that the result depends on. Each step seeds its randomness by its number, so the
model, the optimiser and the step number are the whole state.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile, ZipFile

import torch

from atp.errors import InputError
from atp.files import atomic_path


@dataclass
class ResumeFile:
    """The file in which a stage keeps its training state.

    Attributes:
        path: the file.
        fingerprint: of the stage's inputs, parameters and code.
        every_s: seconds between two saves; 0 saves at every call.
    """

    path: Path
    fingerprint: str
    every_s: float = 30.0
    _saved_at: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Any] | None:
        """The last saved state, on the CPU; None if nothing was saved.

        Raises:
            InputError: the state is from other inputs or parameters, or cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            # torch writes the checksums of its zip file, but does not compare them.
            with ZipFile(self.path) as parts:
                if damaged := parts.testzip():
                    raise BadZipFile(damaged)
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            # There are many errors for a damaged file; the remedy is the same.
            raise InputError(f"{self.path}: damaged; delete it to restart the stage") from error
        if state["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.path}: training state from other inputs, parameters or code; restore those to continue it, "
                "or delete it to restart the stage"
            )
        return state

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state atomically; tensors, numbers, strings and containers of them only."""
        with atomic_path(self.path) as temporary:
            torch.save({**state, "fingerprint": self.fingerprint}, temporary)
        self._saved_at = time.monotonic()

    def part(self, number: int) -> Self:
        """The file for one part of the same execution, next to this one."""
        return replace(self, path=self.path.with_stem(f"{self.path.stem}-{number}"))

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
