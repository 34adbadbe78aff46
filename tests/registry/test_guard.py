"""The guard before a server, without one: what it lets through, and what it says of the rest."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from atp.registry.guard import Guard

Message = MutableMapping[str, Any]


class Exchange:
    """One request to a guarded application, which answers with ``status`` and ``answer``."""

    def __init__(self, chunks: list[bytes], status: int = 200, answer: bytes = b"{}", **headers: str) -> None:
        self.headers = {"content_type": "application/json", **headers}
        self.left = list(chunks)
        self.status, self.answer = status, answer
        self.seen: bytes | None = None
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self.left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.left.pop(0), "more_body": bool(self.left)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def application(self, scope: Message, receive: Any, send: Any) -> None:
        message = await receive()
        self.seen = message["body"]
        assert not message["more_body"]
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x", b"y")]})
        half = len(self.answer) // 2
        await send({"type": "http.response.body", "body": self.answer[:half], "more_body": True})
        await send({"type": "http.response.body", "body": self.answer[half:]})

    def run(self, limit: int = 10) -> tuple[int, bytes]:
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": fields}
        asyncio.run(Guard(self.application, limit)(scope, self.receive, self.send))
        body = b"".join(message.get("body", b"") for message in self.sent[1:])
        assert not self.sent[-1].get("more_body")
        start = dict(self.sent[0]["headers"])
        if b"content-length" in start:
            assert int(start[b"content-length"]) == len(body)
        return self.sent[0]["status"], body


def sentence(answer: tuple[int, bytes]) -> str:
    text: str = json.loads(answer[1])["message"]
    assert "\n" not in text
    return text


def test_a_request_goes_through_whole() -> None:
    exchange = Exchange([b"[1,", b"", b"2,3,4]"], answer=b"0123456789")
    assert exchange.run() == (200, b"0123456789")
    assert exchange.seen == b"[1,2,3,4]"


@pytest.mark.parametrize("headers", [{}, {"content_length": "11"}, {"content_length": "many"}])
def test_a_large_body_is_refused_and_read_to_its_end(headers: dict[str, str]) -> None:
    exchange = Exchange([b"abc", b"defghijk", b"and more", b"and more"], **headers)
    answer = exchange.run()
    assert answer[0] == 413
    assert sentence(answer) == "the body is larger than the 0 MiB that this server accepts"
    assert exchange.seen is None
    assert not exchange.left, "else the connection is reset and the answer lost"


def test_a_client_that_waits_for_leave_is_not_waited_for() -> None:
    exchange = Exchange([b"x"], content_length="99", expect="100-continue")
    assert exchange.run()[0] == 413
    assert exchange.left


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    exchange = Exchange([b"abc"])
    exchange.left = []
    fields = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "headers": fields}
    asyncio.run(Guard(exchange.application, 10)(scope, exchange.receive, exchange.send))
    assert not exchange.sent
    assert exchange.seen is None


@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet", "image/png", ""])
def test_json_alone_is_taken(kind: str) -> None:
    answer = Exchange([b"abc"], content_type=kind).run()
    assert answer[0] == 415
    assert sentence(answer) == "the content type must be application/json"


def test_charset_is_no_other_type() -> None:
    assert Exchange([b"[]"], content_type="Application/JSON; charset=utf-8").run()[0] == 200


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"error_code": "X", "message": "image 0: no"}', "image 0: no"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"message": "two\\nlines"}', "the body must be JSON"),
        (b'{"message": "one", "stack_trace": "secret"}', "the body must be JSON"),
        (json.dumps({"message": "x" * 500}).encode(), "the body must be JSON"),
        (b"Internal Server Error", "the body must be JSON"),
        (b"[]", "the body must be JSON"),
    ],
)
def test_errors_are_one_sentence(answer: bytes, expected: str) -> None:
    told = Exchange([b"[]"], status=400, answer=answer).run()
    assert told[0] == 400
    assert sentence(told).startswith(expected)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200,
        b'{"inputs": [[0], ' + b"[1], " * 200 + b"[2]]}",
        b"[" + b"0," * 20_000 + b"0]",
        b'{"inputs": [' + b"1" * 5000 + b"]}",
        b"no JSON",
        b"\xff",
    ],
)
def test_what_costs_more_to_parse_than_to_send_is_not_parsed(body: bytes) -> None:
    exchange = Exchange([body])
    told = exchange.run(limit=2**20)
    assert told[0] == 400
    assert sentence(told).startswith("the body must be JSON")
    assert exchange.seen is None


def test_many_large_bodies_at_once_are_refused_until_some_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atp.registry.guard.MOST_BODIES", 2)
    done = asyncio.Event()
    fields = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "headers": fields}

    async def application(scope: Message, receive: Any, send: Any) -> None:
        await done.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def all_of_them() -> list[Exchange]:
        guard, exchanges = Guard(application, 10), [Exchange([b"[1,2", b",3,4]"]) for _ in range(4)]
        running = [asyncio.create_task(guard(scope, each.receive, each.send)) for each in exchanges[:-1]]
        while not exchanges[2].sent:
            await asyncio.sleep(0)
        done.set()
        await asyncio.gather(*running)
        assert Guard.held == 0
        await guard(scope, exchanges[3].receive, exchanges[3].send)
        return exchanges

    monkeypatch.setattr("atp.registry.guard.Guard.held", 0)
    exchanges = asyncio.run(all_of_them())
    assert [each.sent[0]["status"] for each in exchanges] == [200, 200, 503, 200]


def test_other_requests_are_not_touched() -> None:
    seen = []

    async def application(scope: Message, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for scope in ({"type": "lifespan"}, {"type": "http", "method": "GET", "headers": []}):
        asyncio.run(Guard(application, 1)(scope, Exchange([]).receive, Exchange([]).send))
    assert seen == ["lifespan", "http"]
