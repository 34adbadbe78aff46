"""Stages called one after the other in one process, for tables over seeds; what is shared is computed once.

Uses the functions that the pipeline's stages use, on the same parameter file; only DVC, MLflow and the files between
the stages are left out.
"""

import copy
import json
import logging
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch
from torch import Tensor

from atp.black_box.answers import AnswerStore, StoredAnswers
from atp.data.folder import Sample, list_samples
from atp.data.labels import LabelSpace
from atp.data.loading import FolderLabels, ImageCache, Images, PairedImages, TrainingImages, mix_seed
from atp.data.settings import Augmentation
from atp.evaluation.evaluate import evaluate, label_accuracy
from atp.files import atomic_path
from atp.method.align import align
from atp.method.distill import distill
from atp.method.dump import dump
from atp.method.propagate import label_counts, propagate, rarity_weights
from atp.method.settings import DumpSettings, SourceSettings
from atp.method.source import train_source
from atp.method.split import split
from atp.method.teach import teach
from atp.models.network import SegmentationNetwork, build_network
from atp.params import Params, needed, replaced
from atp.pseudo_labels.store import PseudoLabelStore, StoredLabels
from atp.runner.parent import die_with_parent
from atp.training.prediction import reestimate_batchnorm
from atp.training.run import Run
from atp.training.runtime import Runtime, open_runtime

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def with_changes(params: Params, changes: Mapping[str, Any]) -> Params:
    """A copy of the parameters with dotted entries replaced, validated anew."""
    return Params.model_validate(replaced(params.model_dump(mode="json", by_alias=True), changes))


@dataclass
class Experiment:
    """One pair of domains, one seed.

    Attributes:
        params: as in params.yaml, with this experiment's seed.
        runtime: where.
    """

    params: Params
    runtime: Runtime
    cache: ImageCache = field(default_factory=lambda: ImageCache(4096))
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="atp-experiment-")))

    def __post_init__(self) -> None:
        data = self.params.data
        self.space: LabelSpace = data.label_space()
        self.target = list_samples(data.target.images, data.target.labels)
        self.test = list_samples(data.test.images, data.test.labels)
        self.accuracy: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def job(self, name: str) -> Run:
        return Run(name, mix_seed(self.params.training.seed, *name.encode()), self.runtime)

    def images(self, samples: list[Sample], section: Any, labels: Any = None) -> TrainingImages:
        data = self.params.data
        return TrainingImages(
            samples, section.augmentation, size=data.size, crop=data.crop, labels=labels, cache=self.cache
        )

    def miou(self, network: SegmentationNetwork) -> float:
        """On the test images, in percent."""
        result = evaluate(network, self.test, self.params.data.size, self.runtime, name="evaluate")
        return 100 * result.confusion.mean_iou()

    def supervised(
        self, samples: list[Sample], section: SourceSettings, name: str, start: SegmentationNetwork | None = None
    ) -> SegmentationNetwork:
        """A network trained with labels: the source model, or an oracle."""
        run = self.job(name)
        torch.manual_seed(run.seed)
        config = self.params.model.model_copy(update={"num_classes": self.space.num_classes})
        network = build_network(config) if start is None else copy.deepcopy(start)
        labels = FolderLabels(self.space.num_classes, self.params.data.size, self.cache)
        train_source(network, self.images(samples, section, labels), section, run)
        return network

    def source(self) -> SegmentationNetwork:
        data = self.params.data
        samples = list_samples(data.source.images, data.source.labels)
        return self.supervised(samples, needed(self.params.source, "source"), "source")

    def oracle(self, section: SourceSettings, start: SegmentationNetwork | None = None) -> SegmentationNetwork:
        """Trained on the target's labels, perhaps from a model: what all the adaptation could reach at best."""
        return self.supervised(self.target, section, "oracle", start)

    def batchnorm_only(self, source: SegmentationNetwork) -> SegmentationNetwork:
        network = copy.deepcopy(source)
        reestimate_batchnorm(network, self.target, self.params.data.size, self.runtime)
        return network

    def distill(self, answers: Path, **changes: Any) -> SegmentationNetwork:
        """A student of a black box's answers."""
        section = needed(self.params.distill, "distill").model_copy(update=changes)
        run = self.job("distill")
        torch.manual_seed(run.seed)
        network = build_network(self.params.model.model_copy(update={"num_classes": self.space.num_classes}))
        labels = StoredAnswers(AnswerStore(answers), soft=section.answers == "soft")
        distill(network, self.images(self.target, section, labels), section, run)
        return network

    def align(self, source: SegmentationNetwork, **changes: Any) -> SegmentationNetwork:
        section = needed(self.params.align, "align").model_copy(update=changes)
        network = copy.deepcopy(source)
        align(network, self.images(self.target, section), section, self.job("align"))
        return released(network)

    def dump(self, network: SegmentationNetwork, source: SegmentationNetwork, key: str, section: DumpSettings) -> Path:
        folder, pending = self.folder / key, self.folder / f"{key}.pending"
        shutil.rmtree(folder, ignore_errors=True)
        share = section.source_weight
        networks = [(network, 1 - share), *([(source, share)] if share else [])]
        dump(
            networks,
            Images(self.target, self.params.data.size),
            section,
            self.space,
            self.runtime,
            pending=pending,
            folder=folder,
            name=key,
        )
        self.accuracy[key] = label_accuracy(PseudoLabelStore(folder), self.target, self.params.data.size, self.space)
        return folder

    def teach(
        self, start: SegmentationNetwork, source: SegmentationNetwork, key: str, *, dump: Any = (), **changes: Any
    ) -> SegmentationNetwork:
        """All rounds of dump and teach."""
        section = self.params.teach.model_copy(update=changes)
        dumping = self.params.dump.model_copy(update=dict(dump))
        network = start
        for number in self.params.rounds:
            store = PseudoLabelStore(self.dump(network, source, f"{key}-{number}", dumping))
            labels = StoredLabels(store, negatives=section.negative > 0 and section.negatives == "dumped")
            student = copy.deepcopy(network)
            network, _ = teach(
                student,
                self.images(self.target, section, labels),
                section,
                dumping.negative_threshold,
                self.job(f"teach@{number}"),
            )
            network = released(network)
        return network

    def propagate(
        self, start: SegmentationNetwork, source: SegmentationNetwork, key: str, *, dump: Any = (), **changes: Any
    ) -> SegmentationNetwork:
        """Split and propagate."""
        section = self.params.propagate.model_copy(update=changes)
        dumping = self.params.dump.model_copy(update=dict(dump))
        store = PseudoLabelStore(self.dump(start, source, f"{key}-split", dumping))
        easy, hard = split({row["name"]: row["entropy"] for row in store.table["images"]}, self.params.split.easy_ratio)
        samples = {sample.name: sample for sample in self.target}
        pairs = PairedImages(
            self.images([samples[n] for n in easy], section, StoredLabels(store, negatives=section.negative > 0)),
            self.images([samples[n] for n in hard], section),
        )
        weights: Tensor | None = rarity_weights([label_counts(store, name) for name in easy], section.balance)
        network, _ = propagate(copy.deepcopy(start), pairs, section, self.job("propagate"), weights)
        return released(network)


