"""One execution of a stage: where it computes, with which seed, and where its state and figures go."""

from collections.abc import Callable
from dataclasses import dataclass

from atp.training.resume import ResumeFile
from atp.training.runtime import Runtime

Record = Callable[[int, dict[str, float]], None]
"""Takes a step's number, from 1, and the means since the last record."""


@dataclass(frozen=True)
class Run:
    """What a training function needs besides model, images and its section.

    Attributes:
        name: of the stage, for progress and errors.
        seed: of order, augmentation and everything random in the objective.
        runtime: where.
        resume: where the training state is kept; None keeps none.
        record: called with (step, means) on the main process as training goes on.
    """

    name: str
    seed: int
    runtime: Runtime
    resume: ResumeFile | None = None
    record: Record | None = None
