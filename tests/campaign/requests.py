"""Good requests among hostile ones, to ``atp serve`` and ``mlflow models serve``: none of the good ones is lost."""

import base64
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.campaign import trial as shared
from tests.campaign.mutation import mutate, png_file
from tests.campaign.trial import RIGHT, WRONG, Command, FailedError, Result, adapted, processes, run

GOOD, HOSTILE_THREADS = 100, 2
MOST_GROWTH_MB, MOST_S = 500, 2.0
"""By how much hostile requests may enlarge a server, and for how long they may delay the 95th of 100 good ones."""

KINDS = ("atp", "mlflow")


def trial(seed: int, folder: Path) -> Result:
    rng = random.Random(seed)
    kind = KINDS[seed % 2]
    port, place = server(kind)
    image = (adapted() / "data/test/images/00.png").read_bytes()
    body = json.dumps({"inputs": [base64.b64encode(image).decode()]}).encode()
    expected = post(port, body)
    if expected[0] != 200:
        raise FailedError(WRONG, f"{kind}: a good request got {expected}")
    without, before = timed(port, body, expected), memory(place)
    stop, sent, wrong = threading.Event(), [0], list[str]()

    def attack(own: random.Random) -> None:
        while not stop.is_set():
            sent[0] += 1
            wrong.extend(hostile(own, port, image))

    threads = [threading.Thread(target=attack, args=(random.Random(rng.random()),)) for _ in range(HOSTILE_THREADS)]
    for thread in threads:
        thread.start()
    try:
        among = timed(port, body, expected)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    grown = memory(place) - before
    figures = f"{kind}: p95 {without:.3f} s, among {sent[0]} hostile requests {among:.3f} s, memory +{grown} MB"
    if wrong or grown > MOST_GROWTH_MB or among > 2 * without + MOST_S:
        raise FailedError(WRONG, f"{figures}; {wrong[:3]}")
    return Result(RIGHT, sent[0], figures)


@cache
def server(kind: str) -> tuple[int, Path]:
    """Port and working folder of a server that runs until the campaign's folder is cleared."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    place = shared.place / f"server-{kind}"
    place.mkdir()
    model = str(adapted() / "runs/propagate")
    if kind == "mlflow":
        save = "import sys; from pathlib import Path; from atp.registry.package import local_checkpoint, save_model; "
        run(place, "-c", save + "save_model(local_checkpoint(sys.argv[1]), Path('model'))", model)
        arguments = ["mlflow", "models", "serve", "--env-manager", "local", "-m", "model", "--workers", "1"]
    else:
        arguments = ["atp.cli", "serve", model, "--max-body-mb", "1"]
    limits = {"UVICORN_HTTP": "atp.registry.guard:GuardedProtocol", "ATP_MAX_BODY_MB": "1"}
    limits["MLFLOW_PYFUNC_INFERENCE_CONFIG"] = json.dumps({"max_pixels": 100_000, "max_images": 3})
    command = Command(place, ("-m", *arguments, "--port", str(port)), limits)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not command.ended():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return port, place
        time.sleep(0.1)
    raise FailedError(WRONG, f"{kind}: the server does not start: {command.wait(1).output}")


def post(port: int, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/invocations", body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def timed(port: int, body: bytes, expected: tuple[int, bytes]) -> float:
    """Send good requests; returns the 95th percentile of their seconds."""
    taken = []
    for _ in range(GOOD):
        start = time.monotonic()
        if (answer := post(port, body)) != expected:
            raise FailedError(WRONG, f"a good request got {answer[0]}: {answer[1][:300]!r}")
        taken.append(time.monotonic() - start)
        time.sleep(0.02)
    return sorted(taken)[int(0.95 * GOOD)]


def memory(place: Path) -> int:
    """MB of a server's processes."""
    return sum(process.memory_info().rss for process in processes(place)) // 2**20


def hostile(rng: random.Random, port: int, image: bytes) -> Iterator[str]:
    """Send one hostile request; yields what is wrong with its answer."""
    if rng.random() < 0.3:
        with suppress(OSError):
            raw(rng, port)
        return
    with suppress(OSError, HTTPException):
        status, answer = post(port, hostile_body(rng, image), rng.choice(("application/json",) * 9 + ("text/csv",)))
        if status >= 500 and status not in (503, 504):
            yield f"{status}: {answer[:300]!r}"
        elif status >= 400 and (b"Traceback" in answer or len(answer) > 600):
            yield f"{status}, not a sentence: {answer[:300]!r}"


def hostile_body(rng: random.Random, image: bytes) -> bytes:
    good = json.dumps({"inputs": [base64.b64encode(image).decode()], "params": {"confidence": True}}).encode()
    choice = rng.random()
    if choice < 0.3:
        return mutate(rng, good)
    if choice < 0.7:
        images = [
            png_file(rng, image) if rng.random() < 0.5 else mutate(rng, image) for _ in range(rng.choice((1, 2, 9)))
        ]
        return json.dumps({"inputs": [base64.b64encode(each).decode() for each in images]}).encode()
    if choice < 0.8:
        # One row of many pixels, in a few kB.
        rows = zlib.compress(bytes(1 + 16_000_000))
        chunks = ((b"IHDR", struct.pack(">IIBBBBB", 16_000_000, 1, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
        parts = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
        return json.dumps({"inputs": [base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()]}).encode()
    odd = ("9" * 5000, "[" * 900_000, '{"inputs": [' + "1," * 300_000 + "1]}", '{"inputs": NaN}', "x" * 2**21, "null")
    return rng.choice(odd).encode()


def raw(rng: random.Random, port: int) -> None:
    """Bytes that are not a whole request."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    said = (
        head + b"Content-Length: 500000\r\n\r\n" + b"x" * 1000,
        head + b"Content-Length: -1\r\n\r\n{}",
        head + b"Content-Length: 1\r\nContent-Length: 99\r\n\r\n{}",
        head + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n{}",
        head + b"A: " + b"a" * 10**6 + b"\r\n\r\n",
        rng.randbytes(3000),
        b"GET /ping HTTP/9.9\r\n\r\n",
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(rng.choice(said))
        if rng.random() < 0.5:
            connection.settimeout(0.2)
            connection.recv(1000)
