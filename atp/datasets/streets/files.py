"""The data set on disk, in the layout that `atp.data.folder` reads."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from atp.data.masks import write_classes
from atp.datasets.streets.classes import CLASSES
from atp.datasets.streets.scene import draw_scene
from atp.datasets.streets.style import REAL, SIMULATOR, interpolate
from atp.errors import InputError

SPLITS = ("source", "target", "test", "validation")
"""``test`` and ``validation`` hold out images of the target's domain: settings are chosen on ``validation``, results
measured on ``test``. An image's seed has its split's place in this list, so append new splits."""


def draw_image(
    seed: int, split: str, index: int, size: tuple[int, int], shift: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image `index` of a split, as `draw_scene` returns it; it depends on nothing but these arguments."""
    style = SIMULATOR if split == "source" else interpolate(SIMULATOR, REAL, shift)
    return draw_scene(np.random.default_rng((seed, SPLITS.index(split), index)), size, style)


# ---------------------------------------------------------------------------------------------------------------- files


def write_streets(out: Path, counts: dict[str, int], size: tuple[int, int], seed: int, shift: float) -> None:
    """Draw all splits into `out`, which appears whole or not at all.

    Args:
        out: a new or empty folder.
        counts: images by split, of `SPLITS`.
        size: (width, height) in pixels.
        seed: not negative.
        shift: how far the target lies from `SIMULATOR` (0) towards `REAL` (1).

    Raises:
        InputError: `out` holds something already or is no folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; remove it or name another")
    # The classes' own entries alone: their ids fit into four bits.
    palette = CLASSES.palette[: 3 * CLASSES.num_classes]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        with tqdm(total=sum(counts.values()), desc="streets", unit="image", disable=None) as progress:
            for split, count in counts.items():
                for part in ("images", "labels"):
                    (folder / split / part).mkdir(parents=True)
                for index in range(count):
                    image, label = draw_image(seed, split, index, size, shift)
                    Image.fromarray(image).save(folder / split / "images" / f"{index:04d}.png", optimize=True)
                    ids = Image.fromarray(label)
                    ids.putpalette(palette)
                    ids.save(folder / split / "labels" / f"{index:04d}.png", optimize=True)
                    progress.update()
        write_classes(folder / "source" / "classes.yaml", CLASSES)
        _write_readme(folder / "README.md", counts, size, seed, shift)
        folder.replace(out)


def _write_readme(path: Path, counts: dict[str, int], size: tuple[int, int], seed: int, shift: float) -> None:
    options = " ".join(f"--{split} {count}" for split, count in counts.items())
    path.write_text(
        f"""# Streets

Drawn, labels included, by

    python -m atp.datasets.streets OUT {options} --size {size[0]}x{size[1]} --seed {seed} --shift {shift}

`source` looks like a simulator; the other splits look {shift:.0%} of the way to a photograph. `test` and `validation`
are held out: choose settings on `validation` and report results on `test`. Labels are palette PNGs of the class ids in
the order of `source/classes.yaml`. No photograph and nobody else's image is in it.
""",
        encoding="utf-8",
    )
