"""A black box behind HTTP, by MLflow's scoring protocol or a plain one: PNG in, PNG or array out.

Secrets come from environment variables and go into the request's headers; all messages about a request, ours and the
server's, are redacted.
"""

import base64
import binascii
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import requests
import urllib3
from numpy.typing import NDArray
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from atp.black_box.answers import Answer
from atp.black_box.boxes import Question, image_key
from atp.black_box.formats import quoted, read_answer, read_png
from atp.black_box.predictions import Expected, NoAnswerError, WrongAnswerError
from atp.black_box.settings import QuerySettings
from atp.errors import InputError

LONGEST_PAUSE_S = 600.0
"""Maximum Retry-After, in seconds."""

_MIB = 2**20
_HOW = {
    "mlflow": {"Content-Type": "application/json", "Accept": "application/json"},
    "plain": {"Content-Type": "image/png", "Accept": "application/x-npz, application/x-npy, image/png"},
}


class Credentials(requests.auth.AuthBase):
    """Headers with secrets; passed as ``auth``, so ``requests`` does not read .netrc."""

    def __init__(self, section: QuerySettings, environment: Mapping[str, str] = os.environ) -> None:
        """Read the environment variables that the section names.

        Raises:
            InputError: one of ``headers`` is not set or invalid in a header; the message contains only its name.
        """
        self._headers: dict[str, str] = {}
        token = self._value(section.token, environment)
        self.token_variable = section.token
        self.has_token = bool(token)
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        secrets = {token}
        for name, variable in section.headers.items():
            value = self._value(variable, environment)
            if not value:
                raise InputError(f"params.yaml: query.headers: {name}: the environment variable {variable} is not set")
            self._headers[name] = value
            secrets |= {value, value.split()[-1]}
        encoded = {form for secret in secrets if secret for form in _forms(secret)}
        # Longest first: one secret may be part of another.
        self._secrets = sorted(encoded, key=len, reverse=True)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request

    @property
    def any(self) -> bool:
        """Whether there are any secrets. Not ``__bool__``: ``requests`` ignores a falsy ``auth``."""
        return bool(self._headers)

    def redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        # Quoted text may be truncated and end with the beginning of a secret.
        beginnings = (secret[:length] for secret in self._secrets for length in range(3, len(secret)))
        longest = max((len(begun) for begun in beginnings if text.endswith(begun)), default=0)
        return f"{text[:-longest]}***" if longest else text

    @staticmethod
    def _value(variable: str, environment: Mapping[str, str]) -> str:
        value = environment.get(variable, "").strip()
        if not all(" " <= letter <= "~" for letter in value):
            raise InputError(f"the environment variable {variable} is not valid in a header: use printable ASCII only")
        return value


def _forms(secret: str) -> tuple[str, ...]:
    """How a server may quote a secret."""
    return secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()


class _Timed(HTTPConnection):
    """A connection that waits for an answer's headers for its timeout in all.

    The socket's own timeout begins anew with every byte, and with every ``100 Continue``.
    """

    def getresponse(self) -> Any:
        late = threading.Event()
        timer = threading.Timer(float(self.timeout or 0), self._close, (late,))
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        finally:
            timer.cancel()
        if late.is_set():
            # Headers that are cut short look whole.
            response.close()
            raise TimeoutError
        return response

    def _close(self, late: threading.Event) -> None:
        late.set()
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class _TimedAdapter(HTTPAdapter):
    """Sends over such connections, with or without encryption and proxies."""

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*arguments, **options)
        if not issubclass(pool.ConnectionCls, _Timed):
            pool.ConnectionCls = type("Timed", (_Timed, pool.ConnectionCls), {})
        return pool


