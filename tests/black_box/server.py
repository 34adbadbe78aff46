"""A black box behind HTTP for tests: answers by colour, counts, and fails where it is told to."""

import base64
import io
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from tests.stages.launch import stage_process

CLASSES = 3
Reply = tuple[int, dict[str, str], bytes]


def ids_of(image: np.ndarray) -> np.ndarray:
    """The box's model: the strongest channel, uint8, (H, W)."""
    return image.argmax(2).astype(np.uint8)


def shares_of(image: np.ndarray) -> np.ndarray:
    """Its probabilities: the channels' shares, (3, H, W)."""
    powers = (image.astype(np.float64) + 1) ** 2
    return (powers / powers.sum(2, keepdims=True)).transpose(2, 0, 1)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def query_process(project: Path, environment: dict[str, str]) -> None:
    """The stage ``query`` in a forked process."""
    stage_process(project, "query", (), environment=environment)


class BoxServer:
    """``with BoxServer() as box: box.address``.

    Attributes:
        faults: for each request to come the fault it meets, None for none; then there are none.
        answer: from an image to the body of a good answer, plain protocol; None speaks MLflow's.
        good: good answers sent in full, by the image's pixels.
        requests: all of them.
        headers: of the last request.
        before: called before each request is answered.
    """

    def __init__(self, answer: Callable[[np.ndarray], bytes] | None = None, port: int = 0) -> None:
        self.faults: list[str | Reply | None] = []
        self.answer = answer
        self.good: Counter[bytes] = Counter()
        self.requests = 0
        self.headers: dict[str, str] = {}
        self.before: Callable[[], object] = lambda: None
        self.lock = threading.Lock()
        self.released = threading.Event()
        box = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with box.lock:
                    box.requests += 1
                    box.headers = dict(self.headers)
                    fault = box.faults.pop(0) if box.faults else None
                box.before()
                box.reply(self, body, fault)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None:
                """Clients that are killed are no news."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}/invocations"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, handler: BaseHTTPRequestHandler, body: bytes, fault: str | Reply | None) -> None:
        file = body if self.answer else base64.b64decode(json.loads(body)["inputs"][0])
        with Image.open(io.BytesIO(file)) as opened:
            image = np.array(opened.convert("RGB"))
        if isinstance(fault, tuple):
            self.send(handler, *fault)
        elif fault == "timeout":
            # Until the test is over.
            self.released.wait(60)
            handler.close_connection = True
        elif fault == "reset":
            # Closed with nothing lingering, a socket sends RST.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
        elif fault == "truncated":
            good = self.good_body(image)
            self.send(handler, 200, {"Content-Length": str(len(good))}, good[: len(good) // 2])
            handler.close_connection = True
        elif fault == "chunked and truncated":
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"ff\r\nnot as many\r\n")
            handler.close_connection = True
        elif fault == "small":
            self.send(handler, 200, {}, self.good_body(image[:-1]))
        elif fault == "class":
            self.send(handler, 200, {}, self.good_body(image, 77))
        elif fault == "chunked":
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            good = self.good_body(image)
            for part in (good[:7], good[7:]):
                handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            handler.wfile.write(b"0\r\n\r\n")
        else:
            assert fault is None, fault
            self.send(handler, 200, {}, self.good_body(image))
            with self.lock:
                self.good[image.tobytes()] += 1

    def good_body(self, image: np.ndarray, add: int = 0) -> bytes:
        if self.answer:
            return png(ids_of(image) + np.uint8(add)) if add else self.answer(image)
        order = np.argsort(-shares_of(image), axis=0)
        values = np.rint(255 * np.take_along_axis(shares_of(image), order, 0)).astype(np.uint8)
        planes: dict[str, Any] = {"classes": order.astype(np.uint8) + np.uint8(add), "probabilities": values}
        encoded = {
            name: base64.b64encode(png(array.reshape(-1, image.shape[1]))).decode() for name, array in planes.items()
        }
        return json.dumps({"predictions": [encoded]}).encode()

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
