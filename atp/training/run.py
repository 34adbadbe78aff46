"""One execution of a training or labelling function: its runtime, seed, and where its state is saved."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol, Self

from atp.data.loading import mix_seed
from atp.training.runtime import Runtime

Record = Callable[[int, dict[str, float]], None]
"""Called with a step's number, from 1, and the means since the last record."""


class Resume(Protocol):
    """Storage of the training state during training; ``atp.runner.resume`` implements it with a file."""

    def load(self) -> dict[str, Any] | None:
        """The last saved state; None if nothing was saved."""
        ...

    def due(self) -> bool:
        """Whether it is time to save again."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state atomically."""
        ...

    def part(self, number: int) -> Self:
        """Storage for a part of the same execution, such as a round of CBST."""
        ...


@dataclass(frozen=True)
class Run:
    """What a training function needs besides model, images and settings.

    Attributes:
        name: name of the stage, for progress and errors.
        seed: seed of order, augmentation and the objective's randomness.
        runtime: device, precision and processes.
        resume: storage of the training state; None does not save it.
        record: called with (step, means) on the main process during training.
    """

    name: str
    seed: int
    runtime: Runtime
    resume: Resume | None = None
    record: Record | None = None

    @classmethod
    def of(
        cls, name: str, seed: int, runtime: Runtime, resume: Resume | None = None, record: Record | None = None
    ) -> Self:
        """Create the run of a named part of the method; ``seed`` is the overall seed."""
        return cls(name, part_seed(seed, name), runtime, resume, record)

    def part(self, number: int, record: Record | None) -> Self:
        """Create a part of this run, with its own seed and state."""
        resume = self.resume.part(number) if self.resume else None
        return replace(self, seed=mix_seed(self.seed, number), resume=resume, record=record)


def part_seed(seed: int, name: str) -> int:
    """Derive a part's seed from the overall seed and the part's name."""
    return mix_seed(seed, int.from_bytes(sha256(name.encode()).digest()[:7], "big"))
