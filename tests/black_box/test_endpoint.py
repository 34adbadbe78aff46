"""An endpoint that fails in all the ways there are: nothing is lost, nothing is asked twice, no secret is told."""

import base64
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atp.black_box.answers import Answer
from atp.black_box.asking import Asked, ask_all
from atp.black_box.boxes import Question
from atp.black_box.cache import AnswerCache, identity
from atp.black_box.endpoint import Credentials, Endpoint, open_endpoint, pause_s, read_scoring, unencrypted
from atp.black_box.predictions import Expected, NoAnswerError, WrongAnswerError
from atp.black_box.settings import QuerySettings
from atp.errors import InputError
from atp.training.progress import Progress
from tests.black_box.server import CLASSES, BoxServer, ids_of, npy, png, shares_of

Images = Callable[[int], dict[str, Question]]
SECRET = "s3cret/with+odd==letters"


@pytest.fixture
def box() -> Iterator[BoxServer]:
    with BoxServer() as server:
        yield server


def section_of(box: BoxServer, **changes: Any) -> QuerySettings:
    known = {"box": "endpoint", "endpoint": box.address, "timeout_s": 20.0, "attempts": 6, "backoff_s": 0.001}
    return QuerySettings.model_validate(known | {"protocol": "plain" if box.answer else "mlflow"} | changes)


def cache_of(tmp_path: Path, section: QuerySettings) -> AnswerCache:
    return AnswerCache(tmp_path / "answers", identity(section, CLASSES))


def ask(tmp_path: Path, section: QuerySettings, questions: dict[str, Question]) -> Asked:
    """Ask for what is missing."""
    cache = cache_of(tmp_path, section)
    missing = {key: question for key, question in questions.items() if not cache.has(key)}
    with Progress("query", len(questions)) as progress:
        return ask_all(open_endpoint(section, CLASSES), missing, cache, section, progress)


def check_answers(tmp_path: Path, section: QuerySettings, questions: dict[str, Question], *, soft: bool = True) -> None:
    for key, question in questions.items():
        image = np.array(question.image())
        answer = Answer.read(cache_of(tmp_path, section).path(key))
        shares = shares_of(image)
        clear = np.sort(shares, 0)[-1] - np.sort(shares, 0)[-2] > 0.02
        assert np.array_equal(answer.classes[0].numpy()[clear], ids_of(image)[clear])
        if soft:
            assert np.abs(answer.dense(CLASSES).numpy() - shares).max() < 0.02


@pytest.mark.parametrize(
    ("answer", "soft"),
    [
        (None, True),
        (lambda image: png(ids_of(image)), False),
        (lambda image: npy(ids_of(image).astype(np.int64)), False),
        (lambda image: npy(shares_of(image).astype(np.float32)), True),
    ],
)
def test_every_protocol(tmp_path: Path, images: Images, answer: Any, soft: bool) -> None:
    questions = images(3)
    with BoxServer(answer) as box:
        section = section_of(box)
        assert ask(tmp_path, section, questions) == Asked(3, {})
    check_answers(tmp_path, section, questions, soft=soft)
    assert box.headers["Content-Type"] == ("image/png" if answer else "application/json")
    assert "Authorization" not in box.headers


def test_an_answer_in_chunks(tmp_path: Path, images: Images, box: BoxServer) -> None:
    questions = images(1)
    box.faults = ["chunked"]
    assert ask(tmp_path, section_of(box), questions) == Asked(1, {})
    check_answers(tmp_path, section_of(box), questions)


