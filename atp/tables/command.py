"""``atp table`` and ``atp figure``: plan, run, show."""

import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from atp.config import load_params
from atp.errors import InputError
from atp.files import atomic_path
from atp.project import project_root
from atp.selection.grid import Cell
from atp.selection.queue import enqueue, work
from atp.tables.cells import Plan, plan
from atp.tables.contents import contents
from atp.tables.definitions import Table
from atp.tables.output import bars, markdown, tree
from atp.tables.results import CELLS, collect, lines
from atp.training.progress import share_done

logger = logging.getLogger(__name__)

FOLDER = Path("runs/tables")


def parse_seeds(text: str) -> list[int]:
    """``0,1,2`` to numbers.

    Raises:
        InputError: it is none, or one stands twice.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {text}: must be whole numbers separated by commas, as in 0,1,2") from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"--seeds {text}: each seed once, none below 0")
    return seeds


def make(what: str, number: int, seeds: Sequence[int], jobs: int, *, run: bool) -> str:
    """Compute what is missing of a table or figure, and write and return it.

    Args:
        what: ``table`` or ``figure``.
        jobs: experiments at a time.
        run: False shows what there is.

    Raises:
        InputError: there is none of that number, or it cannot be made of these data and parameters.
    """
    if Path.cwd() != project_root():
        raise InputError(f"tables are made in the root of the project: cd {project_root()}")
    params = load_params()
    if params.data.test.labels is None:
        raise InputError("params.yaml: data.test.labels: null; a table needs the labels of the test images")
    table, heading = contents(what, number, params), f"{what.capitalize()} {number}"
    if table.kind == "pictures":
        seeds = seeds[:1]
    planned = plan((setting for row in table.rows for setting in row.settings), seeds)
    if run:
        compute(planned, labels(table, planned, seeds), jobs)
    found = lines(table, planned, collect(planned), seeds)
    name, text = f"{what}-{number}", markdown(heading, table, found, seeds)
    write(f"{name}.md", text.encode())
    write(f"{name}.json", (json.dumps(tree(heading, table, found, seeds), indent=2) + "\n").encode())
    write(f"{name}.png", bars(heading, table, found))
    return f"{text}\n{FOLDER}/{name}.md, .json, .png"


def write(name: str, content: bytes) -> None:
    with atomic_path(FOLDER / name) as path:
        path.write_bytes(content)


def labels(table: Table, planned: Plan, seeds: Sequence[int]) -> dict[str, str]:
    """What each experiment is in the words of the table."""
    return {
        planned.cell(setting, seed).name: f"{row.name}, seed {seed}"
        for row in reversed(table.rows)
        for setting in row.settings
        for seed in seeds
    }


def compute(planned: Plan, names: Mapping[str, str], jobs: int) -> None:
    """Run what is not finished, and say how far it is."""
    found = enqueue(planned.cells, CELLS)
    for name in found["failed"]:
        logger.info("%s (%s) failed before, and would again; dvc queue remove %s lets it", names[name], name, name)
    before = len(found["finished"])
    todo = len(planned.cells) - before - len(found["failed"])
    logger.info("%d cells: %d finished before, %d to compute", len(planned.cells), before, todo)
    if todo:
        logger.info("Ctrl-C ends the watching; dvc queue stop --kill ends the runs, and this command resumes them")
        watch = Watch(planned.cells, names, before + len(found["failed"]))
        failed = work(planned.cells, CELLS, jobs=jobs, every_s=5, told=watch.told, left=watch.left)
        for name in set(failed) - set(found["failed"]):
            logger.info("%s (%s): failed: %s", names[name], name, failed[name] or "dvc queue logs has the rest")


class Watch:
    """Sparse lines about the experiments of a table while they run."""

    def __init__(self, cells: Sequence[Cell], names: Mapping[str, str], ended: int, every_s: float = 60.0) -> None:
        self._total, self._names, self._every_s = len(cells), names, every_s
        self._left = {cell.name for cell in cells}
        self._ended, self._said, self._begin = ended, {}, time.monotonic()  # type: ignore[var-annotated]
        self._before = ended

    def told(self, name: str, line: str) -> None:
        """Stages as they begin, and how far they are once a minute."""
        now = time.monotonic()
        progress = share_done(line)
        stage = line.startswith("Running stage")
        if stage or (progress not in (None, 1.0) and now - self._said.get(name, 0.0) >= self._every_s):
            self._said[name] = now
            logger.info("%s: %s", self._names[name], line.rstrip(":"))

    def left(self, names: Collection[str]) -> None:
        """How many are done, whenever that changes."""
        ended = self._total - len(names)
        if ended != self._ended:
            self._ended = ended
            done, took = ended - self._before, time.monotonic() - self._begin
            logger.info(
                "%d of %d cells done, %.0f min, about %.0f min left",
                ended,
                self._total,
                took / 60,
                took / done * len(names) / 60,
            )
