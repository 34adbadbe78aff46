"""Cost of a served model: time to first answer, per image and under load, and its behaviour on wrong input.

    python benchmarks/serve.py [--model models:/atp@champion] [--size 512x512] [--requests 200] [--at-once 4] [--plain]

Starts ``atp serve``, or with ``--plain`` ``mlflow models serve`` alone, on a free port of this machine, prints a
Markdown table, and exits with code 1 if an answer is lost or the server dies. Linux only: memory is from /proc.
"""

import argparse
import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from atp.runner.tracking import tracking_uri

GIB = 2**30
JSON = {"Content-Type": "application/json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models:/atp@champion")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--plain", action="store_true", help="mlflow models serve, without the guard")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    with served(arguments.model, plain=arguments.plain) as (port, group, began):
        good = question(png(width, height))
        rows = [("first answer, s after the start", f"{first_answer(port, good, began):.1f}")]
        times = [timed(port, good) for _ in range(20)]
        rows.append((f"an image of {arguments.size}, s: median, longest", f"{median(times):.2f}, {max(times):.2f}"))
        start = time.monotonic()
        with ThreadPoolExecutor(arguments.at_once) as pool:
            codes = list(pool.map(lambda _: post(port, good)[0], range(arguments.requests)))
        lost, took = arguments.requests - codes.count(200), time.monotonic() - start
        rows.append((f"{arguments.requests} requests, {arguments.at_once} at a time: lost, s", f"{lost}, {took:.1f}"))
        before = memory(group)
        failed = bool(lost)
        for name, ask in wrong(port).items():
            code, said = ask()
            alive = post(port, good)[0] == 200
            failed |= not alive or not 400 <= code < 500
            rows.append((name, f"{code}: {said}; lives on: {'yes' if alive else 'NO'}"))
        rows.append(("memory, MiB: before wrong input, most ever", f"{before[0]}, {memory(group)[1]}"))
    print("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]))
    sys.exit(failed)


@contextmanager
def served(model: str, *, plain: bool, log: Path = Path("serve.log")) -> Iterator[tuple[int, int, float]]:
    """Start a server; yields its port, its process group, and its start time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "atp.cli", "serve", model, "--port", str(port)]
    if plain:
        arguments = ["--env-manager", "local", "-m", model, "--port", str(port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "models", "serve", *arguments]
    # MLflow starts uvicorn by name.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": tracking_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    began = time.monotonic()
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield port, server.pid, began
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def first_answer(port: int, good: bytes, began: float) -> float:
    while time.monotonic() - began < 300:
        try:
            if post(port, good)[0] == 200:
                return time.monotonic() - began
        except OSError:
            time.sleep(0.1)
    sys.exit("error: no answer in 300 s; see serve.log")


def timed(port: int, body: bytes) -> float:
    start = time.monotonic()
    post(port, body)
    return time.monotonic() - start


def png(width: int, height: int) -> bytes:
    """Noisy rectangles, about as compressible as a photograph."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 200, (height // 16 + 1, width // 16 + 1, 3)).repeat(16, 0).repeat(16, 1)
    pixels = coarse[:height, :width] + generator.integers(0, 8, (height, width, 3))
    return encoded(Image.fromarray(pixels.astype(np.uint8)))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def question(file: bytes) -> bytes:
    return json.dumps({"inputs": [base64.b64encode(file).decode()]}).encode()


def post(port: int, body: Any, headers: dict[str, str] = JSON) -> tuple[int, str]:
    """Status and body of the answer; for an error, its message."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        # Refused while sending: the answer can still be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/invocations", body, headers, encode_chunked="Content-Length" not in headers)
        answer = connection.getresponse()
        content = answer.read()
    except HTTPException as error:
        return 0, repr(error)
    finally:
        connection.close()
    if answer.status == 200:
        return 200, ""
    try:
        return answer.status, str(json.loads(content)["message"])[:200].replace("\n", " ")
    except (ValueError, KeyError):
        return answer.status, content[:100].decode(errors="replace")


def gigabyte() -> Iterator[bytes]:
    for _ in range(1024):
        yield b"a" * 2**20


def wrong(port: int) -> dict[str, Any]:
    """Wrong requests by name."""
    photo = png(512, 512)
    bomb = encoded(Image.new("1", (16000, 16000)))
    larger = encoded(Image.new("1", (5000, 5000)))
    return {
        "a body of 1 GiB": lambda: post(port, gigabyte(), {**JSON, "Content-Length": str(GIB)}),
        "the same in chunks": lambda: post(port, gigabyte(), {**JSON, "Transfer-Encoding": "chunked"}),
        "a text file": lambda: post(port, question(b"no image, just words\n")),
        "a truncated PNG": lambda: post(port, question(photo[: len(photo) // 2])),
        f"a bomb of 256 megapixels in {len(bomb) // 1024} KiB": lambda: post(port, question(bomb)),
        f"one of 25 megapixels in {len(larger) // 1024} KiB": lambda: post(port, question(larger)),
        "16 bits of grey": lambda: post(port, question(encoded(Image.new("I;16", (64, 64))))),
        "no JSON": lambda: post(port, b"inputs"),
        "another content type": lambda: post(port, photo, {"Content-Type": "image/png"}),
    }


def memory(group: int) -> tuple[int, int]:
    """Current and peak memory of a process group, MiB."""
    now = most = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
                now += int(fields["VmRSS"].split()[0]) // 1024
                most += int(fields["VmHWM"].split()[0]) // 1024
        except (OSError, KeyError):
            continue
    return now, most


if __name__ == "__main__":
    main()
