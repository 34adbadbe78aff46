"""Images as text: what the training reader makes of the same file, or one sentence."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atp.data.folder import open_image
from atp.data.labels import LabelSpace
from atp.data.masks import write_mask
from atp.errors import InputError
from atp.registry.images import decode_image, encode_image, encode_mask

MANY = 2**24


def text_of(image: Image.Image, kind: str = "PNG", **options: object) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()


def photo(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        *((mode, "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("P", "PNG", {"transparency": 3}),
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"exif": rotated()}),
        ("RGB", "PNG", {"exif": rotated()}),
    ],
)
def test_an_image_is_read_as_training_reads_it(
    tmp_path: Path, mode: str, kind: str, options: dict[str, object]
) -> None:
    text = text_of(photo(mode), kind, **options)
    (tmp_path / "image").write_bytes(base64.b64decode(text))
    decoded = decode_image(text, MANY)
    assert decoded.shape == (9, 14, 3), "EXIF's orientation is not applied"
    assert np.array_equal(decoded, np.array(open_image(tmp_path / "image")))


def test_line_breaks_are_allowed() -> None:
    text = text_of(photo())
    folded = "\r\n".join(text[first : first + 76] for first in range(0, len(text), 76))
    assert np.array_equal(decode_image(folded, MANY), decode_image(text, MANY))


def half(text: str) -> str:
    content = base64.b64decode(text)
    return base64.b64encode(content[: len(content) // 2]).decode()


def many_scans() -> str:
    """A progressive JPEG whose last scan is repeated."""
    content = base64.b64decode(text_of(photo(), "JPEG", progressive=True))
    last = content.rindex(b"\xff\xda")
    return base64.b64encode(content[:-2] + 60 * content[last:-2] + content[-2:]).decode()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: 3, "not int"),
        (lambda: "no image!", "not base64"),
        (lambda: "ä", "not base64"),
        (lambda: "", "not of a PNG or JPEG"),
        (lambda: base64.b64encode(b"words in a file").decode(), "not of a PNG or JPEG"),
        (lambda: text_of(photo("P"), "GIF"), "not of a PNG or JPEG"),
        (lambda: text_of(photo(), "TIFF"), "not of a PNG or JPEG"),
        (lambda: half(text_of(photo())), "cannot be decoded"),
        (lambda: half(text_of(photo(), "JPEG")), "cannot be decoded"),
        (lambda: text_of(Image.new("I;16", (4, 4))), "mode is I;16"),
        (lambda: text_of(Image.new("1", (5000, 5000))), "5000x5000 pixels"),
        (lambda: text_of(Image.new("1", (16000, 16000))), "far more pixels"),
        (lambda: text_of(Image.new("1", (16385, 1))), "sides of up to 16384"),
        (lambda: text_of(Image.new("1", (1, 16385))), "sides of up to 16384"),
        (lambda: many_scans(), "more than 50 scans"),
    ],
)
def test_anything_else_is_one_sentence(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_image(make(), MANY)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = text_of(Image.new("1", (9000, 9999)))

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(InputError, match="9000x9999"):
        decode_image(bomb, MANY)


def test_masks_are_those_of_the_pipeline(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (5, 7), dtype=np.uint8)
    ids[0, 0] = 255
    space = LabelSpace(("a", "b", "c"), ((1, 2, 3), (40, 50, 60), (255, 0, 0)))
    write_mask(tmp_path / "mask.png", ids, space)
    assert base64.b64decode(encode_mask(ids, space.palette)) == (tmp_path / "mask.png").read_bytes()


def test_grey_comes_back() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    decoded = decode_image(encode_image(values), MANY)
    assert np.array_equal(decoded[..., 0], values)
