"""One execution of a training or labelling function: where it computes, with which seed, and where its state goes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol, Self

from atp.data.loading import mix_seed
from atp.training.runtime import Runtime

Record = Callable[[int, dict[str, float]], None]
"""Takes a step's number, from 1, and the means since the last record."""


class Resume(Protocol):
    """Where a training state is kept while training goes on; ``atp.runner.resume`` keeps it in a file."""

    def load(self) -> dict[str, Any] | None:
        """The last saved state; None where nothing was saved."""
        ...

    def due(self) -> bool:
        """Whether it is time to save again."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state in one step."""
        ...

    def part(self, number: int) -> Self:
        """Where a part of the same execution keeps its state, as a round of CBST."""
        ...


@dataclass(frozen=True)
class Run:
    """What a training function needs besides model, images and settings.

    Attributes:
        name: of the stage, for progress and errors.
        seed: of order, augmentation and everything random in the objective.
        runtime: where.
        resume: keeps the training state; None keeps none.
        record: called with (step, means) on the main process as training goes on.
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
        """The execution of a named part of the method; ``seed`` is that of the whole."""
        return cls(name, part_seed(seed, name), runtime, resume, record)

    def part(self, number: int, record: Record | None) -> Self:
        """A part of this execution, with a seed and a state of its own."""
        resume = self.resume.part(number) if self.resume else None
        return replace(self, seed=mix_seed(self.seed, number), resume=resume, record=record)


def part_seed(seed: int, name: str) -> int:
    """The seed of the whole mixed with a part's name, so that no two parts draw alike."""
    return mix_seed(seed, int.from_bytes(sha256(name.encode()).digest()[:7], "big"))
