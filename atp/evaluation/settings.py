"""The sections ``evidence`` and ``evaluate``."""

from typing import Literal

from atp.settings import Flag, Section, Whole


class EvidenceSettings(Section):
    """Label-free measurements on the target after each training stage, and the reaction to a collapse.

    Attributes:
        images: number of target images to measure, at even intervals; 0 uses all.
        on_collapse: reaction to a model that has collapsed: ``revert`` hands on the model from which the stage
            started, also if the new one is judged worse than that; ``stop`` fails the stage with the measurements and
            saves nothing, ``warn`` logs a warning and continues.
    """

    images: Whole = 64
    on_collapse: Literal["stop", "revert", "warn"] = "revert"


class EvaluateSettings(Section):
    """Measurements on the test images.

    Attributes:
        batchnorm_only: also evaluate the source model with only its BatchNorm statistics re-estimated on the target;
            ignored for a black box, and for a network without BatchNorm.
        flip: for every model, average the prediction with that of the mirrored image.
    """

    batchnorm_only: Flag = True
    flip: Flag = False
