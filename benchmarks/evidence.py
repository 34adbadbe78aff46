"""Correlation of evidence without labels with mIoU, on good and deliberately broken runs.

    atp study evidence --seeds 0 && atp study evidence-camvid --seeds 0
    python benchmarks/evidence.py

Reads the studies' results and judges every model by the current rules of the verdict, so changing the rules needs no
training. Prints Markdown.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atp.evaluation.evidence.record import INDICATORS, Figures, Verdict
from atp.evaluation.evidence.verdict import judge

VERDICTS: tuple[Verdict, ...] = ("improved", "unclear", "collapsed")


@dataclass(frozen=True)
class Model:
    """One model of one run.

    Attributes:
        data, run: names of the data set and of the run.
        miou: mIoU on the test images, percent.
        gain: points over the source model of the same seed.
        source, after: indicators of the source model and of the model.
        verdict, why: verdict by the current rules, and its reason.
    """

    data: str
    run: str
    miou: float
    gain: float
    source: Figures
    after: Figures
    verdict: Verdict
    why: str

    @property
    def truth(self) -> Verdict:
        """The correct verdict."""
        return "improved" if self.gain > 1 else "collapsed" if self.gain < -3 else "unclear"


def read(path: Path) -> list[Model]:
    """The models of a study, without duplicates that several runs share."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    source = {value["seed"]: value["miou"] for value in rows[0]["values"]}
    found: dict[str, Model] = {}
    for row in rows[1:]:
        for value in row["values"]:
            measured: dict[str, Any] = value["evidence"]
            verdict, why = judge(measured["source"], measured["after"], len(value["iou"]))
            gain = value["miou"] - source[value["seed"]]
            found[value["experiment"]] = Model(
                path.stem, row["name"], value["miou"], gain, measured["source"], measured["after"], verdict, why
            )
    return list(found.values())


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, ties by mean rank; NaN if one argument is constant."""
    ranks = [_ranks(values) for values in (first, second)]
    return math.nan if min(r.std() for r in ranks) == 0 else float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Sequence[float]) -> Any:
    array = np.asarray(values)
    return np.array([(array < value).sum() + (array == value).sum() / 2 for value in array])


def print_models(models: Sequence[Model]) -> None:
    """Print mIoU, verdict and reason."""
    print("\n| data | run | mIoU | over source | without labels | verdict |\n|---|---|---|---|---|---|")
    for m in models:
        judged = f"{m.verdict}, {'right' if m.verdict == m.truth else 'wrong'}"
        print(f"| {m.data} | {m.run} | {m.miou:.1f} | {m.gain:+.1f} | {m.why} | {judged} |")


def print_correlations(groups: Mapping[str, Sequence[Model]]) -> None:
    """Print the correlation of each indicator with mIoU per data set, and of its change with the gain."""
    everything = [model for group in groups.values() for model in group]
    print(f"\n| indicator | {' | '.join(groups)} | change, all |\n|---|{'---|' * (len(groups) + 1)}")
    for name in (name for name in INDICATORS if all(name in m.after and name in m.source for m in everything)):
        within = [spearman([m.after[name] for m in group], [m.miou for m in group]) for group in groups.values()]
        change = spearman([m.after[name] - m.source[name] for m in everything], [m.gain for m in everything])
        print(f"| {name} | {' | '.join(f'{value:+.2f}' for value in (*within, change))} |")


def print_confusion(data: str, models: Sequence[Model]) -> None:
    """Print how often the verdict was right."""
    pairs = [(model.truth, model.verdict) for model in models]
    print(f"\n| {data}: true, down; said, right | {' | '.join(VERDICTS)} |\n|---|---|---|---|")
    for true in VERDICTS:
        print(f"| {true} | {' | '.join(str(pairs.count((true, said))) for said in VERDICTS)} |")
    print(f"\n{sum(true == said for true, said in pairs)} of {len(pairs)} right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = [Path(f"runs/studies/{name}.json") for name in ("evidence", "evidence-camvid")]
    parser.add_argument("studies", type=Path, nargs="*", default=studies, help="results of atp study")
    groups = {path.stem: read(path) for path in parser.parse_args().studies if path.exists()}
    if not groups:
        parser.error("nothing to read; run atp study evidence first")
    print_models([model for group in groups.values() for model in group])
    print_correlations(groups)
    for data, models in groups.items():
        print_confusion(data, models)


if __name__ == "__main__":
    main()
