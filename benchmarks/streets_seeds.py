"""The parts of the method one by one on the embedded streets, as the paper's Table 5 has them, over several seeds.

    python benchmarks/streets_seeds.py [--seeds 0 1 2] [--source plain robust] [--runs .atp/benchmarks/streets]

Twice: with a source model trained as params.yaml says, and with a ROBUST one, trained under strong photometric
augmentation, which leaves adaptation less to gain. Every row's mIoU is kept by seed, so that an interrupted run
continues with the next row. Prints Markdown.
"""

import argparse
from pathlib import Path

from experiment import machine, print_table, run_seeds, stages, table_5, with_changes

from atp.params import Params, load_params

SOURCES = {
    "plain": {},
    # What makes a source model robust: strong colour jitter and blur while it is trained.
    "robust": {"source.augmentation": {"flip": True, "jitter": 0.35, "blur": True}},
}

STREETS = Path("assets/streets")


def on_streets(params: Params, seed: int, source: str) -> Params:
    """The parameters on the images as committed, so that the benchmark needs no DVC."""
    return with_changes(
        params,
        {
            "data.root": str(STREETS),
            "data.source": {"root": str(STREETS / "source")},
            "data.target": {part: str(STREETS / "target" / part) for part in ("images", "labels")},
            "data.test": {part: str(STREETS / "test" / part) for part in ("images", "labels")},
            "data.classes": str(STREETS / "source/classes.yaml"),
            "training.seed": seed,
            **SOURCES[source],
        },
    )


ROWS = {"plain": table_5, "robust": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--runs", type=Path, default=Path(".atp/benchmarks/streets"))
    parser.add_argument("--at-once", type=int, default=2, help="seeds computed at the same time")
    arguments = parser.parse_args()
    params = load_params()
    print(machine())
    jobs = [
        (on_streets(params, seed, source), ROWS[source], arguments.runs / f"{source}-{seed}")
        for source in arguments.source
        for seed in arguments.seeds
    ]
    results = run_seeds(jobs, arguments.at_once)
    seeds = len(arguments.seeds)
    for number, source in enumerate(arguments.source):
        print_table(f"Streets, {source} source model, {seeds} seeds", results[number * seeds :][:seeds])


if __name__ == "__main__":
    main()
