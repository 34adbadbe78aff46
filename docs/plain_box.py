"""A black box that speaks the plain protocol: a PNG is posted, an array of probabilities comes back.

python docs/plain_box.py [--port 5002]

Needs NumPy and Pillow. Put your model in the place of ``predict``.
"""

import argparse
import io
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

CLASSES = 12


def predict(image: np.ndarray) -> np.ndarray:
    """RGB, uint8, (H, W, 3), to probabilities, (C, H, W). This one guesses by brightness."""
    distance = image.mean(2)[None] / 255 - np.linspace(0, 1, CLASSES)[:, None, None]
    scores = np.exp(-50 * distance**2)
    return scores / scores.sum(0)


class Box(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        with Image.open(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))) as file:
            image = np.array(file.convert("RGB"))
        answer = io.BytesIO()
        np.save(answer, predict(image).astype(np.float16))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-npy")
        self.send_header("Content-Length", str(answer.tell()))
        self.end_headers()
        self.wfile.write(answer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=5002)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Box).serve_forever()


if __name__ == "__main__":
    main()
