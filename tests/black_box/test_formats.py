"""Files of predictions: good ones are read, bad ones refused in a sentence, before memory is spent on them."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atp.black_box.answers import Answer
from atp.black_box.formats import read_answer
from atp.black_box.predictions import Expected, WrongAnswerError, mapped, resized

HEIGHT, WIDTH, CLASSES = 6, 9, 5
EXPECTED = Expected(CLASSES, ((WIDTH, HEIGHT),), 3)
GENERATOR = np.random.default_rng(0)
IDS = GENERATOR.integers(0, CLASSES, (HEIGHT, WIDTH), dtype=np.uint8)
SOFT = GENERATOR.dirichlet(np.ones(CLASSES), (HEIGHT, WIDTH)).transpose(2, 0, 1)


def png(image: np.ndarray | Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind)
    return stream.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def top(k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(SOFT, axis=0)[::-1][:k]
    return order, np.take_along_axis(SOFT, order, 0)


def palette(ids: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette(bytes(range(256)) * 3)
    return image


@pytest.mark.parametrize(
    "data",
    [png(IDS), png(palette(IDS)), npy(IDS), npy(IDS.astype(np.int64)), npy(np.asfortranarray(IDS.astype(">i2")))],
)
def test_ids(data: bytes) -> None:
    answer = read_answer(data, EXPECTED)
    assert np.array_equal(answer.classes.numpy(), IDS[None])
    assert (answer.probabilities == 1).all()


def test_255_is_no_answer() -> None:
    ids = IDS.copy()
    ids[2, 3] = 255
    answer = read_answer(png(ids), EXPECTED)
    assert answer.classes[0, 2, 3] == 255
    assert answer.probabilities.sum() == HEIGHT * WIDTH - 1


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: npy(SOFT), 1e-6),
        (lambda: npy(SOFT.astype(np.float16)), 0.002),
        (lambda: npy(np.asfortranarray(SOFT.astype(np.float32))), 1e-6),
        (lambda: npy(np.rint(255 * SOFT).astype(np.uint8)), 0.006),
        (lambda: npz(classes=top()[0], probabilities=top()[1]), 1e-6),
        (lambda: npz(classes=top()[0][::-1], probabilities=top()[1][::-1].astype(np.float16)), 0.001),
        (lambda: npz(classes=top(5)[0], probabilities=np.rint(255 * top(5)[1]).astype(np.uint8)), 0.008),
    ],
)
def test_probabilities(make: Callable[[], bytes], error: float) -> None:
    answer = read_answer(make(), EXPECTED)
    assert answer.classes.shape == (3, HEIGHT, WIDTH)
    order, shares = top()
    assert np.abs(answer.probabilities.numpy() - shares).max() < error
    certain = shares[0] - shares[1] > 2 * error
    assert np.array_equal(answer.classes[0].numpy()[certain], order[0][certain])
    assert certain.mean() > 0.5


class Payload:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (pytest.fail, ("unpickled",))


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[0, 2, 3] = value
    return array


def claimed(shape: tuple[int, ...], dtype: str = "<f4", body: bytes = b"") -> bytes:
    """An npy file whose header says whatever it likes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def zipped(compression: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


CLASSES_OK, SHARES_OK = top()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: b"", "empty"),
        (lambda: b"<html>\n busy", "neither PNG, npy nor npz: <html> busy"),
        (lambda: png(IDS, "BMP"), "neither PNG"),
        (lambda: png(IDS)[:20], "cut short"),
        (lambda: png(IDS)[:-20], "cut short"),
        (lambda: png(IDS)[:-30] + png(IDS)[-12:], "cannot be decoded"),
        (lambda: png(IDS[:-1]), "is 9x5; it must be 9x6"),
        (lambda: png(np.stack([IDS] * 3, 2)), "8-bit grey"),
        (lambda: png(Image.fromarray(IDS.astype(np.uint16))), "8-bit grey"),
        (lambda: png(Image.fromarray(IDS > 2)), "8-bit grey"),
        (lambda: png(IDS + 1), "class 5 in the answer"),
        (lambda: png(np.where(IDS == 0, np.uint8(255), IDS + np.uint8(1))), "class 5 in the answer"),
        (lambda: npy(IDS.astype(np.int32) - 1), "class -1"),
        (lambda: npy(IDS[:, 1:]), "shape (6, 8)"),
        (lambda: npy(IDS.astype(np.float32)), "ids must be whole numbers"),
        (lambda: npy(SOFT[1:]), "first axis must be 5"),
        (lambda: npy(SOFT.transpose(1, 2, 0)), "shape (6, 9, 5)"),
        (lambda: npy((100 * SOFT).astype(np.int32)), "must be float, or uint8"),
        (lambda: npy(with_value(SOFT, np.nan)), "not finite"),
        (lambda: npy(with_value(SOFT, 1e300)), "not finite"),
        (lambda: npy(with_value(SOFT, -0.4)), "softmax"),
        (lambda: npy(with_value(SOFT, 9)), "not 1; are these scores before the softmax?"),
        (lambda: npy(0 * SOFT), "add up to 0"),
        (lambda: npy(np.array([Payload()]), allow_pickle=True), "holds object"),
        (lambda: npy(np.zeros((HEIGHT, WIDTH), "M8[s]")), "must hold numbers"),
        (lambda: npy(SOFT)[:-1], "cut short"),
        (lambda: npy(SOFT) + b"x", "cut short"),
        (lambda: npy(SOFT)[:40], "no readable header"),
        (lambda: b"\x93NUMPY\x02\x00" + npy(SOFT)[8:], "version 1.0"),
        (lambda: claimed((CLASSES, 100_000, 100_000)), "shape (5, 100000, 100000)"),
        (lambda: claimed((-1, HEIGHT, WIDTH)), "first axis"),
        (lambda: npz(classes=CLASSES_OK), "has no probabilities"),
        (lambda: npz(classes=SHARES_OK, probabilities=SHARES_OK), "whole numbers"),
        (lambda: npz(classes=CLASSES_OK[:2], probabilities=SHARES_OK), "but probabilities"),
        (lambda: npz(classes=CLASSES_OK[0], probabilities=SHARES_OK[0]), "must be (k, H, W)"),
        (lambda: npz(classes=np.repeat(CLASSES_OK[:1], 3, 0), probabilities=SHARES_OK / 2), "same class twice"),
        (lambda: npz(classes=CLASSES_OK, probabilities=SHARES_OK * 2), "more than 1"),
        (lambda: npz(classes=np.full_like(CLASSES_OK, 255), probabilities=SHARES_OK), "has a probability"),
        (
            lambda: npz(classes=np.repeat(CLASSES_OK, 3, 0), probabilities=np.repeat(SHARES_OK, 3, 0)),
            "9 classes per pixel",
        ),
        (lambda: npz(classes=CLASSES_OK, probabilities=SHARES_OK)[:-30], "npz cannot be read"),
        (lambda: npz(classes=CLASSES_OK, probabilities=SHARES_OK).replace(b"\x01", b"\x02"), "npz"),
        (lambda: zipped(zipfile.ZIP_BZIP2, classes=npy(CLASSES_OK), probabilities=npy(SHARES_OK)), "as NumPy does"),
    ],
)
def test_anything_else_is_one_sentence(make: Callable[[], bytes], sentence: str) -> None:
    with pytest.raises(WrongAnswerError) as caught:
        read_answer(make(), EXPECTED)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "make",
    [
        lambda: png_claiming(60_000, 60_000),
        lambda: claimed((CLASSES, HEIGHT, WIDTH), "<f8", b"\0" * 10),
        lambda: zipped(classes=b"\0" * 20_000_000, probabilities=b""),
        lambda: zipped(classes=npy(CLASSES_OK) + b"\0" * 20_000_000, probabilities=npy(SHARES_OK)),
        lambda: zipped(classes=claimed((3, 10_000, 10_000), "<i8", b"\0" * 20_000_000), probabilities=b""),
    ],
)
def test_bombs_are_refused_before_they_take_memory(make: Callable[[], bytes]) -> None:
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(WrongAnswerError):
            read_answer(data, EXPECTED)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_map_adds_up_drops_and_scales() -> None:
    """Of five classes the first two become one, the third the other, the last two are ignored."""
    shares = np.array([[0.2, 0.1], [0.2, 0.1], [0.3, 0.2], [0.25, 0.1], [0.05, 0.5]], np.float32)
    answer = Expected(5, ((2, 1),), 5).answer(shares[:, None])
    result = mapped(answer, (1, 1, 0, 255, 255), 2, 4)
    assert result.classes[:, 0, 0].tolist() == [1, 0]
    assert result.probabilities[:, 0, 0].tolist() == pytest.approx([0.4 / 0.7, 0.3 / 0.7])
    assert result.classes[:, 0, 1].tolist() == [255, 255], "its most probable class is ignored"
    assert result.probabilities[:, 0, 1].tolist() == [0, 0]


