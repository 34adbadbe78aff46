"""Training state that survives kill -9.

The state lies outside DVC's outputs (DVC deletes those before a rerun), in a file named after the stage, and carries
the fingerprint of everything that its result depends on. All randomness of a step is seeded by its number, so a model,
its optimiser and the step's number are the whole state.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from atp.errors import InputError
from atp.files import atomic_path


@dataclass
class ResumeFile:
    """Where one stage keeps its training state.

    Attributes:
        path: the file.
        fingerprint: of the stage's inputs, parameters and code.
        every_s: seconds between two saves; 0 saves whenever asked.
    """

    path: Path
    fingerprint: str
    every_s: float = 30.0
    _saved_at: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Any] | None:
        """The last saved state, on the CPU; None where nothing was saved.

        Raises:
            InputError: the state belongs to other inputs or parameters, or cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            # Whatever torch raises for a damaged file: the cure is the same.
            raise InputError(f"{self.path}: cannot be read; delete it to start the stage over") from error
        if state["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.path}: training state of other inputs, parameters or code; restore those to continue it, "
                "or delete it to start the stage over"
            )
        return state

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state in one step; tensors, numbers, strings and their containers only."""
        with atomic_path(self.path) as temporary:
            torch.save({**state, "fingerprint": self.fingerprint}, temporary)
        self._saved_at = time.monotonic()

    def part(self, number: int) -> Self:
        """The file of a part of the same execution, beside this one."""
        return replace(self, path=self.path.with_stem(f"{self.path.stem}-{number}"))

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
