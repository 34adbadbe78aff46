"""Images and masks as text: what the registered model takes and gives where a server can hand on nothing but JSON.

Whoever can reach the server chooses the bytes: formats, modes and pixels are limited before anything is decoded.
Travels with the model, so it needs no PyTorch and of this package only the errors.
"""

import base64
import binascii
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atp.errors import InputError

FORMATS = ("PNG", "JPEG")

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""What Pillow converts to RGB without loss of meaning; 16 bits of grey would be cut off at 255."""


def decode_image(text: object, max_pixels: int) -> NDArray[np.uint8]:
    """Read an image as the training reader does: as RGB, transparency left out, EXIF's orientation not applied.

    Args:
        text: base64 of a PNG or JPEG file; line breaks are allowed.
        max_pixels: more are refused, by the file's header alone.

    Returns:
        uint8, (H, W, 3).

    Raises:
        InputError: says in one sentence what is wrong.
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
                    f"the {max_pixels} that this server takes at a time; send a smaller one"
                )
            if file.mode not in MODES:
                raise InputError(f"the image's mode is {file.mode}; convert it to 8 bits a channel")
            return np.array(file.convert("RGB"))
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError("the string is base64, but not of a PNG or JPEG file") from error
    except Image.DecompressionBombError as error:
        raise InputError("the image has far more pixels than this server takes; send a smaller one") from error
    except Exception as error:  # What a broken or malicious file makes a decoder raise is open-ended.
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
