"""A guard in front of MLflow's model server: bounded body size, JSON only, errors in one sentence.

MLflow's server, run by Uvicorn, reads every request body into memory, and neither limits its size. Uvicorn's option
``--http`` (variable ``UVICORN_HTTP``) accepts our protocol class, which wraps the served application in the guard.
``atp serve`` sets it. The guard is packaged with the model, so ``mlflow models serve`` finds it anywhere.
"""

import asyncio
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY_VARIABLE = "ATP_MAX_BODY_MB"
"""Environment variable with the maximum body size in MiB."""

BODY_MB = 32

WANTED = (
    'the body must be JSON, {"inputs": ["<base64 of a PNG or JPEG file>", ...]}, perhaps with '
    '"params": {"confidence": true}'
)

MOST_BODIES = 8
"""Bodies of the maximum size that one process holds at a time; more are refused until some are done."""

_LINGER_S = 5.0
_MOST_BRACKETS = 100
_MOST_COMMAS = 10_000
_LONGEST_SENTENCE = 400


class Guard:
    """An ASGI application around another one.

    Attributes:
        held: bytes of all bodies that this process holds.
    """

    held: ClassVar[int] = 0

    def __init__(self, app: "App", max_body: int) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: "MutableMapping[str, Any]", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            # MLflow also reads Parquet and CSV; refusing them exposes fewer parsers to untrusted input.
            await _refuse(415, "the content type must be application/json", headers, receive, send)
            return
        too_large = f"the body is larger than the {self.max_body // 2**20} MiB that this server accepts"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_body:
            await _refuse(413, too_large, headers, receive, send)
            return
        with _Held() as held:
            body, more = bytearray(), True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                part = message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) + len(part) > self.max_body:
                    # Sent in chunks, without a content length.
                    await _refuse(413, too_large, headers, receive, send)
                    return
                if Guard.held + len(part) > MOST_BODIES * self.max_body:
                    await _refuse(503, "the server is busy with other requests; try again", headers, receive, send)
                    return
                held.add(len(part))
                body += part
            if _is_expensive(body) or not _is_json(body):
                await _answer(400, _error(WANTED), send)
                return
            await self.app(scope, _replay(bytes(body), receive), _in_one_sentence(send))


class _Held:
    """What one request adds to ``Guard.held`` until it is done."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, count: int) -> None:
        self._bytes += count
        Guard.held += count

    def __enter__(self) -> "_Held":
        return self

    def __exit__(self, *error: object) -> None:
        Guard.held -= self._bytes


def _is_expensive(body: bytes | bytearray) -> bool:
    """Whether a body takes more to parse than to send; base64 contains none of these characters.

    A parsed list of numbers takes many times its size, and deep nesting fails.
    """
    return body.count(b"[") + body.count(b"{") > _MOST_BRACKETS or body.count(b",") > _MOST_COMMAS


def _is_json(body: bytes | bytearray) -> bool:
    """Whether Python can parse it; MLflow calls a number of 5000 digits a fault of the server."""
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _replay(body: bytes, receive: "Receive") -> "Receive":
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> "Message":
        return left.pop() if left else await receive()

    return replayed


async def _refuse(status: int, sentence: str, headers: dict[bytes, bytes], receive: "Receive", send: "Send") -> None:
    body = _error(sentence)
    fields = [*_json_headers(body), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if b"expect" not in headers:
        # Closing on a client that still sends resets the connection and loses the answer: read and discard the rest.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body"):
                    pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _in_one_sentence(send: "Send") -> "Send":
    """Replace MLflow's own errors, which quote the whole request or a traceback, by one sentence."""
    start: Message = {}
    held = bytearray()

    async def told(message: "Message") -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            start.update(message)
        elif start and message["type"] == "http.response.body":
            held.extend(message.get("body", b""))
            if not message.get("more_body"):
                await _answer(start["status"], _error(_sentence(start["status"], bytes(held))), send)
        else:
            await send(message)

    return told


def _sentence(status: int, body: bytes) -> str:
    if status == 504:
        return "this took longer than the server allows; send fewer or smaller images"
    if status >= 500:
        return "the server failed; see its log"
    with suppress(ValueError):
        found = json.loads(body)
        text = found.get("message", found.get("detail")) if isinstance(found, dict) else None
        if isinstance(text, str) and "\n" not in text and len(text) <= _LONGEST_SENTENCE and "stack_trace" not in found:
            return text
    return WANTED


def _error(sentence: str) -> bytes:
    return json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": sentence}).encode()


async def _answer(status: int, body: bytes, send: "Send") -> None:
    await send({"type": "http.response.start", "status": status, "headers": _json_headers(body)})
    await send({"type": "http.response.body", "body": body})


def _json_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]


class GuardedProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """Uvicorn's own protocol, with the guard around the application."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        application: App = self.app
        self.app: Any = Guard(application, int(os.environ.get(BODY_VARIABLE, BODY_MB)) * 2**20)