@dataclass(frozen=True)
class Endpoint:
    """The box ``endpoint``.

    Attributes:
        section: address, protocol, timeout.
        num_classes: of the box.
        credentials: for its headers.
    """

    section: QuerySettings
    num_classes: int
    credentials: Credentials
    _local: threading.local = field(default_factory=threading.local)

    def key(self, question: Question) -> str:
        return image_key(question)

    def ask(self, question: Question) -> Answer:
        image = question.image()
        file = _png(image)
        expected = Expected(self.num_classes, (image.size,), self.section.keep)
        pixels = self.num_classes * image.width * image.height
        try:
            if self.section.protocol == "plain":
                return read_answer(self._post(file, most=_MIB + 8 * pixels), expected)
            wanted = {"confidence": True, "soft": self.section.keep}
            body = json.dumps({"inputs": [base64.b64encode(file).decode()], "params": wanted}).encode()
            # Nested lists take about twenty characters per number.
            return read_scoring(self._post(body, most=_MIB + 24 * pixels), expected)
        except NoAnswerError as error:
            # Redact every message, whatever its origin.
            error.args = (self.credentials.redact(str(error)),)
            raise

    def _post(self, body: bytes, most: int) -> bytes:
        """Send a request and return the body of a successful response.

        Raises:
            NoAnswerError: no answer; states whether and when to retry.
            InputError: access is denied.
        """
        deadline = time.monotonic() + self.section.timeout_s
        try:
            # A redirect would send the secrets elsewhere.
            with self._session().post(
                str(self.section.endpoint),
                data=body,
                headers=_HOW[self.section.protocol],
                auth=self.credentials,
                timeout=self.section.timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code != 200:
                    raise self._refused(response, _read(response, 2**16, deadline, cut=True))
                return _read(response, most, deadline)
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            late: BaseException = TimeoutError() if time.monotonic() > deadline else error
            raise NoAnswerError(_network_reason(late, self.section.timeout_s), down=True) from None

    def _refused(self, response: requests.Response, body: bytes) -> Exception:
        status = response.status_code
        # Redacted before truncation, so that no partial secret remains.
        said = quoted(self.credentials.redact(body.decode(errors="replace")).encode())
        line = f"HTTP {status}" + (f": {said}" if said else "")
        if status in (401, 403):
            variable = self.credentials.token_variable
            known = f"check the token in {variable}" if self.credentials.has_token else f"{variable} is not set"
            return InputError(f"{self.section.endpoint}: access denied, {line}; {known}, and query.headers")
        if 300 <= status < 400:
            to = self.credentials.redact(response.headers.get("Location", "nowhere"))
            return InputError(
                f"{self.section.endpoint}: HTTP {status} to {to[:200]}; set the final address as endpoint"
            )
        if status in (408, 425, 429) or status >= 500:
            return NoAnswerError(line, down=True, after_s=pause_s(response.headers.get("Retry-After")))
        return NoAnswerError(line, again=False)

    def _session(self) -> requests.Session:
        """One session per thread, which keeps its connection."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, _TimedAdapter())
            # No compression: a response could decompress to gigabytes.
            session.headers["Accept-Encoding"] = "identity"
            session.headers["User-Agent"] = "atp"
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            self._local.session = session
        session = self._local.session
        assert isinstance(session, requests.Session)
        return session


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def open_endpoint(section: QuerySettings, num_classes: int) -> Endpoint:
    """The box ``endpoint``.

    Raises:
        InputError: a secret is missing or unusable.
    """
    return Endpoint(section, num_classes, Credentials(section))


def unencrypted(endpoint: str) -> bool:
    """Whether requests to the endpoint can be read in transit."""
    parts = urlsplit(endpoint)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def _read(response: requests.Response, most: int, deadline: float, *, cut: bool = False) -> bytes:
    """Read the body, limited in size and time.

    Args:
        cut: truncate a longer body instead of raising.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise WrongAnswerError("the answer is compressed, which was not requested")
    parts: list[bytes] = []
    size = 0
    # In small reads, so that a slow trickle hits the deadline: requests' own timeout is between two bytes.
    while part := response.raw.read1(2**16):
        parts.append(part)
        size += len(part)
        if size > most:
            if cut:
                break
            raise WrongAnswerError(f"the answer is longer than {most} bytes, the maximum for this size")
        if time.monotonic() > deadline:
            raise TimeoutError
    length = response.headers.get("Content-Length", "")
    if not cut and length.isdigit() and int(length) != size:
        raise WrongAnswerError(f"the answer was cut short: {size} of {length} bytes")
    return b"".join(parts)


def pause_s(header: str | None) -> float:
    """Seconds of a Retry-After header, a number or an HTTP date, limited; 0 without one."""
    if header is None:
        return 0.0
    try:
        seconds = float(header) if header.strip().isdigit() else _until(header)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_PAUSE_S)


def _until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def read_scoring(body: bytes, expected: Expected) -> Answer:
    """Read the single prediction in MLflow's answer.

    ``{"predictions": [P]}`` with P a mapping that has ``classes`` and ``probabilities``, PNGs in base64 of the k most
    probable classes and of their probabilities in 255ths, k planes of the image's size one below the other; or
    ``mask``, such a PNG of ids, and perhaps ``confidence``, their probabilities; or P an array as nested lists, ids
    (H, W) or probabilities (C, H, W).

    Raises:
        WrongAnswerError: for any other.
    """
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WrongAnswerError(f"the answer is not JSON: {quoted(body)}") from error
    predictions = tree.get("predictions") if isinstance(tree, dict) else None
    if not isinstance(predictions, list) or len(predictions) != 1:
        raise WrongAnswerError(f"the answer must have one prediction under predictions: {quoted(body)}")
    (prediction,) = predictions
    if isinstance(prediction, dict):
        if "classes" in prediction and "probabilities" in prediction:
            return expected.top(*(_planes(prediction[name], expected) for name in ("classes", "probabilities")))
        if "mask" in prediction and "confidence" in prediction:
            return expected.top(*(_planes(prediction[name], expected, most=1) for name in ("mask", "confidence")))
        if "mask" in prediction:
            return expected.answer(_planes(prediction["mask"], expected, most=1)[0])
    if not isinstance(prediction, list):
        raise WrongAnswerError(f"the prediction is not an array and has no mask or classes: {quoted(body)}")
    try:
        array = np.asarray(prediction)
    except ValueError as error:
        raise WrongAnswerError("the prediction's lists are of different lengths") from error
    return expected.answer(array)


def _planes(text: object, expected: Expected, most: int | None = None) -> NDArray[np.uint8]:
    """Decode a base64 PNG of one or several vertically stacked planes, (k, H, W)."""
    try:
        if not isinstance(text, str):
            raise ValueError
        file = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WrongAnswerError("the prediction is not a base64 PNG") from error
    ((width, height),) = expected.sizes
    counts = range(1, min(most or expected.num_classes, expected.num_classes) + 1)
    stacked = read_png(file, tuple((width, count * height) for count in counts))
    return stacked.reshape(-1, height, width)


def _network_reason(error: BaseException, timeout_s: float) -> str:
    """The reason of a network error, without the address and the libraries' wrapping."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or getattr(error, "reason", None) or error
        if not isinstance(error, BaseException):
            break
    # Not urllib3's TimeoutError, which includes refused connections.
    if any(isinstance(e, TimeoutError | requests.Timeout | urllib3.exceptions.ReadTimeoutError) for e in chain):
        return f"no answer in {timeout_s:g} s"
    if any(isinstance(e, http.client.IncompleteRead | urllib3.exceptions.IncompleteRead) for e in chain):
        return "the answer was cut short"
    for each in reversed(chain):
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    return " ".join(str(chain[-1]).split())[:200] or type(chain[-1]).__name__