FAULTS = [
    (500, {}, b"oops"),
    (503, {}, b""),
    (429, {"Retry-After": "0"}, b"slow down"),
    (408, {}, b""),
    "reset",
    "truncated",
    "chunked and truncated",
    "small",
    "class",
    (200, {}, b"<html>busy</html>"),
    (200, {}, b'{"predictions": []}'),
    (200, {}, b"["),
    (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"),
]


@pytest.mark.parametrize("protocol", ["mlflow", "plain"])
def test_after_any_fault_it_asks_again(tmp_path: Path, images: Images, protocol: str) -> None:
    """Every fault comes once; no image is lost, and none is asked again after a good answer."""
    questions = images(6)
    with BoxServer(None if protocol == "mlflow" else lambda image: npy(shares_of(image))) as box:
        box.faults = list(FAULTS)
        section = section_of(box, attempts=15)
        assert ask(tmp_path, section, questions) == Asked(6 + len(FAULTS), {})
        assert ask(tmp_path, section, questions) == Asked(0, {})
    assert list(box.good.values()) == [1] * 6
    check_answers(tmp_path, section, questions)


def test_a_timeout_is_asked_again(tmp_path: Path, images: Images, box: BoxServer) -> None:
    box.faults = ["timeout"]
    section = section_of(box, timeout_s=0.3)
    assert ask(tmp_path, section, images(2)) == Asked(3, {})


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nx: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_a_trickle_ends_in_time(tmp_path: Path, images: Images, begin: bytes, again: bytes) -> None:
    """A server that sends a bit now and then, each before the connection's own timeout."""

    def trickle(self: BoxServer, handler: Any, body: bytes, fault: object) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(begin)
            while not self.released.wait(0.02):
                handler.wfile.write(again)

    class Slow(BoxServer):
        reply = trickle  # type: ignore[assignment]

    with Slow() as box:
        started = time.monotonic()
        result = ask(tmp_path, section_of(box, timeout_s=0.3, attempts=1), images(1))
        assert time.monotonic() - started < 10
    assert list(result.failures.values()) == ["no answer in 0.3 s"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("small", "the answer is 9x15; it must be 9x6 or 9x12 or more"),
        ("class", "class 77 in the answer; there are 0..2, and 255 = none"),
        ("truncated", "the answer was cut short"),
        ((200, {}, b"[]"), "must have one prediction under predictions"),
        ((200, {}, b'{"predictions": [' + b"9" * 2**21), "longer than 1052464 bytes"),
        ((500, {}, b'{"message": "no memory"}'), 'HTTP 500: {"message": "no memory"}'),
        ("reset", ""),
    ],
)
def test_the_others_are_asked_and_the_wrong_one_is_named(
    tmp_path: Path, images: Images, box: BoxServer, fault: Any, reason: str
) -> None:
    questions = images(4)
    bad = list(questions)[1]
    section = section_of(box, concurrency=1, attempts=3)
    box.faults = [None, fault, fault, fault]
    result = ask(tmp_path, section, questions)
    assert list(result.failures) == [bad]
    assert reason in result.failures[bad]
    assert result.requests == 6
    assert ask(tmp_path, section, questions) == Asked(1, {}), "only the missing one"
    assert list(box.good.values()) == [1] * 4


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_box_refuses_is_not_asked_again(tmp_path: Path, images: Images, box: BoxServer, status: int) -> None:
    box.faults = [(status, {}, b"no such image format")]
    result = ask(tmp_path, section_of(box, concurrency=1), images(2))
    assert (result.requests, list(result.failures.values())) == (2, [f"HTTP {status}: no such image format"])


def test_retry_after_holds_all_threads(tmp_path: Path, images: Images, box: BoxServer) -> None:
    box.faults = [(429, {"Retry-After": "1"}, b"")]
    asked_at: list[float] = []
    box.before = lambda: asked_at.append(time.monotonic())
    assert ask(tmp_path, section_of(box, concurrency=1), images(2)).failures == {}
    assert asked_at[1] - asked_at[0] >= 1


