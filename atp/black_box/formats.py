"""Readers of untrusted prediction files: PNG, npy and npz.

Headers are checked before anything is allocated or decoded, and nothing is unpickled.
"""

import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atp.black_box.answers import Answer
from atp.black_box.predictions import Expected, Size, WrongAnswerError

_PNG, _NPY, _ZIP = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"PK\x03\x04"
_PNG_END = b"IEND\xaeB`\x82"

Check = Callable[[np.dtype, tuple[int, ...]], None]


def read_answer(data: bytes, expected: Expected) -> Answer:
    """Read a PNG of ids, an npy of ids or probabilities, or an npz of the most probable classes.

    Raises:
        WrongAnswerError: another format, damaged, or not as expected.
    """
    if data.startswith(_PNG):
        return expected.answer(read_png(data, expected.sizes))
    if data.startswith(_NPY):
        stream = BytesIO(data)
        return expected.answer(_read_array(stream, expected.check_shape))
    if data.startswith(_ZIP):
        return expected.top(*_read_top(data, expected))
    if not data:
        raise WrongAnswerError("the answer is empty")
    raise WrongAnswerError(f"the answer is neither PNG, npy nor npz: {quoted(data)}")


def quoted(data: bytes) -> str:
    """The beginning of an unexpected answer, on one line."""
    text = " ".join(data[:4096].decode(errors="replace").split())
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def read_png(data: bytes, sizes: tuple[Size, ...]) -> NDArray[np.uint8]:
    """Read an 8-bit PNG, grey or palette indices, as uint8, (H, W).

    Raises:
        WrongAnswerError: wrong size in the header, wrong mode, or damaged.
    """
    # Pillow accepts a truncated file if the last row is complete.
    if not data.startswith(_PNG) or not data.endswith(_PNG_END):
        raise WrongAnswerError("the PNG is cut short" if data.startswith(_PNG) else "the answer is not a PNG")
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    if (width, height) not in sizes:
        known = " or ".join(f"{width}x{height}" for width, height in sizes[:2]) + (" or more" if sizes[2:] else "")
        raise WrongAnswerError(f"the answer is {width}x{height}; it must be {known}")
    # Pillow scales grey of fewer bits to 0-255.
    if (kind, depth) != (0, 8) and kind != 3:
        raise WrongAnswerError("the PNG must be 8-bit grey or have a palette; its values are class ids")
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as file:
            return np.array(file)
    except MemoryError:
        raise
    except Exception as error:  # A broken or malicious file can make a decoder raise anything.
        raise WrongAnswerError(f"the PNG cannot be decoded ({_reason(error)})") from error


def _read_top(data: bytes, expected: Expected) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Read ``classes`` and ``probabilities`` from an npz."""
    arrays = []
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for name in ("classes", "probabilities"):
                if f"{name}.npy" not in archive.namelist():
                    raise WrongAnswerError(f"the npz has no {name}; it must have classes and probabilities")
                if archive.getinfo(f"{name}.npy").compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise WrongAnswerError("the npz is not compressed as NumPy does")

                def check(dtype: np.dtype, shape: tuple[int, ...], name: str = name) -> None:
                    expected.check_top(name, dtype, shape)

                with archive.open(f"{name}.npy") as stream:
                    arrays.append(_read_array(stream, check))
    except (WrongAnswerError, MemoryError):
        raise
    except Exception as error:
        raise WrongAnswerError(f"the npz cannot be read ({_reason(error)})") from error
    classes, probabilities = arrays
    return classes, probabilities


def _read_array(stream: IO[bytes], check: Check) -> NDArray[np.generic]:
    """Read an npy array of numbers; its size must match its header exactly.

    Args:
        check: raises if the dtype or shape is not allowed.
    """
    try:
        # The only version that NumPy writes for numbers; headers of others may be gigabytes long.
        if np.lib.format.read_magic(stream) != (1, 0):
            raise WrongAnswerError("the npy file is not of version 1.0; write it with numpy.save")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    except WrongAnswerError:
        raise
    except Exception as error:
        raise WrongAnswerError(f"the npy file has no readable header ({_reason(error)})") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise WrongAnswerError(f"the npy file holds {dtype}; it must hold numbers")
    check(dtype, shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = stream.read(size)
    if len(data) < size or stream.read(1):
        raise WrongAnswerError(f"the npy file does not hold the {size} bytes that its header says; cut short?")
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
