"""The section ``query``."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

from atp.settings import Count, Flag, NonNegative, Positive, Section

SECRET_PATTERN = r"(?i)key|token|secret|passw|^sig|signature|credential|auth"
"""Query parameters of an address that suggest a secret."""


class QuerySettings(Section):
    """A black-box source model (Sec. 3.4): where its predictions come from, and what is kept of them.

    Attributes:
        box: kind of box: a ``folder`` of predictions, a Python ``callable``, or an HTTP ``endpoint``.
        folder: predictions by image name, ``NAME.png`` of ids, ``NAME.npy`` or ``NAME.npz``; below data.source.root.
        callable: ``package.module:callable``, from an image, uint8 (H, W, 3), to ids (H, W) or probabilities (C, H, W).
        endpoint: http or https address without credentials.
        protocol: ``mlflow``, its scoring protocol, or ``plain``: post a PNG, receive a PNG or an array.
        version: version of the box. Answers are cached permanently; a new version queries all images again.
        test: also query the test images, so that tables include the box's own mIoU.
        keep: number of most probable classes kept per pixel.
        concurrency: concurrent requests; default 4 for an endpoint, else 1. A callable must be thread-safe for more.
        rate: maximum requests per second; 0 is unlimited.
        timeout_s: timeout of one request, seconds.
        attempts: attempts per image; the stage reports failed images at its end.
        backoff_s: seconds before the second attempt; doubled for each further one, up to a minute, minus a random part.
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
        # Not a regex constraint: its error would quote a secret given in place of a name.
        for name, variable in {"token": self.token, **self.headers}.items():
            if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
                raise ValueError(f"{name}: must name an environment variable with the secret, such as ATP_QUERY_TOKEN")
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
                raise ValueError("endpoint contains a user or a password; put the secret into the variable of token")
            secret = next((name for name, _ in parse_qsl(parts.query) if re.search(SECRET_PATTERN, name)), None)
            if secret is not None:
                raise ValueError(f"endpoint contains {secret}, which looks like a secret; pass it by token or headers")
        return self