def test_retry_after_is_seconds_or_a_date() -> None:
    assert pause_s("7") == 7
    assert 50 < pause_s(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert pause_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert pause_s("Fri, 31 Dec 9999 23:59:59 GMT") == pause_s("9" * 40) == 600
    assert pause_s("soon") == pause_s("-3") == pause_s(None) == pause_s("") == 0


def test_not_faster_than_the_rate_nor_more_at_once(tmp_path: Path, images: Images, box: BoxServer) -> None:
    begin = time.monotonic()
    assert ask(tmp_path, section_of(box, rate=20.0), images(5)).requests == 5
    assert time.monotonic() - begin >= 4 / 20


def test_as_many_at_once_as_wished(tmp_path: Path, images: Images, box: BoxServer) -> None:
    """Nobody is answered before three ask; a fourth does not come."""
    together = threading.Barrier(3, timeout=20)
    box.before = together.wait
    assert ask(tmp_path, section_of(box, concurrency=3), images(6)) == Asked(6, {})


def test_a_restart_half_way_loses_nothing(tmp_path: Path, images: Images) -> None:
    """The server goes away after the third answer and is back, at the same address, a moment later."""
    questions = images(8)
    third = threading.Event()
    with BoxServer() as box:
        section = section_of(box, attempts=12, backoff_s=0.02)
        box.before = lambda: third.set() if box.requests >= 3 else None
        results: list[Asked] = []
        thread = threading.Thread(target=lambda: results.append(ask(tmp_path, section, questions)))
        thread.start()
        assert third.wait(20)
    with BoxServer(port=box.port) as again:
        thread.join(60)
    assert [result.failures for result in results] == [{}]
    check_answers(tmp_path, section, questions)
    assert len(box.good | again.good) == 8


def test_a_box_that_is_gone_is_given_up(tmp_path: Path, images: Images) -> None:
    with BoxServer() as box:
        pass
    result = ask(tmp_path, section_of(box, attempts=2, concurrency=1), images(30))
    assert result.requests == 16
    reasons = list(result.failures.values())
    assert reasons == ["Connection refused"] * 8 + ["not asked"] * 22


def test_bad_images_in_a_row_are_no_reason_to_give_up(tmp_path: Path, images: Images, box: BoxServer) -> None:
    box.faults = [(413, {}, b"too large")] * 20
    result = ask(tmp_path, section_of(box, concurrency=1), images(25))
    assert (len(result.failures), result.requests) == (20, 25)


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ((401, {}, b"who are you?"), "access denied, HTTP 401: who are you?; ATP_QUERY_TOKEN is not set"),
        ((403, {}, b""), "access denied, HTTP 403"),
        (
            (302, {"Location": "http://elsewhere.example/"}, b""),
            "HTTP 302 to http://elsewhere.example/; set the final",
        ),
    ],
)
def test_what_no_image_would_change_ends_it(
    tmp_path: Path, images: Images, box: BoxServer, reply: Any, line: str
) -> None:
    box.faults = [None, reply]
    section = section_of(box, concurrency=1)
    questions = images(5)
    with pytest.raises(InputError) as caught:
        ask(tmp_path, section, questions)
    assert line in str(caught.value)
    assert box.requests <= 3, "at most one more was under way"
    assert cache_of(tmp_path, section).has(next(iter(questions))), "what was answered is kept"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MY_TOKEN", SECRET + "\n")
    monkeypatch.setenv("MY_KEY", f"Basic {SECRET[::-1]}")
    return {"token": "MY_TOKEN", "headers": {"X-Api-Key": "MY_KEY"}}


def test_credentials_are_sent(tmp_path: Path, images: Images, box: BoxServer, secrets: dict[str, Any]) -> None:
    assert ask(tmp_path, section_of(box, **secrets), images(1)).failures == {}
    assert box.headers["Authorization"] == f"Bearer {SECRET}"
    assert box.headers["X-Api-Key"] == f"Basic {SECRET[::-1]}"


