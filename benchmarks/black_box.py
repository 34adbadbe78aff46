"""The shape of the paper's Table 4 on streets: a black box, its student, + teach, + propagate, beside the white box.

    python benchmarks/black_box.py [--seeds 0 1 2] [--runs .atp/benchmarks/streets] [--set distill.epochs=10]

The source models are those of ``streets_seeds.py``. Each is served by ``mlflow models serve``, in a process of its own;
the process that asks it, the stage ``query``, works in another folder and cannot open the model, the rows' results or
the source data. Every row's mIoU is kept by seed; white-box rows that ``streets_seeds.py`` has are taken from there.
"""

import argparse
import logging
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiment import Experiment, Row, machine, print_table, run_seeds, stages, with_changes
from ruamel.yaml import YAML
from serve import first_answer, png, question, served
from streets_seeds import STREETS, on_streets

from atp.black_box.answers import AnswerStore
from atp.data.settings import Augmentation
from atp.errors import InputError, exit_codes
from atp.evaluation.evaluate import evaluate_answers
from atp.files import digest
from atp.models.checkpoint import save_checkpoint
from atp.models.network import SegmentationNetwork
from atp.params import Params, load_params
from atp.registry.package import save_model
from atp.runner.process import close

logger = logging.getLogger(__name__)

DISTILL = ("distill",)
TEACH = (*DISTILL, "rounds", "dump", "teach")
PROPAGATE = (*TEACH, "split", "propagate")


@dataclass(frozen=True)
class Box:
    """A source model behind a server, and whoever asks it.

    Attributes:
        folder: of the server.
        client: folder of the process that asks, which can read nothing in ``closed``.
        experiment: of the black-box pipeline.
    """

    folder: Path
    client: Path
    closed: tuple[Path, ...]
    experiment: Experiment

    def answers(self, part: str) -> Path:
        return self.client / "runs/query" / part

    def ask(self, source: SegmentationNetwork) -> SegmentationNetwork:
        """Serve the model and run the stage ``query``; what was answered stays in the client's folder."""
        model = self.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        checkpoint = model / "model.safetensors"
        space = self.experiment.space
        config = self.experiment.params.model.model_copy(update={"num_classes": space.num_classes})
        save_checkpoint(checkpoint, source, config, space, {"stage": "source"})
        save_model(checkpoint, model / "mlflow")
        with served(str(model / "mlflow"), plain=True, log=self.folder / "serve.log") as (port, _, began):
            first_answer(port, question(png(32, 16)), began)
            self.query(port, digest(checkpoint))
        return source

    def query(self, port: int, version: str) -> None:
        """The client, a process that knows the address and the images."""
        changes = {"query.endpoint": f"http://127.0.0.1:{port}/invocations", "query.version": version}
        params = with_changes(self.experiment.params, changes)
        (self.client / "box").mkdir(parents=True, exist_ok=True)
        YAML().dump(params.model_dump(mode="json", by_alias=True, exclude_none=True), self.client / "params.yaml")
        command = [sys.executable, __file__, "--ask", *(str(path.resolve()) for path in self.closed)]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{self.client.resolve()}/mlflow.db"}
        subprocess.run(command, cwd=self.client, env=environment, check=True)

    def miou(self) -> float:
        """Of the answers about the test images, in percent."""
        predictions = self.folder / "predictions"
        result = evaluate_answers(AnswerStore(self.answers("test")), self.experiment.test, predictions)
        return 100 * result.confusion.mean_iou()


def ask(closed: list[Path]) -> None:
    """The stage ``query``, in a process that cannot open what is closed: tried out, file by file, before it begins."""
    close(closed, "the model is served, not read")
    files = [path for folder in closed for path in folder.rglob("*") if path.is_file()]
    for path in files:
        with suppress(PermissionError):
            path.open("rb").close()
            raise InputError(f"{path}: can be read by the process that asks; then this is no black box")
    logger.info("%s: %d files are closed to it, the model among them", Path.cwd(), len(files))
    sys.argv = ["query"]
    runpy.run_module("atp.stages.query", run_name="__main__")


