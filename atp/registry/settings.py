"""The section ``register``."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from atp.settings import NonNegative, Section

ALIAS_PATTERN = r"(?!(?i:latest|v\d+)$)[\w\-]+"
"""Aliases that MLflow reserves."""


class RegisterSettings(Section):
    """Registration of the adapted model in MLflow's registry.

    Attributes:
        name: name of the registered model.
        alias: alias of the new version.
        champion: alias of the version in use, which the gate moves.
        promote: ``auto`` promotes a new version if it measures better, ``never`` leaves promotion to the user.
        gain: required improvement in percentage points of mIoU.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.\- ]*$")] = "atp"
    alias: str = "candidate"
    champion: str = "champion"
    promote: Literal["auto", "never"] = "auto"
    gain: NonNegative = 0.0

    @model_validator(mode="after")
    def _aliases_are_free(self) -> Self:
        for alias in (self.alias, self.champion):
            if not re.fullmatch(ALIAS_PATTERN, alias):
                raise ValueError(f"alias {alias!r} is not a word, or MLflow reserves it (latest, v1); choose another")
        if self.alias.lower() == self.champion.lower():
            raise ValueError(f"alias and champion are both {self.alias}; the gate needs two")
        return self
