"""Ask a served model for the mask of an image; needs nothing but Python.

python docs/serve_client.py IMAGE MASK.png [--confidence CONFIDENCE.png] [--url http://127.0.0.1:5001]
"""

import argparse
import base64
import json
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen


def ask(image: bytes, url: str, *, confidence: bool = False) -> dict[str, bytes]:
    """The bytes of a PNG or JPEG file to those of PNGs: ``mask``, and ``confidence`` if wanted."""
    body = {"inputs": [base64.b64encode(image).decode()], "params": {"confidence": confidence}}
    request = Request(f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        (maps,) = json.load(answer)["predictions"]
    return {name: base64.b64decode(png) for name, png in maps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--confidence", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:5001")
    arguments = parser.parse_args()
    try:
        maps = ask(arguments.image.read_bytes(), arguments.url, confidence=arguments.confidence is not None)
    except HTTPError as error:  # Wrong input is answered with 400 and a sentence that says what is wrong.
        sys.exit(f"error: {error.code}: {json.load(error)['message']}")
    except (URLError, OSError) as error:
        sys.exit(f"error: {error}")
    arguments.mask.write_bytes(maps["mask"])
    if arguments.confidence:
        arguments.confidence.write_bytes(maps["confidence"])


if __name__ == "__main__":
    main()