def test_a_map_takes_what_was_not_named_along() -> None:
    classes = np.array([0], np.uint8)[:, None, None]
    answer = Expected(5, ((1, 1),), 5).top(classes, np.array([0.6], np.float32)[:, None, None])
    result = mapped(answer, (0, 1, 1, 1, 255), 2, 2)
    assert result.probabilities[:, 0, 0].tolist() == pytest.approx([0.6 / 0.9, 0.3 / 0.9])


def test_ids_are_mapped_as_they_are() -> None:
    result = mapped(Expected(3, ((3, 1),), 4).answer(np.array([[0, 2, 255]])), (255, 0, 1), 2, 4)
    assert result.classes.tolist() == [[[255, 1, 255]]]
    assert result.probabilities.tolist() == [[[0, 1, 0]]]


def test_resized() -> None:
    ids = np.repeat(np.repeat(np.array([[0, 1], [2, 255]]), 4, 0), 4, 1)
    answer = Expected(3, ((8, 8),), 2).answer(ids)
    assert resized(answer, (2, 2), 3, 2).classes.tolist() == [[[0, 1], [2, 255]]]
    soft = np.stack([np.linspace(0.2, 0.6, 8)[None].repeat(4, 0)] * 2)
    soft[1] = 1 - soft[0]
    answer = Expected(2, ((8, 4),), 2).answer(soft)
    smaller: Answer = resized(answer, (4, 2), 2, 2)
    assert smaller.size == (4, 2)
    assert np.abs(smaller.dense(2)[0].numpy() - soft[0].reshape(2, 2, 4, 2).mean((1, 3))).max() < 0.02
    assert resized(answer, (8, 4), 2, 2) is answer
