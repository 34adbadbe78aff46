"""The sections ``evidence`` and ``evaluate``."""

from typing import Literal

from atp.settings import Flag, Section, Whole


class EvidenceSettings(Section):
    """What is measured on the target without labels after each training stage, and what a collapse does.

    Attributes:
        images: target images it is measured on, evenly spread; 0 takes all.
        on_collapse: ``stop`` ends the stage with what was seen and leaves nothing, ``revert`` hands on the model that
            the stage began with, ``warn`` says it and goes on.
    """

    images: Whole = 64
    on_collapse: Literal["stop", "revert", "warn"] = "warn"


class EvaluateSettings(Section):
    """What is measured on the test images.

    Attributes:
        batchnorm_only: also the source model with nothing but its BatchNorm statistics re-estimated on the target;
            has no meaning for a black box.
        flip: predict with the mirrored image averaged in, for every model alike.
    """

    batchnorm_only: Flag = True
    flip: Flag = False
