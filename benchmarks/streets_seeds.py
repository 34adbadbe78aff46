"""The paper's ablation (rows a-f of its Table 5) on the embedded streets: mean and deviation over seeds.

    python benchmarks/streets_seeds.py [--seeds 0 1 2] [--robust]

Twice: with a source model trained as in params.yaml, and with a ROBUST one, trained under strong photometric
augmentation, which leaves adaptation less to gain. Networks are kept below ``.atp/benchmarks`` by seed and row, so that
an interrupted run continues. Prints Markdown.
"""

import argparse
import json
import logging
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import torch

from atp.config import Augmentation, Params, load_params
from atp.models.network import SegmentationNetwork
from atp.training.runtime import Runtime, open_runtime
from experiment import Experiment, with_changes

ROBUST = {"source.augmentation": {"flip": True, "jitter": 0.35, "blur": True}}
"""What makes a source model robust: strong colour jitter and blur while it is trained."""

STREETS = Path("assets/streets")


def streets(params: Params) -> Params:
    """The parameters on the data as committed, so that the benchmark needs no DVC."""
    return with_changes(
        params,
        {
            "data.root": str(STREETS),
            "data.source": {"root": str(STREETS / "source")},
            "data.target": {part: str(STREETS / "target" / part) for part in ("images", "labels")},
            "data.test": {part: str(STREETS / "test" / part) for part in ("images", "labels")},
            "data.classes": str(STREETS / "classes.yaml"),
        },
    )


def rows(experiment: Experiment) -> dict[str, Callable[[dict[str, SegmentationNetwork]], SegmentationNetwork]]:
    """Every row of the table as a function of the rows before it."""
    plain = Augmentation(flip=True)
    pixels_only = {"class_mix": False, "ema": None}

    def teach(
        start: str, key: str, **changes: object
    ) -> Callable[[dict[str, SegmentationNetwork]], SegmentationNetwork]:
        return lambda made: experiment.teach(made[start], made["source"], key, **changes)

    return {
        "source": lambda made: experiment.source(),
        "batchnorm_only": lambda made: experiment.batchnorm_only(made["source"]),
        "(a) curriculum entropy": lambda made: experiment.align(made["source"], diversity=0.0),
        "(b) + plain diversity": lambda made: experiment.align(made["source"], weighted=False),
        "(c) + weighted diversity = align": lambda made: experiment.align(made["source"]),
        "(d) + positive labels, no augmentation": teach(
            "(c) + weighted diversity = align", "d-plain", negative=0.0, augmentation=plain
        ),
        "(d) + positive labels": teach("(c) + weighted diversity = align", "d", negative=0.0),
        "(e) + negative labels, no augmentation": teach(
            "(c) + weighted diversity = align", "e-plain", augmentation=plain
        ),
        "(e) + negative labels = teach": teach("(c) + weighted diversity = align", "e"),
        "(f) + propagation = propagate": lambda made: experiment.propagate(
            made["(e) + negative labels = teach"], made["source"], "f"
        ),
        "oracle": lambda made: experiment.oracle(experiment.params.source),
    }
