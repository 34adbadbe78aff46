"""The parts of the method one by one on the embedded streets, as the paper's Table 5 has them, over several seeds.

    python benchmarks/streets_seeds.py [--seeds 0 1 2] [--source plain robust] [--runs .atp/benchmarks/streets]

Twice: with a source model trained as params.yaml says, and with a ROBUST one, trained under strong photometric
augmentation, which leaves adaptation less to gain. Every row's mIoU is kept by seed, so that an interrupted run
continues with the next row. Prints Markdown.
"""

import argparse
import logging
from pathlib import Path

from experiment import Experiment, Row, machine, print_table, run_rows, with_changes

from atp.config import Augmentation, Params, load_params

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


def table_5(e: Experiment) -> dict[str, Row]:
    """The rows of Table 5 as we read it, and what brackets them."""
    flip = Augmentation(flip=True)
    align, teach = "(c) + weighted diversity = align", "(e) + negative labels = teach"
    return {
        "source": lambda made: e.source(),
        "BatchNorm only": lambda made: e.batchnorm_only(made["source"]),
        "(a) curriculum entropy": lambda made: e.align(made["source"], diversity=0.0),
        "(b) + plain diversity": lambda made: e.align(made["source"], weighted=False),
        align: lambda made: e.align(made["source"]),
        "(d) + positive labels": lambda made: e.teach(made[align], made["source"], "d", negative=0.0),
        "(d) without photometric augmentation": lambda made: e.teach(
            made[align], made["source"], "d-flip", negative=0.0, augmentation=flip
        ),
        teach: lambda made: e.teach(made[align], made["source"], "e"),
        "(e) without photometric augmentation": lambda made: e.teach(
            made[align], made["source"], "e-flip", augmentation=flip
        ),
        "(f) + propagation = propagate": lambda made: e.propagate(made[teach], made["source"], "f"),
        "oracle: trained on target labels": lambda made: e.oracle(e.params.source),
    }


def stages(e: Experiment) -> dict[str, Row]:
    """The stages alone, and what brackets them."""
    names = ("source", "BatchNorm only", "(c)", "(e) + negative labels = teach", "(f)", "oracle")
    return {name: row for name, row in table_5(e).items() if name.startswith(names)}


ROWS = {"plain": table_5, "robust": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--runs", type=Path, default=Path(".atp/benchmarks/streets"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = load_params()
    print(machine())
    for source in arguments.source:
        results = [
            run_rows(on_streets(params, seed, source), ROWS[source], arguments.runs / f"{source}-{seed}")
            for seed in arguments.seeds
        ]
        print_table(f"Streets, {source} source model, {len(arguments.seeds)} seeds", results)


if __name__ == "__main__":
    main()