@pytest.mark.parametrize("cut", [100, 150])
def test_secrets_are_told_nowhere(
    tmp_path: Path,
    images: Images,
    box: BoxServer,
    secrets: dict[str, Any],
    cut: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not even where the server quotes them, in its body or the address that it sends us to, nor half of one.

    An answer is quoted up to its 200th letter: before the last secret there, or in the middle of it.
    """
    caplog.set_level(logging.DEBUG)
    forms = [SECRET, SECRET[::-1], base64.b64encode(SECRET.encode()).decode()]
    quoted = ("wrong: " + " ".join(forms) + "x" * cut + SECRET).encode()
    section = section_of(box, concurrency=1, attempts=1, **secrets)
    box.faults = [(500, {}, quoted), (200, {}, quoted), (400, {}, json.dumps({"message": SECRET}).encode())]
    box.faults += [(302, {"Location": f"http://x/?t={SECRET}"}, quoted)]
    questions = images(4)
    told = []
    with pytest.raises(InputError) as caught:
        ask(tmp_path, section, questions)
    told.append(str(caught.value))
    box.faults = [(401, {}, quoted)]
    with pytest.raises(InputError) as caught:
        ask(tmp_path, section, questions)
    told += [str(caught.value), caplog.text, *capfd.readouterr()]
    told += [path.read_text(errors="replace") for path in (tmp_path / "answers").rglob("*") if path.is_file()]
    told.append(repr(open_endpoint(section, CLASSES)))
    for form in forms:
        assert not any(form in text for text in told)
        # Nor the beginning of one that was cut.
        assert not any(form[:8] in text for text in told)
    assert "***" in caplog.text
    assert "MY_TOKEN" in told[1]


def test_netrc_is_not_looked_into(
    tmp_path: Path, images: Images, box: BoxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    ask(tmp_path, section_of(box), images(1))
    assert "Authorization" not in box.headers


def test_a_variable_that_is_not_set_or_unusable_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"box": "endpoint", "endpoint": "http://127.0.0.1:1/"}
    monkeypatch.delenv("MY_KEY", raising=False)
    section = QuerySettings.model_validate(known | {"headers": {"X-Api-Key": "MY_KEY"}})
    with pytest.raises(InputError, match="MY_KEY is not set"):
        Credentials(section)
    monkeypatch.setenv("MY_KEY", "two\nlines")
    with pytest.raises(InputError, match="MY_KEY") as caught:
        Credentials(section)
    assert "lines" not in str(caught.value)


def test_where_secrets_can_be_read_on_the_way() -> None:
    assert unencrypted("http://models.example/x")
    assert not unencrypted("https://models.example/x")
    assert not unencrypted("http://127.0.0.1:5001/x")


IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
EXPECTED = Expected(CLASSES, ((9, 6),), 2)


def text(array: np.ndarray) -> str:
    return base64.b64encode(png(array)).decode()


@pytest.mark.parametrize(
    ("prediction", "soft"),
    [
        ({"mask": text(ids_of(IMAGE))}, False),
        (
            {
                "mask": text(ids_of(IMAGE)),
                "confidence": text(np.rint(255 * shares_of(IMAGE).max(0)).astype(np.uint8)),
            },
            True,
        ),
        (ids_of(IMAGE).tolist(), False),
        (shares_of(IMAGE).tolist(), True),
    ],
)
def test_predictions_of_other_models(prediction: object, soft: bool) -> None:
    answer = read_scoring(json.dumps({"predictions": [prediction]}).encode(), EXPECTED)
    assert np.array_equal(answer.classes[0].numpy(), ids_of(IMAGE))
    expected = shares_of(IMAGE).max(0) if soft else 1
    assert np.abs(answer.probabilities[0].numpy() - expected).max() < 0.003


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" * 100_000, "is not JSON"),
        (b'{"predictions": [{"mask": 3}]}', "is not a base64 PNG"),
        (b'{"predictions": [{"mask": "???"}]}', "is not a base64 PNG"),
        (b'{"predictions": ["words"]}', "is not an array and"),
        (b'{"predictions": [[[1, 2], [3]]]}', "different lengths"),
        (b'{"predictions": [[["a"]]]}', "shape"),
        (json.dumps({"predictions": [[["a"] * 9] * 6]}).encode(), "whole numbers"),
        (json.dumps({"predictions": [{"classes": text(ids_of(IMAGE)), "probabilities": ""}]}).encode(), "is not a PNG"),
        (b'{"predictions": [[[' + b"9" * 5000 + b"]]]}", "is not JSON"),
    ],
)
def test_wrong_predictions_are_one_sentence(body: bytes, reason: str) -> None:
    with pytest.raises(WrongAnswerError) as caught:
        read_scoring(body, EXPECTED)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_name_that_nobody_knows_is_told(images: Images) -> None:
    section = QuerySettings.model_validate({"box": "endpoint", "endpoint": "http://nowhere.invalid/", "timeout_s": 5.0})
    endpoint: Endpoint = open_endpoint(section, CLASSES)
    with pytest.raises(NoAnswerError) as caught:
        endpoint.ask(next(iter(images(1).values())))
    assert caught.value.down
    assert "object at 0x" not in str(caught.value)
    assert len(str(caught.value)) < 250
