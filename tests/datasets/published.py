"""Small data sets drawn in the layouts, names and bit depths of the published ones."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (40, 24)

# As in the files of Playing for Data.
GTA5_PALETTE = [
    *[(0, 0, 0)] * 4,
    (20, 20, 20),
    (111, 74, 0),
    (81, 0, 81),
    (128, 64, 128),
    (244, 35, 232),
    (250, 170, 160),
    (230, 150, 140),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (180, 165, 180),
    (150, 100, 100),
    (150, 120, 90),
    (153, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 0, 90),
    (0, 0, 110),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
    (0, 0, 142),
]


def all_ids(count: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Every id from 0 on once, then id k another k times, and 0 in the rest.

    No two have the same number of pixels, so that one taken for another shows in what is counted.
    """
    width, height = size
    ids = np.zeros(width * height, np.uint8)
    once = np.arange(count)
    drawn = np.concatenate([once, np.repeat(once, once)])
    ids[: len(drawn)] = drawn
    return ids.reshape(height, width)


def write_image(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_grey(path: Path, ids: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def write_png16(path: Path, channels: NDArray[np.uint16]) -> None:
    """Three channels of 16 bits, (H, W, 3), which Pillow cannot write."""
    height, width, _ = channels.shape
    raw = channels.astype(">u2").view(np.uint8).reshape(height, 6 * width)
    # Filter 1: each byte less that of the pixel to its left, which is six bytes away.
    left = np.concatenate([np.zeros((height, 6), np.uint8), raw[:, :-6]], axis=1)
    lines = b"".join(b"\1" + line.tobytes() for line in raw - left)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )


def gta5(root: Path, count: int = 3) -> Path:
    """``images`` and ``labels`` of five-digit numbers from 1, the labels palette PNGs of ids 0 to 34."""
    for number in range(1, count + 1):
        write_image(root / "images" / f"{number:05}.png", number)
        label = Image.fromarray(all_ids(35))
        label.putpalette([channel for color in GTA5_PALETTE for channel in color])
        (root / "labels").mkdir(exist_ok=True)
        label.save(root / "labels" / f"{number:05}.png")
    return root


def synthia(root: Path, count: int = 3) -> Path:
    """``RGB`` and ``GT/LABELS`` of seven-digit numbers from 0; ids 0 to 22 in the first of three 16-bit channels."""
    for number in range(count):
        write_image(root / "RGB" / f"{number:07}.png", number)
        channels = np.zeros((SIZE[1], SIZE[0], 3), np.uint16)
        channels[..., 0] = all_ids(23)
        channels[..., 1] = 40000  # an instance
        write_png16(root / "GT/LABELS" / f"{number:07}.png", channels)
    return root


def cityscapes(root: Path, ending: str = "labelIds", seed: int = 100) -> Path:
    """Two cities of ``train`` and one of ``val``; ids 0 to 33, or train ids 0 to 18 and 255."""
    ids = all_ids(34)
    if ending == "labelTrainIds":
        ids = all_ids(20)
        ids[ids == 19] = 255
    frames = [("train", "aachen", 0), ("train", "aachen", 1), ("train", "zurich", 0), ("val", "munster", 0)]
    for split, city, sequence in frames:
        stem = f"{city}_{sequence:06}_000019"
        seed += 1
        write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", seed)
        write_grey(root / "gtFine" / split / city / f"{stem}_gtFine_{ending}.png", ids)
        # What else lies there.
        write_image(root / "gtFine" / split / city / f"{stem}_gtFine_color.png", seed)
        (root / "gtFine" / split / city / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def cross_city(root: Path) -> Path:
    """One city: ``Images/Train`` without labels, ``Images/Test`` and ``Labels/Test``."""
    for number in range(3):
        write_image(root / "Images/Train" / f"pano_{number:05}_2_0.jpg", 200 + number)
    for number in range(2):
        write_image(root / "Images/Test" / f"pano_{number:05}_1_0.png", 210 + number)
        write_grey(root / "Labels/Test" / f"pano_{number:05}_1_0_eval.png", all_ids(34))
    return root