def released(network: SegmentationNetwork) -> SegmentationNetwork:
    """The network with nothing frozen, as a stage finds it that loads it from a file."""
    network.unfreeze()
    return network.requires_grad_(True)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        make: makes the row's network from those of the rows before it.
        sections: of params.yaml, on which the result depends beside data, model and training.
        params: the row's own, if it is of another pipeline than the table.
        also: what else it depends on.
        miou: measures the row, in percent, if it is not the network that is to be measured.
    """

    make: Callable[[dict[str, SegmentationNetwork]], SegmentationNetwork]
    sections: tuple[str, ...]
    params: Params | None = None
    also: str = ""
    miou: Callable[[], float] | None = None

    def key(self, name: str, params: Params) -> str:
        """A digest of all that decides the result."""
        tree = (self.params or params).model_dump(mode="json", include={"data", "model", "training", *self.sections})
        parts = [name, tree, *([self.also] if self.also else [])]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


SOURCE = ("source",)
ALIGN = (*SOURCE, "align")
TEACH = (*ALIGN, "rounds", "dump", "teach")
PROPAGATE = (*TEACH, "split", "propagate")


def table_5(e: Experiment) -> dict[str, Row]:
    """The rows of the paper's Table 5 as we read it, and what brackets them."""
    flip = Augmentation(flip=True)
    align, teach = "(c) + weighted diversity = align", "(e) + negative labels = teach"
    return {
        "source": Row(lambda made: e.source(), SOURCE),
        "BatchNorm only": Row(lambda made: e.batchnorm_only(made["source"]), SOURCE),
        "(a) curriculum entropy": Row(lambda made: e.align(made["source"], diversity=0.0), ALIGN),
        "(b) + plain diversity": Row(lambda made: e.align(made["source"], weighted=False), ALIGN),
        align: Row(lambda made: e.align(made["source"]), ALIGN),
        "(d) + positive labels": Row(lambda made: e.teach(made[align], made["source"], "d", negative=0.0), TEACH),
        "(d) without photometric augmentation": Row(
            lambda made: e.teach(made[align], made["source"], "d-flip", negative=0.0, augmentation=flip), TEACH
        ),
        teach: Row(lambda made: e.teach(made[align], made["source"], "e"), TEACH),
        "(e) without photometric augmentation": Row(
            lambda made: e.teach(made[align], made["source"], "e-flip", augmentation=flip), TEACH
        ),
        "(f) + propagation = propagate": Row(lambda made: e.propagate(made[teach], made["source"], "f"), PROPAGATE),
        "(f) straight from align, without teach": Row(
            lambda made: e.propagate(made[align], made["source"], "f-direct"), (*ALIGN, "dump", "split", "propagate")
        ),
        # Twice as long as the source model, so that the closed share of the gap is not flattered.
        "oracle: trained on target labels, 20 epochs": Row(
            lambda made: e.oracle(needed(e.params.source, "source").model_copy(update={"epochs": 20})), SOURCE
        ),
    }


