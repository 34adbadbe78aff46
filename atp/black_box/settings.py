"""The section ``query``."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

from atp.settings import Count, Flag, NonNegative, Positive, Section

SECRET_PATTERN = r"(?i)key|token|secret|passw|^sig|signature|credential|auth"
"""Names in an address that mark what belongs into no file."""


class QuerySettings(Section):
    """A source model of which only the predictions are known (Sec. 3.4): where they come from, and what is kept.

    Attributes:
        box: what answers: a ``folder`` of predictions, a Python ``callable``, or an HTTP ``endpoint``.
        folder: predictions by image name, ``NAME.png`` of ids, ``NAME.npy`` or ``NAME.npz``; below data.source.root.
        callable: ``package.module:callable``, an image, uint8 (H, W, 3), to ids (H, W) or probabilities (C, H, W).
        endpoint: address, http or https, without credentials in it.
        protocol: ``mlflow``, its scoring protocol, or ``plain``: a PNG is posted, a PNG or an array comes back.
        version: of the box. Answers are kept for ever; another word asks all images anew.
        test: also ask about the test images, so that the box's own mIoU stands in the tables.
        keep: most probable classes kept of each pixel.
        concurrency: requests under way at once; if not given 4 to an endpoint, else 1. A callable must bear more.
        rate: requests a second at most; 0 is no limit.
        timeout_s: for one request.
        attempts: for one image, before the stage goes on without it and ends with its name.
        backoff_s: before the second attempt; doubled for each further one, up to a minute, and less a random part.
        token: name of the environment variable whose value is sent as ``Authorization: Bearer``.
        headers: further headers, by the name of the environment variable that holds the value.
    """

    box: Literal["folder", "callable", "endpoint"]
    folder: Path | None = None
    callable: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None
    endpoint: str | None = None
    protocol: Literal["mlflow", "plain"] = "mlflow"
    version: str = ""
    test: Flag = True
    keep: Annotated[int, Field(ge=1, le=255, strict=True)] = 4
    concurrency: Count | None = None
    rate: NonNegative = 0.0
    timeout_s: Positive = 60.0
    attempts: Count = 8
    backoff_s: Positive = 1.0
    token: str = "ATP_QUERY_TOKEN"
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9\-]+$")], str] = Field(default={})

    @model_validator(mode="after")
    def _variables_are_named(self) -> Self:
        # Not as a pattern: its complaint would quote the secret that stands here in place of a name.
        for name, variable in {"token": self.token, **self.headers}.items():
            if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
                raise ValueError(f"{name}: must name an environment variable that holds the secret: ATP_QUERY_TOKEN")
        return self

    @model_validator(mode="after")
    def _box_is_given(self) -> Self:
        if getattr(self, self.box) is None:
            raise ValueError(f"box is {self.box}, but {self.box} is not given")
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("endpoint must be an address such as http://127.0.0.1:5001/invocations")
            if parts.username or parts.password:
                raise ValueError("endpoint holds a user or a password; put the secret into the variable named by token")
            secret = next((name for name, _ in parse_qsl(parts.query) if re.search(SECRET_PATTERN, name)), None)
            if secret is not None:
                raise ValueError(f"endpoint holds {secret}, which looks like a secret; send it by token or headers")
        return self