def black_box_rows(black: Params, runs: Path, e: Experiment) -> dict[str, Row]:
    """White-box rows, then the black box and what is made of its answers, with photometric augmentation and without.

    Args:
        black: parameters of the black-box pipeline, for this seed.
        runs: folder of all seeds' results.
        e: of the white-box pipeline, for this seed.
    """
    white = stages(e)
    b = Experiment(black, e.runtime, e.cache, e.folder)
    seed = black.training.seed
    folder, client = runs / f"black-box-{seed}", runs.with_name(f"{runs.name}-clients") / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    box = Box(folder, client, (runs, STREETS / "source"), b)
    also = white["source"].key("source", e.params)
    rows = dict(white)
    rows["black box"] = Row(lambda made: box.ask(made["source"]), ("query",), black, also, box.miou)
    flip = {"augmentation": Augmentation(flip=True)}
    variants: Mapping[str, dict[str, Any]] = {"": {}, ", distilled without photometric augmentation": flip}
    for kind, changes in variants.items():
        key = "flip" if changes else "strong"
        student, taught = f"student{kind}", f"+ teach{kind}"
        rows[student] = Row(
            partial(lambda made, changes: b.distill(box.answers("target"), **changes), changes=changes),
            ("query", *DISTILL),
            black,
            also,
        )
        rows[taught] = Row(
            partial(lambda made, start, key: b.teach(made[start], made[start], key), start=student, key=f"b-{key}"),
            ("query", *TEACH),
            black,
            also,
        )
        rows[f"+ propagate{kind}"] = Row(
            partial(lambda made, start, key: b.propagate(made[start], made[start], key), start=taught, key=f"p-{key}"),
            ("query", *PROPAGATE),
            black,
            also,
        )
    return rows


def black_box_params(white: Params, seed: int) -> Params:
    """The parameters of the black-box pipeline on the same images, its box unknown as yet."""
    data = white.data
    space = data.label_space()
    classes = [{"name": name, "color": color} for name, color in zip(space.names, space.colors, strict=True)]
    changes: dict[str, Any] = {"data.source": {"root": "box"}, "data.classes": classes, "training.seed": seed}
    for part, entry in (("target", data.target), ("test", data.test)):
        folders = entry.model_dump().items()
        changes[f"data.{part}"] = {kind: str(path.resolve()) for kind, path in folders if path is not None}
    return load_params(Path("black_box/params.yaml"), changes)


def assigned(texts: list[str], params: Params) -> dict[str, Any]:
    """Changes by dotted names, those that are of sections that these parameters have."""
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: must be NAME=VALUE, as in distill.epochs=10")
        if getattr(params, name.split(".")[0], None) is not None:
            changes[name] = YAML(typ="safe", pure=True).load(value)
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path(".atp/benchmarks/streets"))
    parser.add_argument("--at-once", type=int, default=2, help="seeds computed at the same time")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of either pipeline"
    )
    parser.add_argument("--ask", type=Path, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with exit_codes():
        if arguments.ask:
            logging.basicConfig(level=logging.INFO, format="%(message)s")
            ask(arguments.ask)
            return
        print(machine())
        jobs = []
        for seed in arguments.seeds:
            white = on_streets(load_params(), seed, "plain")
            white = with_changes(white, assigned(arguments.set, white))
            black = black_box_params(white, seed)
            black = with_changes(black, assigned(arguments.set, black))
            rows = partial(black_box_rows, black, arguments.runs)
            jobs.append((white, rows, arguments.runs / f"plain-{seed}"))
        print_table(f"Streets, black box, {len(arguments.seeds)} seeds", run_seeds(jobs, arguments.at_once))


if __name__ == "__main__":
    main()