def stages(e: Experiment) -> dict[str, Row]:
    """The stages alone, and what brackets them."""
    names = ("source", "BatchNorm only", "(c)", "(e) + negative labels = teach", "(f)", "oracle")
    return {name: row for name, row in table_5(e).items() if name.startswith(names)}


Rows = Callable[[Experiment], dict[str, Row]]


def run_rows(params: Params, rows: Rows, folder: Path) -> dict[str, float]:
    """The mIoU of every row, in percent, for one seed; rows that ``folder`` has are read from there."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results: dict[str, float] = {}
    made: dict[str, SegmentationNetwork] = {}
    with open_runtime(params.training, params.runtime) as runtime:
        experiment = Experiment(params, runtime)
        for name, row in rows(experiment).items():
            path = folder / f"{row.key(name, params)}.pt"
            if path.exists():
                kept = torch.load(path, weights_only=True)
                network = build_network(
                    (row.params or params).model.model_copy(
                        update={"num_classes": experiment.space.num_classes, "weights": "none"}
                    )
                )
                network.load_state_dict(kept["network"])
                results[name], made[name] = kept["miou"], network
                continue
            begin = time.monotonic()
            made[name] = row.make(made)
            results[name] = row.miou() if row.miou else experiment.miou(made[name])
            with atomic_path(path) as temporary:
                torch.save({"miou": results[name], "network": made[name].state_dict()}, temporary)
            logger.info("%s %s: %.1f (%.0f s)", folder.name, name, results[name], time.monotonic() - begin)
        experiment.close()
    return results


def run_seeds(jobs: Sequence[tuple[Params, Rows, Path]], at_once: int) -> list[dict[str, float]]:
    """``run_rows`` for every job, some at once, each in a process of its own with its share of the cores.

    A light network does not fill two cores: two trainings side by side with a thread each take about two thirds of the
    time that they take one after the other with two.
    """
    return side_by_side(run_rows, jobs, at_once)


def side_by_side(
    function: Callable[..., Result], jobs: Sequence[tuple[Params, *tuple[Any, ...]]], at_once: int
) -> list[Result]:
    """``function`` of every job's arguments, see ``run_seeds``; the parameters get their share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // at_once)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, spawn, initializer=die_with_parent, max_tasks_per_child=1) as pool:
        waiting = [
            pool.submit(function, with_changes(params, {"runtime.threads": threads, "runtime.workers": 0}), *arguments)
            for params, *arguments in jobs
        ]
        return [job.result() for job in waiting]


def print_table(title: str, results: Sequence[Mapping[str, float]]) -> None:
    """One line a row as Markdown: mean, deviation, gain over source, share of the gap to the oracle that is closed."""
    rows = {name: [result[name] for result in results] for name in results[0]}
    source, oracle = mean(rows["source"]), mean(next(v for name, v in rows.items() if name.startswith("oracle")))
    print(f"\n{title}\n\n| | mIoU | deviation | over source | gap closed | seeds |\n|---|---|---|---|---|---|")
    for name, values in rows.items():
        deviation = f"{stdev(values):.1f}" if len(values) > 1 else ""
        share = 100 * (mean(values) - source) / (oracle - source)
        each = " ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {mean(values):.1f} | {deviation} | {mean(values) - source:+.1f} | {share:.0f} % | {each} |")


def machine() -> str:
    """What the figures were measured on."""
    with Path("/proc/cpuinfo").open() as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "CPU")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu}, {torch.get_num_threads()} threads"
    return f"{device}; Python {platform.python_version()}, PyTorch {torch.__version__}"
