"""The section ``register``."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from atp.settings import NonNegative, Section

ALIAS_PATTERN = r"(?!(?i:latest|v\d+)$)[\w\-]+"
"""Those two are MLflow's own."""


class RegisterSettings(Section):
    """The adapted model in MLflow's registry.

    Attributes:
        name: of the registered model.
        alias: given to the new version.
        champion: alias of the version in use, which the gate moves.
        promote: ``auto`` makes a new version champion where it is measured to be better, ``never`` leaves it to people.
        gain: percentage points of mIoU that it must be better by.
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
                raise ValueError(f"alias {alias!r} is no word, or MLflow's own as latest and v1 are; give another")
        if self.alias.lower() == self.champion.lower():
            raise ValueError(f"alias and champion are both {self.alias}; the gate needs two")
        return self
