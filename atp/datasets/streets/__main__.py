"""The command line: ``python -m atp.datasets.streets OUT``."""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from atp.datasets.streets.files import SPLITS, write_streets
from atp.errors import exit_codes

SMALLEST_SIDE = 16
"""Pixels; below it nothing is left of the things on a street."""


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or min(int(match[1]), int(match[2])) < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is no WIDTHxHEIGHT of at least {SMALLEST_SIDE} pixels each")
    return int(match[1]), int(match[2])


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return share


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; bad input ends it with code 2."""
    parser = argparse.ArgumentParser(prog="python -m atp.datasets.streets", description="Draw the streets data set.")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    for split, count in zip(SPLITS, (400, 400, 100, 60), strict=True):
        parser.add_argument(f"--{split}", type=_natural, default=count, help="number of images (default: %(default)s)")
    parser.add_argument("--size", type=_size, default=(160, 80), metavar="WxH", help="pixels (default: 160x80)")
    parser.add_argument("--seed", type=_natural, default=0, help="default: %(default)s")
    parser.add_argument("--shift", type=_share, default=0.7, help="0: target like source, 1: most real (default: 0.7)")
    options = parser.parse_args(arguments)
    counts = {split: getattr(options, split) for split in SPLITS}
    with exit_codes():
        write_streets(options.out, counts, options.size, options.seed, options.shift)


if __name__ == "__main__":
    main()
