"""Correlation of evidence without labels with mIoU, on good and deliberately broken runs.

    atp study evidence --seeds 0 && atp study evidence --testbed camvid-dusk --seeds 0
    python benchmarks/evidence.py

Reads the studies' results and judges every model by the current rules of the verdict, so changing the rules needs no
training. Also counts which models ``evidence.on_collapse: revert`` would take back. Other studies and tables can be
given as well; one without the source model's row needs another of the same source model beside it. Prints Markdown.
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
from atp.evaluation.evidence.verdict import judge, worse

VERDICTS: tuple[Verdict, ...] = ("improved", "unclear", "collapsed")


@dataclass(frozen=True)
class Model:
    """One model of one run.

    Attributes:
        data, run: names of the data set and of the run.
        miou: mIoU on the test images, percent.
        gain: points over the source model of the same seed.
        change: points over the model from which its stage started; None if that was not measured.
        source, after: indicators of the source model and of the model.
        verdict, why: verdict by the current rules, and its reason.
    """

    data: str
    run: str
    miou: float
    gain: float
    change: float | None
    source: Figures
    before: Figures
    after: Figures
    verdict: Verdict
    why: str

    @property
    def truth(self) -> Verdict:
        """The correct verdict."""
        return "improved" if self.gain > 1 else "collapsed" if self.gain < -3 else "unclear"

    @property
    def reverted(self) -> bool:
        """Whether its stage would hand on the model from which it started."""
        return self.verdict == "collapsed" or worse(self.before, self.after) != ""


def read(paths: Sequence[Path]) -> dict[str, list[Model]]:
    """The models of studies, by study, without duplicates that several runs share."""
    studies = {path.stem: _values(path) for path in paths}
    # A model's figures identify it: a stage records those of the model from which it started.
    judged = [value for values in studies.values() for _, value in values if value["evidence"] is not None]
    miou = {_key(value["evidence"]["after"]): value["miou"] for value in judged}
    for values in studies.values():
        source = {value["seed"]: value["miou"] for _, value in values if value["evidence"] is None}
        for _, value in values:
            if value["evidence"] is not None and value["seed"] in source:
                # In a black box, the first model is the student, which has figures of its own.
                miou.setdefault(_key(value["evidence"]["source"]), source[value["seed"]])
    seen: set[str] = set()
    found: dict[str, list[Model]] = {}
    for name, values in studies.items():
        for run, value in values:
            told, experiment = value["evidence"], value["experiment"]
            source_miou = miou.get(_key(told["source"])) if told is not None else None
            if experiment in seen or told is None or source_miou is None:
                continue
            seen.add(experiment)
            verdict, why = judge(told["source"], told["after"], len(value["iou"]))
            before = miou.get(_key(told["before"]))
            model = Model(
                name,
                run,
                value["miou"],
                value["miou"] - source_miou,
                None if before is None else value["miou"] - before,
                told["source"],
                told["before"],
                told["after"],
                verdict,
                why,
            )
            found.setdefault(name, []).append(model)
    return found


def _values(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return [(row["name"], value) for row in rows for value in row["values"]]


def _key(figures: Figures) -> tuple[float, ...]:
    return tuple(figures[name] for name in ("scale_iou", "flip_iou", "photometric_iou", "entropy", "density"))


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


def print_reverts(models: Sequence[Model]) -> None:
    """Print how many stages would be reverted, by how much their mIoU had changed."""
    known = [model for model in models if model.change is not None]
    print("\n| mIoU of a stage, over the model from which it started | stages | reverted |\n|---|---|---|")
    parts = (
        ("more than 1 point above", [model for model in known if (model.change or 0) > 1]),
        ("within 1 point", [model for model in known if abs(model.change or 0) <= 1]),
        ("1 to 3 points below", [model for model in known if -3 <= (model.change or 0) < -1]),
        ("more than 3 points below", [model for model in known if (model.change or 0) < -3]),
    )
    for text, group in parts:
        print(f"| {text} | {len(group)} | {sum(model.reverted for model in group)} |")
    for model in known:
        lost = (model.change or 0) < -1
        if model.reverted != lost:
            print(f"- {model.data}, {model.run}: {model.change:+.1f}, {'reverted' if model.reverted else 'kept'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = [Path(f"runs/studies/{name}.json") for name in ("evidence", "evidence-camvid-dusk")]
    parser.add_argument("studies", type=Path, nargs="*", default=studies, help="results of atp study")
    groups = read([path for path in parser.parse_args().studies if path.exists()])
    if not groups:
        parser.error("nothing to read; run atp study evidence first")
    print_models([model for group in groups.values() for model in group])
    print_correlations(groups)
    for data, models in groups.items():
        print_confusion(data, models)
    print_reverts([model for group in groups.values() for model in group])


if __name__ == "__main__":
    main()
