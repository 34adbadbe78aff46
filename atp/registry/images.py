"""Images and masks as text: the registered model's input and output behind a server that passes only JSON.

The bytes are untrusted: format, mode and size are checked before anything is decoded. This file is packaged with the
model, so it needs no PyTorch and only the errors of this package.
"""

import base64
import binascii
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atp.errors import InputError

FORMATS = ("PNG", "JPEG")

_START_OF_SCAN = b"\xff\xda"

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Modes that Pillow converts to RGB faithfully; 16-bit grey would be clipped at 255."""


MAX_SIDE = 2**14
"""Longest side in pixels: an image of one row of many millions of pixels takes minutes to resize."""

MAX_SCANS = 50
"""Most scans of a JPEG file, each of which decodes the whole image; those of cameras and editors have up to ten."""


def decode_image(text: object, max_pixels: int) -> NDArray[np.uint8]:
    """Read an image as in training: as RGB, without transparency, ignoring EXIF orientation.

    Args:
        text: base64 of a PNG or JPEG file; line breaks are allowed.
        max_pixels: larger images are refused from the file's header.

    Returns:
        uint8, (H, W, 3).

    Raises:
        InputError: not a valid image, with the reason in one sentence.
    """
    if not isinstance(text, str):
        raise InputError(f"an image must be a string, base64 of a PNG or JPEG file, not {type(text).__name__}")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("the string is not base64; encode the bytes of a PNG or JPEG file") from error
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as file:
            if file.width * file.height > max_pixels:
                raise InputError(
                    f"the image has {file.width}x{file.height} pixels, and with the others of its request more than "
                    f"the {max_pixels} that this server accepts; send a smaller one"
                )
            if max(file.size) > MAX_SIDE:
                raise InputError(
                    f"the image has {file.width}x{file.height} pixels, and this server accepts sides of up to "
                    f"{MAX_SIDE}; send a smaller one"
                )
            if file.format == "JPEG" and content.count(_START_OF_SCAN) > MAX_SCANS:
                raise InputError(f"the JPEG file has more than {MAX_SCANS} scans; save it again as a plain JPEG or PNG")
            if file.mode not in MODES:
                raise InputError(f"the image's mode is {file.mode}; convert it to 8 bits per channel")
            return np.array(file.convert("RGB"))
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError("the string is base64, but not of a PNG or JPEG file") from error
    except Image.DecompressionBombError as error:
        raise InputError("the image has far more pixels than this server accepts; send a smaller one") from error
    except Exception as error:  # A broken or malicious file can make a decoder raise anything.
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise InputError(f"the image cannot be decoded ({reason})") from error


def encode_mask(ids: NDArray[np.uint8], palette: bytes) -> str:
    """Class ids, (H, W), as base64 of an 8-bit PNG with a label space's palette, as ``write_mask`` writes them."""
    image = Image.fromarray(ids)
    image.putpalette(palette)
    return _encode(image)


def encode_image(values: NDArray[np.uint8]) -> str:
    """Grey, (H, W), or RGB, (H, W, 3), as base64 of an 8-bit PNG."""
    return _encode(Image.fromarray(np.ascontiguousarray(values)))


def _encode(image: Image.Image) -> str:
    stream = BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
