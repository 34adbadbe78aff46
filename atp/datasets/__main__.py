"""Prepare published data sets as a pair of domains.

    python -m atp.datasets --source gta5 GTA5 --target cityscapes CITYSCAPES OUT
    python -m atp.datasets --source synthia RAND_CITYSCAPES --target cityscapes CITYSCAPES OUT
    python -m atp.datasets --source cityscapes CITYSCAPES --target cross-city NTHU_Datasets/Rome OUT
    python -m atp.datasets --source camvid-daylight CAMVID --target camvid-dusk CAMVID OUT

For sources and licences of the data sets, see docs/how-to/datasets.md.
"""

import argparse
import sys
from pathlib import Path

from atp.datasets.label_maps import CLASS_SETS, label_space
from atp.datasets.pairs import check, prepare, settings
from atp.datasets.published import data_sets, missing, named
from atp.errors import InputError, exit_codes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m atp.datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(data_sets())
    parser.add_argument("--source", nargs=2, required=True, metavar=("NAME", "FOLDER"), help=names)
    parser.add_argument("--target", nargs=2, required=True, metavar=("NAME", "FOLDER"), help=names)
    parser.add_argument(
        "--classes", type=int, choices=CLASS_SETS, help="by default, the classes that papers report for both"
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    with exit_codes():
        source, target = (named(name) for name, _ in (arguments.source, arguments.target))
        source_root, target_root = Path(arguments.source[1]), Path(arguments.target[1])
        check(source, target, arguments.out)
        lines = missing(source, source_root, ["source"]) + missing(target, target_root, target.target_parts)
        for line in lines[:-1]:
            print(f"error: {line}", file=sys.stderr)
        if lines:
            raise InputError(lines[-1])
        classes = label_space(arguments.classes) if arguments.classes else None
        prepared = prepare(source, source_root, target, target_root, arguments.out, classes)
        for note in prepared.notes:
            print(f"note: {note}")
        counts = ", ".join(f"{count} {split}" for split, count in prepared.counts.items())
        print(f"{counts} images in {arguments.out}; for params.yaml:\n\n{settings(prepared, arguments.out)}")


if __name__ == "__main__":
    main()
